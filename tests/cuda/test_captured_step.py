"""A training on a GPU whose steps are CUDA graphs."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdd_fast.models import StyleGAN2
from sdd_fast.progress import Progress

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from sdd_fast.distillation.config import DistillConfig  # noqa: E402
from sdd_fast.distillation.distill import DistillResult, distill  # noqa: E402
from sdd_fast.gradients.config import GuidanceConfig  # noqa: E402
from sdd_fast.teacher.prior import DiffusionPrior  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("ignore:the words? .* not in the vocabulary"),
]
STEPS, PROMPTS = 24, ["white hair", "bald"]
WATCHED = range(16, 20)
"""Steps in which nothing is logged, made eagerly or recorded: the teacher judges from the sixth."""


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


@pytest.fixture(scope="module")
def run(tiny_sd: Path) -> Callable[..., list[DistillResult]]:
    prior = DiffusionPrior.from_pretrained(tiny_sd, device="cuda")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
        identity = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 6))
        w_plus = torch.randn(5, 8, 8)
    generator, identity = generator.cuda(), identity.cuda()

    def call(cuda_graph: bool, **arguments: Any) -> list[DistillResult]:
        config = DistillConfig(
            steps=STEPS, batch_size=2, lr=0.5, log_every=STEPS, checkpoint_every=STEPS,
            guidance=GuidanceConfig(7.5), prior_timesteps=(20, 90), cuda_graph=cuda_graph,
        )  # fmt: skip
        return distill(
            prior, generator, w_plus, PROMPTS, [150, 800], levels=[["coarse"], ["medium"]],
            identity=copy.deepcopy(identity), config=config, **{"progress": False} | arguments,
        )  # fmt: skip

    return call


@pytest.fixture(autouse=True)
def _no_fall_back() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*CUDA graph.*")
        yield


def between(first: int, last: int, begin: Callable[[], Any], end: Callable[[], Any]) -> Any:
    """A listener that calls `begin` after step `first` and `end` after step `last`."""

    def listen(event: Progress) -> None:
        if event.done == first and not event.closed:
            begin()
        if event.done == last and not event.closed:
            end()

    return listen


def weights(results: list[DistillResult]) -> list[Tensor]:
    return [value for result in results for value in result.mapper.state_dict().values()]


def test_replayed_steps_are_the_same_to_the_bit(run: Callable[..., list[DistillResult]]) -> None:
    for one, other in zip(weights(run(True)), weights(run(False)), strict=True):
        assert torch.equal(one, other)


def test_the_host_waits_for_nothing(run: Callable[..., list[DistillResult]]) -> None:
    def mode(name: str) -> Callable[[], None]:
        return lambda: torch.cuda.set_sync_debug_mode(name)

    try:
        first, last = WATCHED.start, WATCHED.stop
        run(True, progress=between(first, last, mode("error"), mode("default")))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_is_one_launch_beside_the_optimizer(
    run: Callable[..., list[DistillResult]],
) -> None:
    def launches(cuda_graph: bool) -> Counter[str]:
        profiler = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        )
        first, last = WATCHED.start, WATCHED.stop
        run(cuda_graph, progress=between(first, last, profiler.start, profiler.stop))
        return Counter(
            "graph" if "GraphLaunch" in event.name else "kernel"
            for event in profiler.events() or ()
            if "LaunchKernel" in event.name or "GraphLaunch" in event.name
        )

    recorded, eager = launches(True), launches(False)
    assert (recorded["graph"], eager["graph"]) == (len(WATCHED), 0)
    assert recorded["kernel"] < eager["kernel"] / 4, (recorded, eager)
