"""Draws are functions of their seeds alone, whatever other threads draw meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from sdd_fast import draws
from sdd_fast.models import ConvEmbedding, LevelsMapper
from sdd_fast.training.unet import new_unet
from sdd_fast.training.vae import new_vae

NETWORKS: list[Callable[[], nn.Module]] = [
    lambda: LevelsMapper(10, 8, zero_init=False),
    lambda: ConvEmbedding(8, 32, width=8),
    lambda: new_vae(32),
    lambda: new_unet(8, 16),
    lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Embedding(4, 4), nn.MultiheadAttention(8, 2)),
]


@pytest.fixture
def drawing_thread() -> Iterator[None]:
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            torch.randn(64)

    thread = threading.Thread(target=draw)
    thread.start()
    yield
    stop.set()
    thread.join()


def equal(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)


@pytest.mark.parametrize("network", NETWORKS)
def test_private_weights_are_those_of_the_global_seed_which_stays(
    network: Callable[[], nn.Module],
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        wanted = network()
        state = torch.get_rng_state()
        with draws.private(5):
            drawn = network()
        assert equal(drawn, wanted)
        assert torch.equal(torch.get_rng_state(), state)


def test_private_weights_beside_a_thread_that_draws(drawing_thread: None) -> None:
    def new() -> nn.Module:
        with draws.private(3):
            return LevelsMapper(10, 8, zero_init=False)

    first = new()
    assert all(equal(new(), first) for _ in range(100))


def test_private_draws_whatever_the_default_device_is() -> None:
    with torch.device("meta"), draws.private(1):
        assert nn.Linear(2, 2).weight.device.type == "cpu"


def test_streams_and_noise_are_fixed_and_unrelated() -> None:
    """The values of earlier versions: a run that is resumed later depends on them."""
    rng = draws.stream(7, "step 4")
    assert torch.randint(1000, (3,), generator=rng).tolist() == [236, 495, 152]
    mixed = np.random.SeedSequence([0, 1, 2]).generate_state(1, np.uint64)
    wanted = torch.randn(2, 3, generator=torch.Generator().manual_seed(int(mixed[0])))
    assert torch.equal(draws.noise((2, 3), 0, 1, 2), wanted)
    seen = [draws.noise((4,), seed, index) for seed in range(3) for index in range(3)]
    assert len({tuple(row.tolist()) for row in seen}) == 9


@pytest.mark.parametrize("seed", [-1, 2**64, 10**400, 1.0, True, "1"])
def test_seeds_that_are_none(seed: object) -> None:
    with pytest.raises(ValueError, match="from 0 to 2⁶⁴ − 1"):
        draws.generator(seed)  # type: ignore[arg-type]
