from __future__ import annotations

import pytest
import torch
from irse_reference import random_state, trunk, trunk_shapes

from sdd_fast.models.irse import IRTrunk

UNITS, WIDTH = (1, 2, 1, 1), 16


def build(excitation: bool = True) -> tuple[IRTrunk, dict[str, torch.Tensor]]:
    state = random_state(trunk_shapes(UNITS, WIDTH, excitation))
    network = IRTrunk(UNITS, WIDTH, excitation)
    network.load_state_dict(state)
    return network, state


@pytest.mark.parametrize("excitation", [True, False])
def test_agrees_with_the_definition(excitation: bool) -> None:
    network, state = build(excitation)
    images = torch.rand(2, 3, 40, 33) * 2 - 1  # odd sizes are rounded up at each stage
    features = network.features(images)
    expected = trunk(state, images.double(), UNITS)
    assert [tuple(f.shape[2:]) for f in features] == [(20, 17), (10, 9), (5, 5), (3, 3)]
    for found, wanted in zip(features, expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-4)


def test_train_mode_makes_no_difference() -> None:
    """Neither the result nor the stored statistics."""
    network, state = build()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    expected = network.eval().features(images)[-1]
    found = network.train().features(images)[-1]
    assert torch.equal(found, expected)
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    network, _ = build()
    network.train().double()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    together, alone = network.features(images)[-1], network.features(images[:1])[-1]
    torch.testing.assert_close(together[:1], alone)


@pytest.mark.parametrize(
    ("units", "width", "excitation", "message"),
    [
        ((3, 4, 14), 64, True, r"four positive integers, got \[3, 4, 14\]"),
        ((3, 4, 0, 3), 64, True, r"four positive integers, got \[3, 4, 0, 3\]"),
        (UNITS, 8, True, "at least 16 with squeeze_excitation.*got 8"),
        (UNITS, 0, False, "width must be positive.*got 0"),
    ],
)
def test_bad_configurations(
    units: tuple[int, ...], width: int, excitation: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        IRTrunk(units, width, excitation)
