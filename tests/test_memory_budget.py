"""A memory budget: how it is told, what is counted, and what fits a card of 24 GB."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from measured_once import measured_once
from sd_families import FULL, FULL_VAE, RESOLUTION, build_networks
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from sdd_fast import memory_budget
from sdd_fast.checks import check_memory_budget
from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.objective import Learner, Objective
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.memory import selection_sizes, training_sizes
from sdd_fast.memory_budget import BudgetTooSmall
from sdd_fast.memory_counter import Cost, LiveBytes, bytes_of, measure, tensors_of
from sdd_fast.models import LevelsMapper, StyleGAN2
from sdd_fast.models.arcface import ArcFace
from sdd_fast.models.psp import PyramidEncoder
from sdd_fast.out_of_memory import Sizes
from sdd_fast.selection.evaluate import Evaluator, Statistics
from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.teacher.schedule import Schedule
from sdd_fast.teacher.text import PromptEmbeds
from sdd_fast.teacher.vae_encoder import VAEEncoder

CARD = 24e9
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ("22GiB", 22 * 2**30), ("22 GB", 22 * 10**9), ("24000mib", 24000 * 2**20),
        ("1.5 GiB", 3 * 2**29), ("1000000000", 10**9),
        (22_000_000_000, 22 * 10**9), (2e9, 2 * 10**9), ("1 TB", 10**12),
    ],
)  # fmt: skip
def test_how_a_budget_is_told(told: Any, size: int) -> None:
    assert check_memory_budget(told) == size


@pytest.mark.parametrize(
    "told",
    ["22 apples", "lots", "", "GiB", "0", "0GiB", "-3GiB", "nan", "inf", "1e3GB", "9" * 400, 0, -1,
     float("nan"), float("inf"), True, None, [1]],
)  # fmt: skip
def test_what_is_no_budget(told: Any) -> None:
    with pytest.raises(
        ValueError, match="memory_budget must be a positive, finite amount, such as 22GiB"
    ):
        check_memory_budget(told)


def test_a_number_without_a_unit() -> None:
    with pytest.raises(ValueError, match="memory_budget=22 is 22 bytes.* give a unit, as in 22GiB"):
        check_memory_budget(22)


def test_every_size_leads_down_to_one_row() -> None:
    sizes: Sizes | None = Sizes(24, 64, 3, possible=("generator", "encoder"))
    steps = []
    while sizes is not None:
        steps.append(sizes)
        sizes = sizes.smaller()
    for one, other in zip(steps, steps[1:], strict=False):
        assert other.images <= one.images and other.rows <= one.rows
        assert other.prompts <= one.prompts and len(other.again) >= len(one.again)
        assert one != other
    assert steps[-1] == Sizes(1, 1, 1, ("generator", "encoder"))
    # Pieces come before what is computed twice.
    assert [s.again for s in steps if s.images > 1 or s.prompts > 1 or s.rows > 4] == [()] * (
        len(steps) - 5
    )


# --- the counter --------------------------------------------------------------------------------


def allocated(run: Callable[[], Any]) -> int:
    """The most bytes beyond those at the beginning, by the allocator's own reports."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def both_ways(network: nn.Module, shape: tuple[int, ...]) -> tuple[Any, Any]:
    def forward() -> Any:
        x = torch.zeros(shape, requires_grad=True)
        return x, network(x)

    def backward(made: Any) -> None:
        torch.autograd.grad(made[1], made[0], torch.zeros_like(made[1]))

    return forward, backward


def test_the_counter_counts_what_the_allocator_gives() -> None:
    """Of a generator, with and without a graph."""
    torch.manual_seed(0)
    generator = StyleGAN2(128, channel_base=4096, channel_max=64).eval().requires_grad_(False)

    class Synthesis(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = generator

        def forward(self, w: Tensor) -> Tensor:
            return generator.synthesis(w)

    forward, backward = both_ways(Synthesis(), (2, generator.num_layers, 512))
    cost = measure([generator], CPU, forward, backward)
    real = allocated(lambda: backward(forward()))
    assert 0.9 * real <= cost.peak <= 1.1 * real
    assert 0.5 * cost.peak < cost.kept < cost.peak
    with torch.no_grad():
        cost, real = measure([generator], CPU, forward), allocated(forward)
    assert 0.8 * real <= cost.peak <= 1.1 * real


def test_networks_that_look_at_values_are_run() -> None:
    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.exp() if float(x.detach().sum()) == 0 else x

    cost = measure([Looks()], CPU, *both_ways(Looks(), (1, 1000)))
    assert cost.kept == 8000 and cost.peak >= 12000


def test_what_runs_out_of_memory_already_when_it_is_measured(
    tiny_prior: DiffusionPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one image with its whole graph, say: then what keeps less is taken."""
    encoder = memory_budget._encoder

    def tight(prior: Any, size: Any, again: bool, *args: Any) -> Cost:
        def fails() -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        return encoder(prior, size, again, *args) if again else measure([], CPU, fails)

    monkeypatch.setattr(memory_budget, "_encoder", tight)
    found = selection_sizes(tiny_prior, (32, 32), memory_budget="1GiB")
    assert found == Sizes(8, 64, 1, ("encoder",))
    monkeypatch.setattr(
        memory_budget, "_encoder", lambda prior, size, *_: tight(prior, size, False)
    )
    with pytest.raises(ValueError, match="the selection takes more than there is, 2 MB of it for"):
        selection_sizes(tiny_prior, (32, 32), memory_budget="1GiB")


# --- what fits ----------------------------------------------------------------------------------


def faked(*networks: Any) -> None:
    """Put tensors without contents in the place of weights; to be called in a `FakeTensorMode`."""
    for network in networks:
        for module in network.requires_grad_(False).eval().modules():
            for store in (module._parameters, module._buffers):
                for name, t in store.items():
                    if t is not None:
                        fake = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype)
                        store[name] = (
                            nn.Parameter(fake, False) if store is module._parameters else fake
                        )


class Full:
    """Full-size networks without contents: teacher, StyleGAN2 of 1024 pixels, e4e and ArcFace."""

    size = (1024, 1024)

    def __init__(self, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory_budget, "device_memory", lambda _: 1e15)
        measured_once(monkeypatch)
        monkeypatch.setattr("sdd_fast.teacher.vae_encoder.unknown_to_fast_encoder", lambda _: "")
        monkeypatch.setattr(Schedule, "timesteps_tensor", lambda _, t, batch: t.expand(batch))
        with torch.device("meta"):
            networks = build_networks(family, FULL[family], FULL_VAE)
            self.generator = StyleGAN2(1024)
            self.identity, self.encoder = ArcFace(), PyramidEncoder(18)
            self.mapper = LevelsMapper(18, 512)
        unet, vae = networks["unet"], networks["vae"]
        self.prior = prior = object.__new__(DiffusionPrior)
        parts = {"text_encoder_2": None, **networks}
        vars(prior).update(parts, device=CPU, dtype=torch.float32, compute_dtype=torch.float32)
        vars(prior).update(unet_calls=0, unet_rows=0, _time_ids={}, vae_scale_factor=8)
        prior.schedule, prior.latent_channels = Schedule(DDIMScheduler(), CPU, torch.float32), 4
        levels = len(unet.config.block_out_channels)
        prior.vae_encoder = VAEEncoder(
            vae, resolution=RESOLUTION[family], unet_levels=levels, device=CPU, dtype=torch.float32
        )
        self.fakes = FakeTensorMode(allow_non_fake_inputs=True)
        width, pooled = unet.config.cross_attention_dim, None
        with self.fakes:
            faked(*networks.values(), self.generator, self.identity, self.encoder, self.mapper)
            self.mapper.train().requires_grad_()
            if family == "XL":
                pooled = torch.empty(1, 1280)
            text = torch.empty(1, 77, width)
            self.embeds = PromptEmbeds(text, text, pooled=pooled, uncond_pooled=pooled)
        self.weights = [
            *tensors_of((*networks.values(), self.generator, self.identity, self.mapper))
        ]
        self.beside = bytes_of(tensors_of([self.encoder]))

    def training(self, batch_size: int, budget: float) -> tuple[Sizes, int]:
        """What is planned, and the most bytes of a whole step, weights too."""
        config = DistillConfig(batch_size=batch_size)
        with self.fakes:
            sizes = training_sizes(
                self.prior, self.generator, self.size, batch_size, memory_budget=budget,
                embeds=self.embeds, identity=self.identity, mappers=[self.mapper],
            )  # fmt: skip
            learner = Learner(self.mapper, self.embeds, torch.tensor([700]), GuidanceConfig())
            data = torch.empty(64, 18, 512)
            with LiveBytes(self.weights) as live:
                objective = Objective(
                    self.prior, self.generator, data, [learner], self.identity, config, sizes
                )
                for _ in objective.parts(100, [0]):
                    pass
        return sizes, live.peak + bytes_of(self.weights) + self.beside

    def selection(self, images: int, budget: float) -> tuple[Sizes, int]:
        with self.fakes:
            sizes = selection_sizes(
                self.prior, self.size, memory_budget=budget, embeds=self.embeds,
                generator=self.generator,
            )  # fmt: skip
            data = torch.empty(images, 18, 512)
            with LiveBytes(self.weights) as live:
                evaluator = Evaluator(
                    self.prior, data, self.generator, [self.embeds], [GuidanceConfig()],
                    [700, 800], Statistics(), sizes, lambda _: None,
                )  # fmt: skip
                batch = evaluator._encode(evaluator.batches()[0])
                evaluator._statistics(batch, evaluator._residuals(batch, [(0, 0), (0, 1)]))
        return sizes, live.peak + bytes_of(self.weights) + self.beside


@pytest.mark.parametrize(
    ("family", "steps"), [("1.x", [(4, CARD), (4, CARD / 2)]), ("XL", [(1, CARD)])]
)
def test_a_card_of_24_gb(
    family: str, steps: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole step of the objective and its backward pass, counted, is below what was planned."""
    full = Full(family, monkeypatch)
    for batch_size, budget in steps:
        sizes, peak = full.training(batch_size, budget)
        assert 0.4 * budget < peak < budget <= CARD
        assert bool(sizes.again) == (budget < CARD)
    sizes, peak = full.selection(2, CARD)
    assert peak < CARD and sizes.again == ()
    assert sizes.images == (8 if family == "1.x" else 1)


def test_a_budget_that_is_too_small_or_too_large(tiny_prior: DiffusionPrior) -> None:
    """It says how much is needed, which is then enough."""
    generator = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
    calls = tiny_prior.unet_calls
    for sizes in (
        lambda budget: selection_sizes(tiny_prior, (32, 32), memory_budget=budget),
        lambda budget: training_sizes(tiny_prior, generator, (32, 32), 4, memory_budget=budget),
    ):
        with pytest.raises(ValueError, match="memory_budget is 1MiB, but .* at least") as error:
            sizes("1MiB")
        least = re.search(r"takes (\d+ MB) at least, \d+ MB of it for", str(error.value))
        assert least is not None and sizes(least[1]).images >= 1
        with pytest.raises(ValueError, match="1,000,000,000,000,000 bytes, but the device cpu has"):
            sizes(1e15)
    assert tiny_prior.unet_calls == calls


def refused(prior: DiffusionPrior, **changes: Any) -> str:
    with pytest.raises(ValueError, match="at least") as error:
        training_sizes(prior, None, (32, 32), 4, memory_budget="1MiB", **changes)
    return str(error.value)


def test_sixteen_bits_are_advised_where_there_are_more(
    tiny_prior: DiffusionPrior, tiny_sd: Path
) -> None:
    assert "or a dtype of 16 bits" in refused(tiny_prior)
    half = DiffusionPrior.from_pretrained(tiny_sd, dtype="bfloat16")
    assert "16 bits" not in refused(half) and "give that much, or take" in refused(half)


def test_what_a_device_does_not_have_is_not_asked_for(
    tiny_prior: DiffusionPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_budget, "device_memory", lambda _: 3_999_999.0)
    told = refused(tiny_prior)
    assert "the device cpu has 3 MB altogether; take" in told and "give" not in told


def test_every_mapper_is_counted(tiny_prior: DiffusionPrior) -> None:
    """Weights, gradient, AdamW's two moments and a moving average of each, whatever its levels."""
    generator = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
    mappers = [LevelsMapper(18, 512), LevelsMapper(18, 512, ["coarse"])]

    def least(some: list[LevelsMapper]) -> float:
        with pytest.raises(BudgetTooSmall) as error:
            training_sizes(
                tiny_prior, generator, (32, 32), 4, 2, memory_budget="1MiB", mappers=some
            )
        return error.value.least

    weights = [4 * sum(t.numel() for t in mapper.state_dict().values()) for mapper in mappers]
    assert weights[0] > weights[1] > 0
    assert least(mappers) - least([]) == pytest.approx(5 * sum(weights) / 0.9, rel=1e-3)


def test_the_earlier_name(tiny_prior: DiffusionPrior) -> None:
    with pytest.warns(DeprecationWarning, match="memory_gb is now memory_budget"):
        assert selection_sizes(tiny_prior, (32, 32), memory_gb=1) == Sizes(8, 64)
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match="at least"):
        selection_sizes(tiny_prior, (32, 32), memory_gb=1e-5)
