"""The renderer, its labels and its captions."""

from __future__ import annotations

import random
import re

import pytest
import torch

from sdd_fast.domains.faces64.attributes import ATTRIBUTES, sample_attributes, value_index
from sdd_fast.domains.faces64.captions import SOURCE_TEXT, captions
from sdd_fast.domains.faces64.edits import EDITS
from sdd_fast.domains.faces64.renderer import render, sample_faces


def faces(n: int = 8, seed: int = 0):
    return sample_faces(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_images_are_in_range_and_reproducible(resolution):
    images = render(faces(), resolution)
    assert images.shape == (8, 3, resolution, resolution)
    assert images.min() >= -1 and images.max() <= 1
    assert torch.equal(images, render(faces(), resolution))
    assert not torch.equal(images, render(faces(seed=1), resolution))


def test_lower_resolution_is_the_same_picture():
    large, small = render(faces(), 128), render(faces(), 64)
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    assert (shrunk - small).abs().mean() < 0.03  # anti-aliasing: shapes cover what they should


@pytest.mark.parametrize("attribute", list(ATTRIBUTES))
def test_every_value_of_an_attribute_changes_the_picture(attribute):
    start = faces().with_labels(hair_length="short", hair_color="black")
    pictures = [render(start.with_labels(**{attribute: v})) for v in ATTRIBUTES[attribute]]
    for i, a in enumerate(pictures):
        for b in pictures[i + 1 :]:
            changed = (a - b).abs().amax(1) > 0.1
            assert (changed.flatten(1).sum(1) > 20).all()  # at least 20 of 4096 pixels, every face


def test_an_expression_changes_only_the_face():
    start = faces().with_labels(expression="neutral", hair_length="short")
    difference = (render(start) - render(start.with_labels(expression="surprised"))).abs().amax(1)
    assert difference[:, :10].max() == 0  # nothing above the hair
    assert difference[:, :, :6].max() == 0


def test_the_same_person_keeps_geometry_and_skin():
    a = faces()
    b = a.same_person(torch.Generator().manual_seed(5))
    assert torch.equal(a.labels["skin"], b.labels["skin"])
    assert torch.equal(a.geometry["head_w"], b.geometry["head_w"])
    assert not torch.equal(a.geometry["dx"], b.geometry["dx"])


def test_unknown_attribute_names_what_exists():
    with pytest.raises(ValueError, match="known: pale, tan"):
        value_index("skin", "green")
    with pytest.raises(ValueError, match="unknown attribute 'tail'"):
        value_index("tail", "long")


def test_captions_never_contradict_the_labels():
    labels = sample_attributes(2000, torch.Generator().manual_seed(0))
    texts = captions(labels, random.Random(0))
    for i, text in enumerate(texts):
        words = text.replace(",", " ").split()
        row = {k: ATTRIBUTES[k][int(v[i])] for k, v in labels.items()}
        for color in ATTRIBUTES["hair_color"]:
            if f"{color} hair" in text:
                assert row["hair_color"] == color and row["hair_length"] != "bald"
        assert ("bald" in words) <= (row["hair_length"] == "bald")
        assert ("a beard" in text) <= (row["beard"] == "yes")
        assert ("shaved" in words) <= (row["beard"] == "no")
        assert ("no glasses" in text) <= (row["glasses"] == "no")
        assert (" glasses" in text and "no glasses" not in text) <= (row["glasses"] == "yes")
        assert ("side view" in text) <= (row["yaw"] != "front")
        assert ("angry" in words) <= (row["expression"] == "angry")
    assert sum(len(t.split()) <= 9 for t in texts) > 900  # half name one attribute at most
    assert any(t == SOURCE_TEXT for t in texts)


def test_captions_have_the_right_article():
    labels = sample_attributes(2000, torch.Generator().manual_seed(0))
    texts = captions(labels, random.Random(0))
    found = [pair for text in texts for pair in re.findall(r"\b(an?) (\w)", text)]
    assert {(article == "an", first in "aeiou") for article, first in found} == {
        (True, True),
        (False, False),
    }
    assert any("on an orange background" in text for text in texts)


def test_edit_prompts_use_words_and_values_that_exist():
    labels = sample_attributes(3000, torch.Generator().manual_seed(0))
    known = {w for t in captions(labels, random.Random(0)) for w in t.replace(",", " ").split()}
    for prompt, (attribute, values) in EDITS.items():
        assert set(prompt.replace(",", " ").split()) <= known
        assert set(values) <= set(ATTRIBUTES[attribute])
