"""What a domain with labels brings along: samples that nothing was trained on, and targets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_domain import RESOLUTION, write_tiny_domain

from sdd_fast.domains import load_domain
from sdd_fast.domains.faces64.attributes import ATTRIBUTES
from sdd_fast.domains.faces64.held_out import held_out_faces, pick


def test_shown_faces_lack_every_target_and_are_the_first_that_do() -> None:
    lacking = [("hair_color", ("white",)), ("yaw", ("left", "right"))]
    found = held_out_faces(9, lacking)
    assert len(found) == 9
    names = {key: [ATTRIBUTES[key][int(i)] for i in found.labels[key]] for key in ATTRIBUTES}
    assert "white" not in names["hair_color"] and "bald" not in names["hair_length"]
    assert set(names["yaw"]) == {"front"}
    fewer = held_out_faces(4, lacking)  # other draws of geometry, so compare with the same draw
    assert len(fewer) == 4
    again = held_out_faces(9, lacking)
    assert torch.equal(again.geometry["jaw"], found.geometry["jaw"])
    other = held_out_faces(9, lacking, seed=1)
    assert not torch.equal(other.geometry["jaw"], found.geometry["jaw"])
    assert torch.equal(pick(found, [4, 2]).labels["skin"], found.labels["skin"][[4, 2]])
    with pytest.raises(ValueError, match="only 0 of"):
        held_out_faces(2, [("glasses", ("no", "yes"))])


def test_domains_with_and_without_labels(tiny_sd: Path, tmp_path: Path) -> None:
    labeled = load_domain(write_tiny_domain(tmp_path / "a", tiny_sd))
    plain = load_domain(write_tiny_domain(tmp_path / "b", tiny_sd, faces=False))
    assert plain.reader is None and plain.nouns["image"] == "image"
    reader = labeled.reader
    assert reader is not None and labeled.nouns["image"] == "face"
    assert reader.target_in("a bald face") == ("hair_length", ("bald",))
    assert reader.target_in("a zombie") is None
    images = reader.sample_images(labeled, 3)
    assert images.shape == (3, 3, RESOLUTION, RESOLUTION)
    assert all(reader.target_in(prompt) for prompt in reader.DEMO_PROMPTS)
