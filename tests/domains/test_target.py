from __future__ import annotations

import random

import pytest
import torch

from sdd_fast.domains.faces64.attributes import ATTRIBUTES, sample_attributes
from sdd_fast.domains.faces64.captions import caption
from sdd_fast.domains.faces64.edits import EDITS
from sdd_fast.domains.faces64.target import target_in, targets_in


def test_what_captions_say_is_read_off_them() -> None:
    """The captions' generator knows the labels: whatever is read must be true."""
    labels = sample_attributes(400, torch.Generator().manual_seed(0))
    rng = random.Random(0)
    read = dict.fromkeys(ATTRIBUTES, 0)
    for i in range(400):
        values = {name: ATTRIBUTES[name][int(labels[name][i])] for name in ATTRIBUTES}
        for name, found in targets_in(caption(values, rng)).items():
            assert values[name] in found
            read[name] += 1
    assert min(read.values()) > 20  # every attribute is found


@pytest.mark.parametrize("prompt", EDITS)
def test_the_measured_prompts(prompt: str) -> None:
    assert target_in(prompt) == EDITS[prompt]


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("a face with no glasses", ("glasses", ("no",))),
        ("A face with RED hair", ("hair_color", ("red",))),
        ("someone looking right", ("yaw", ("right",))),
        ("a face on a red background", None),  # no such background
        ("a zombie", None),
        ("a face with long white hair", None),  # two attributes
        ("an angry face with glasses", None),
    ],
)
def test_other_prompts(prompt: str, target: object) -> None:
    assert target_in(prompt) == target
