"""A step that is made piece by piece, because a budget says so or because memory ran out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from measured_once import measured_once
from torch import Tensor, nn

from sdd_fast.distillation import request
from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.distill import distill
from sdd_fast.distillation.objective import Learner, Objective
from sdd_fast.distillation.result import DistillResult
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.models import LevelsMapper, StyleGAN2, StyleSpaceMapper
from sdd_fast.out_of_memory import Sizes
from sdd_fast.teacher.prior import DiffusionPrior

BOTH = ("generator", "encoder")


@pytest.fixture(scope="module")
def w_plus() -> Tensor:
    return torch.randn(6, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def identity() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 8))


@pytest.mark.parametrize("styles", [False, True])
def test_pieces_are_the_same_mathematics(
    tiny_prior64: DiffusionPrior, w_plus: Tensor, identity: nn.Module, styles: bool
) -> None:
    """In float64, of two prompts with three images each: to 1e-9 of the gradient."""
    torch.manual_seed(3)
    network = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
    network = network.double().eval().requires_grad_(False)
    judge = identity.double()
    learners = [
        Learner(
            (StyleSpaceMapper(network.style_dims, zero_init=False) if styles else
             LevelsMapper(8, 8, ["coarse", "medium"], zero_init=False)).double(),
            tiny_prior64.encode_prompt(text), torch.tensor([150, 800]), GuidanceConfig(5.0 + i),
        )
        for i, text in enumerate(["white hair", "old"])
    ]  # fmt: skip
    config = DistillConfig(batch_size=3, steps=3, prior_timesteps=(20, 90))

    def gradients(sizes: Sizes) -> list[Tensor]:
        objective = Objective(
            tiny_prior64, network, w_plus.double(), learners, judge, config, sizes
        )
        for _ in objective.parts(2, [0, 1]):
            pass
        found = [p.grad for learner in learners for p in learner.mapper.parameters()]
        for learner in learners:
            learner.mapper.zero_grad()
        return [g for g in found if g is not None]

    whole = gradients(Sizes(6, 64, 2))
    for sizes in (
        Sizes(3, 64, 1), Sizes(2, 4, 2), Sizes(1, 2), Sizes(1, 1), Sizes(4, 64, 2, BOTH),
        Sizes(2, 4, 2, ("generator",)), Sizes(2, 8, 1, BOTH), Sizes(6, 64, 2, ("encoder",)),
    ):  # fmt: skip
        for one, other in zip(gradients(sizes), whole, strict=True):
            assert (one - other).norm() <= 1e-9 * other.norm(), sizes
    identity.float()


class Small:
    """Memory for so many images or rows at once: more, and it runs out, as on a GPU."""

    def __init__(self, most: int, from_call: int = 0) -> None:
        self.most, self.calls, self.from_call = most, 0, from_call

    def limit(self, function: Callable[..., Any], graph: bool) -> Callable[..., Any]:
        def call(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if x.requires_grad == graph and len(x) > self.most and self.calls > self.from_call:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return function(x, *args, **kwargs)

        return call


LIMITED = ("generator", "encoder", "U-Net")


def limit(
    monkeypatch: pytest.MonkeyPatch, prior: DiffusionPrior, generator: Any, what: str, small: Small
) -> None:
    owner, name = {
        "generator": (generator, "synthesis"),
        "encoder": (prior.vae_encoder, "encode"),
        "U-Net": (prior, "unet_output"),
    }[what]
    monkeypatch.setattr(owner, name, small.limit(getattr(owner, name), what != "U-Net"))


Run = Callable[..., DistillResult]


@pytest.fixture
def run(
    tiny_prior: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor, identity: nn.Module
) -> Run:
    def call(**settings: Any) -> DistillResult:
        config = DistillConfig(
            steps=4,
            batch_size=4,
            log_every=1,
            guidance=GuidanceConfig(7.5),
            prior_timesteps=(20, 90),
            generator_dtype="float32",
            **settings,
        )
        return distill(
            tiny_prior, generator, w_plus, "old", [150, 800], config=config, identity=identity,
            progress=False,
        )  # fmt: skip

    return call


def same(one: DistillResult, other: DistillResult) -> bool:
    pairs = zip(one.mapper.state_dict().values(), other.mapper.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("what", "most", "sizes"),
    [
        ("encoder", 1, Sizes(1, 8)),
        ("U-Net", 6, Sizes(4, 8)),
        ("generator", 2, Sizes(1, 4, 1, ("generator",))),
    ],
)
def test_where_memory_runs_out_the_step_is_made_in_smaller_pieces(
    run: Run, tiny_prior: DiffusionPrior, generator: StyleGAN2, monkeypatch: pytest.MonkeyPatch,
    what: str, most: int, sizes: Sizes,
) -> None:  # fmt: skip
    """From the same weights and draws: to the same bits as with these sizes from the beginning."""
    with monkeypatch.context() as patch:
        patch.setattr(request, "training_sizes", lambda *_, **__: sizes)
        wanted = run()
    limit(monkeypatch, tiny_prior, generator, what, Small(most))
    with pytest.warns(
        UserWarning, match="memory ran out in a step of the training with .* goes on"
    ):
        found = run()
    assert same(found, wanted)
    assert [entry["step"] for entry in found.history] == [1, 2, 3, 4]


def test_memory_that_runs_out_later(
    run: Run, tiny_prior: DiffusionPrior, generator: StyleGAN2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps before stay as they were, the others differ by rounding."""
    whole = run()
    limit(monkeypatch, tiny_prior, generator, "encoder", Small(2, from_call=2))
    with pytest.warns(UserWarning, match="it goes on with 2 images"):
        found = run()
    for one, other in zip(found.history, whole.history, strict=True):
        for name in ("residual", "gradient", "l2"):
            exact = one["step"] <= 2
            assert one[name] == pytest.approx(other[name], rel=0 if exact else 0.01, abs=0)


def test_it_ends_where_the_smallest_pieces_do_not_fit(
    run: Run, tiny_prior: DiffusionPrior, generator: StyleGAN2, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, tiny_prior, generator, "encoder", Small(0))
    with (
        pytest.warns(UserWarning),
        pytest.raises(MemoryError, match="not even with 1 image and 1 row of"),
    ):
        run()


def test_an_error_of_another_kind_is_no_reason_to_go_on(
    run: Run, generator: StyleGAN2, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(w: Tensor) -> Tensor:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(generator, "synthesis", fails)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run()


def test_a_budget(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that changes nothing, one that fits less, and one that fits nothing."""
    measured_once(monkeypatch)
    chosen: list[Sizes] = []
    choose = request.training_sizes

    def noted(*given: Any, **named: Any) -> Sizes:
        chosen.append(choose(*given, **named))
        return chosen[-1]

    monkeypatch.setattr(request, "training_sizes", noted)
    plain = run()
    assert same(run(memory_budget="3GiB"), plain)
    with pytest.raises(ValueError, match="the training takes .* MB at least") as error:
        run(memory_budget="1MiB")
    least = run(memory_budget=str(error.value).split("takes ")[1].split(" at least")[0])
    assert chosen[0] == chosen[1] and not chosen[0].again
    assert chosen[2].images < chosen[0].images and chosen[2].again
    assert not same(least, plain)  # by rounding, which smaller pieces change
    for one, other in zip(least.history, plain.history, strict=True):
        for name in ("residual", "gradient", "l2"):
            assert one[name] == pytest.approx(other[name], rel=0.01), name


def test_a_manipulator_of_images_is_counted_too(tiny_prior: DiffusionPrior) -> None:
    images = torch.zeros(4, 3, 32, 32)

    def least(channels: int) -> float:
        mapper = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1), nn.Tanh(), nn.Conv2d(channels, 3, 1)
        )
        config = DistillConfig(memory_budget="1MiB", batch_size=4)
        with pytest.raises(ValueError, match="the training takes") as error:
            distill(
                tiny_prior, None, images, "old", [500], mapper=mapper, config=config,
                progress=False,
            )  # fmt: skip
        return float(str(error.value).split("takes ")[1].split(" MB")[0]) * 1e6

    kept = 4 * 400 * 32 * 32 * 4  # of four images by the tanh
    assert kept < least(400) - least(4) < 4 * kept
