"""Measuring edits: what counts, and what is left out."""

from __future__ import annotations

import math

import pytest
import torch

from sdd_fast.domains.faces64 import reader
from sdd_fast.domains.faces64.attributes import ATTRIBUTES, HEADS, value_index
from sdd_fast.domains.faces64.measure import (
    EditQuality,
    agreement,
    faces_without,
    measure_edit,
    psnr,
)
from sdd_fast.domains.faces64.renderer import render, sample_faces


def test_psnr_against_the_definition():
    a = torch.zeros(2, 3, 4, 4)
    b = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 2.0)])
    expected = [10 * math.log10(4 / 0.04), 0.0]
    assert psnr(a, b).tolist() == pytest.approx(expected, abs=1e-5)


def test_faces_without_the_target():
    people = faces_without("hair_color", ("white",), 40)
    assert len(people) == 40
    assert (people.labels["hair_color"] != value_index("hair_color", "white")).all()
    assert (people.labels["hair_length"] != value_index("hair_length", "bald")).all()
    side = faces_without("yaw", ("left", "right"), 10)
    assert (side.labels["yaw"] == 0).all()


def test_hair_color_of_the_bald_is_not_asked_for():
    drawn = sample_faces(50, torch.Generator().manual_seed(0)).labels
    seen = {k: v.clone() for k, v in drawn.items()}
    bald = drawn["hair_length"] == value_index("hair_length", "bald")
    seen["hair_color"][bald] = (seen["hair_color"][bald] + 1) % HEADS["hair_color"]
    assert all(share == 1.0 for share in agreement(seen, drawn).values())
    seen["beard"] = 1 - seen["beard"]
    assert agreement(seen, drawn)["beard"] == 0.0


class FakeDomain:
    """Encoder and generator pass pictures through; the classifier knows the truth by looking
    the picture up, and calls whatever it has not seen `edited`."""

    name, resolution, device, identity, reader = "fake", 32, "cpu", None, reader

    def __init__(self, people, edited):
        self.pictures, self.people, self.edited = render(people, 32), people, edited
        self.generator = self

    def encoder(self, images):
        return images.flatten(1)[:, None]

    def synthesis(self, w_plus):
        return w_plus[:, 0].reshape(-1, 3, 32, 32)

    def classifier(self, images):
        out = {}
        exact = "donot_use_mm_for_euclid_dist"
        distance = torch.cdist(images.flatten(1), self.pictures.flatten(1), compute_mode=exact)
        nearest = distance.argmin(1)
        known = distance.amin(1) < 1e-3
        for k in ATTRIBUTES:
            label = self.people.labels[k][nearest].clone()
            if k in self.edited:
                label[~known] = value_index(k, self.edited[k])
            out[k] = torch.nn.functional.one_hot(label, HEADS[k]).float()
        return out


class Shift(torch.nn.Module):
    def forward(self, w):
        return torch.full_like(w, 0.01)


def test_measure_edit_counts_target_and_others():
    people = faces_without("beard", ("yes",), 32)
    domain = FakeDomain(people, {"beard": "yes", "glasses": "yes"})
    done = measure_edit(domain, Shift(), 1.0, "a face with a beard", images=32)
    assert done.images == 32 and done.success == 1.0
    with_glasses = (people.labels["glasses"] == 1).double().mean().item()
    assert done.kept["glasses"] == pytest.approx(with_glasses)
    assert done.kept_worst[0] == "glasses" and done.kept["skin"] == 1.0
    assert "beard" not in done.kept

    nothing = measure_edit(domain, Shift(), 0.0, "a face with a beard", images=32)
    assert nothing.success == 0.0 and nothing.kept_mean == 1.0


def test_unknown_prompt_needs_a_target():
    domain = FakeDomain(faces_without("beard", ("yes",), 4), {})
    with pytest.raises(ValueError, match="give target="):
        measure_edit(domain, Shift(), 1.0, "a zombie")


def test_quality_summaries():
    quality = EditQuality("p", "beard", ("yes",), 10, 0.9, {"skin": 0.8, "yaw": 1.0}, 0.7)
    assert quality.kept_mean == pytest.approx(0.9)
    assert quality.kept_worst == ("skin", 0.8)
    assert quality.to_json()["kept_worst"] == ["skin", 0.8]
