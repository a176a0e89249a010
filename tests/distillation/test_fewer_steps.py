"""An average of the weights, several batches in a step, and an end at a plateau."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdd_fast.distillation.config import DistillConfig, EarlyStop
from sdd_fast.distillation.distill import distill
from sdd_fast.distillation.objective import Learner, Objective
from sdd_fast.distillation.result import DistillResult
from sdd_fast.files import read_json
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.models import LevelsMapper, StyleGAN2
from sdd_fast.progress import Progress
from sdd_fast.teacher.prior import DiffusionPrior

pytestmark = pytest.mark.filterwarnings("ignore:the words? .* not in the vocabulary")


@pytest.fixture(scope="module")
def w_plus() -> Tensor:
    return torch.randn(6, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def run(
    tiny_prior: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor
) -> Callable[..., DistillResult]:
    def call(config: dict[str, Any], **arguments: Any) -> DistillResult:
        settings: dict[str, Any] = {
            "steps": 4, "batch_size": 2, "log_every": 1, "checkpoint_every": 2, "monitor_every": 2,
            "guidance": GuidanceConfig(7.5), "prior_timesteps": (20, 90), "range_weight": 0.0,
        }  # fmt: skip
        arguments = {"mapper": LevelsMapper(8, 8, ["coarse"]), "progress": False} | arguments
        return distill(
            tiny_prior, generator, w_plus, arguments.pop("prompt", "bald"), [150, 800],
            config=DistillConfig(**settings | config), **arguments,
        )  # fmt: skip

    return call


def weights(result: DistillResult) -> Tensor:
    return torch.cat([value.flatten() for value in result.mapper.state_dict().values()])


# --- average --------------------------------------------------------------------------------------


def test_the_average_is_measured_saved_and_returned(
    run: Callable[..., DistillResult], tmp_path: Path
) -> None:
    seen: list[Tensor] = []
    mapper = LevelsMapper(8, 8, ["coarse"])
    steps: list[Tensor] = [mapper.mlps["coarse"][-1].weight.detach().clone()]
    first = steps[0].clone()

    def watch(measured: nn.Module, lam: float) -> dict[str, Any]:
        seen.append(measured.mlps["coarse"][-1].weight.detach().clone())
        steps.append(mapper.mlps["coarse"][-1].weight.detach().clone())
        return {}

    config = {"ema": 0.5, "monitor_every": 1}
    result = run(config, mapper=mapper, monitor=watch, run_dir=tmp_path)
    average = first.double()
    for step, (got, live) in enumerate(zip(seen, steps[1:], strict=True)):
        decay = min(0.5, (1 + step) / (10 + step))  # a short memory at first
        average = decay * average + (1 - decay) * live.double()
        torch.testing.assert_close(got.double(), average, rtol=1e-5, atol=1e-6)
    assert not torch.equal(seen[-1], steps[-1])
    assert result.mapper is mapper
    assert torch.equal(mapper.mlps["coarse"][-1].weight, seen[-1])
    again = run(config, mapper=LevelsMapper(8, 8, ["coarse"]), monitor=watch, run_dir=tmp_path)
    assert torch.equal(weights(again), weights(result))


# --- accumulation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_gradients_of_a_step_are_the_mean_of_its_batches(
    tiny_prior64: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor, accumulate: int
) -> None:
    """Of as many as there are, one by default: those that no other step has."""
    assert DistillConfig().accumulate == 1
    network = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
    network.load_state_dict(generator.state_dict())
    network = network.double().eval().requires_grad_(False)
    mapper = LevelsMapper(8, 8, ["coarse"], zero_init=False).double()
    learner = Learner(
        mapper, tiny_prior64.encode_prompt("bald"), torch.tensor([150, 800]), GuidanceConfig(7.5)
    )

    def gradient(of: Callable[[Objective], Any]) -> Tensor:
        config = DistillConfig(
            batch_size=2, steps=9, accumulate=accumulate, prior_timesteps=(20, 90)
        )
        objective = Objective(tiny_prior64, network, w_plus.double(), [learner], None, config)
        mapper.zero_grad()
        of(objective)
        return torch.cat([p.grad.flatten() for p in mapper.parameters() if p.grad is not None])

    def whole(objective: Objective) -> None:
        assert len(list(objective.parts(1, [0]))) == accumulate

    got = gradient(whole)
    first, *others = [
        gradient(lambda o, b=batch: o.loss(b)[0].sum().backward())
        for batch in range(accumulate, 2 * accumulate)
    ]
    assert not any(torch.allclose(first, other, rtol=0.1) for other in others)
    torch.testing.assert_close(got, sum(others, first) / accumulate, rtol=1e-9, atol=1e-14)


# --- plateau --------------------------------------------------------------------------------------


def history(*values: float, every: int = 10) -> list[dict[str, Any]]:
    return [
        {"step": every * (i + 1), "direction": value, "residual": 1.0}
        for i, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ((0.1, 0.2, 0.3, 0.4), None),
        ((0.1, 0.2, 0.3, 0.304, 0.3049), 50),  # gains of 0.005 in two measurements are none
        ((0.1, 0.2, 0.3, 0.304, 0.3051), None),
        ((0.1, 0.3, 0.2, 0.31), None),  # the best of the last two counts
        ((0.3, 0.3, 0.3), None),  # before the minimum
        ((0.3, 0.3, 0.3, 0.3), 40),
        ((0.3, 0.2, float("nan"), float("nan")), 40),
        ((float("nan"),) * 3 + (0.1,), None),
    ],
)
def test_a_plateau(values: tuple[float, ...], want: int | None) -> None:
    rule = EarlyStop(min_steps=40, patience=2, min_gain=0.005)
    assert rule.plateau(history(*values)) == want


def test_the_learning_rate_falls_from_the_plateau_as_at_the_end_of_a_shorter_training() -> None:
    rule = EarlyStop(min_steps=40)
    config = DistillConfig(steps=300, lr=2.0, warmup=0.0, decay=0.2, stop_early=rule)
    end, why = config.stops(history(0.3, 0.3, 0.3, 0.3)) or (0, {})
    assert end == 50
    assert why["plateau"] == {
        "step": 40, "figure": "direction", "min_steps": 40, "patience": 2, "min_gain": 0.005
    }  # fmt: skip
    shorter = DistillConfig(steps=50, lr=2.0, warmup=0.0, decay=0.2)
    assert [config.lr_at(k, end) for k in range(50)] == [shorter.lr_at(k) for k in range(50)]
    assert config.stops(history(*[0.3] * 29)) is None  # it would end no earlier
    assert DistillConfig().stops(history(*[0.3] * 9)) is None


def test_a_training_ends_at_a_plateau_and_resumes_on_the_way_there(
    run: Callable[..., DistillResult], tmp_path: Path
) -> None:
    """One prompt of two has a plateau, the other none."""
    rule = EarlyStop("figure", min_steps=4, patience=1, min_gain=0.0)
    config = {"steps": 20, "decay": 0.5, "stop_early": rule}

    def monitors() -> list[Callable[..., dict[str, Any]]]:
        return [
            lambda mapper, lam: {"figure": 1.0},
            lambda mapper, lam: {"figure": float(mapper.mlps["coarse"][-1].weight.abs().sum())},
        ]

    def both(**arguments: Any) -> list[DistillResult]:
        torch.manual_seed(0)
        mappers = [LevelsMapper(8, 8, ["coarse"]) for _ in range(2)]
        prompts = ["bald", "old"]
        found: Any = run(config, prompt=prompts, mapper=mappers, monitor=monitors(), **arguments)
        return list(found)

    def stop(event: Progress) -> None:
        if event.done == 5 and not event.closed:
            os.kill(os.getpid(), signal.SIGINT)

    whole = both()
    flat, growing = whole
    assert [flat.history[-1]["step"], growing.history[-1]["step"]] == [8, 20]
    (told,) = [entry for entry in flat.history if "ends_at" in entry]
    assert (told["step"], told["ends_at"], told["plateau"]["figure"]) == (4, 8, "figure")
    rates = {entry["step"]: entry["lr"] for entry in flat.history}
    assert rates[4] == rates[5] > rates[6] > rates[8] > 0
    assert not any("ends_at" in entry for entry in growing.history)
    places = [tmp_path / "flat", tmp_path / "growing"]
    with pytest.raises(KeyboardInterrupt):
        both(run_dir=places, progress=stop)
    for one, other in zip(both(run_dir=places), whole, strict=True):
        assert torch.equal(weights(one), weights(other))
    again = both(run_dir=places, progress=lambda event: pytest.fail("finished runs train no more"))
    assert again[0].history == read_json(places[0] / "history.json")
    assert again[0].history[-1]["step"] == 8
    with pytest.raises(ValueError, match="monitor_every: 2 .*, 1 now"):
        run(config | {"monitor_every": 1}, mapper=LevelsMapper(8, 8, ["coarse"]),
            monitor=monitors()[0], run_dir=places[0])  # fmt: skip
    # Without the rule, which alone makes the steps of measurements matter, only that is named.
    with pytest.raises(ValueError, match=r"config\.stop_early: \{.*not set now") as error:
        run(config | {"stop_early": None}, mapper=LevelsMapper(8, 8, ["coarse"]),
            monitor=monitors()[0], run_dir=places[0])  # fmt: skip
    assert "monitor_every" not in str(error.value)


def test_a_figure_that_nobody_measures(run: Callable[..., DistillResult], w_plus: Tensor) -> None:
    config = {"stop_early": EarlyStop(min_steps=1)}
    for arguments in ({}, {"held_out": w_plus[:2]}):
        with pytest.raises(ValueError, match="stop_early watches 'direction', which is not meas"):
            run(config, **arguments)


@pytest.mark.parametrize(
    "wrong",
    [{"min_steps": 0}, {"patience": 1.5}, {"min_gain": -0.1}, {"min_gain": float("nan")}],
)
def test_an_early_stop_is_checked(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        EarlyStop(**wrong)


def test_an_early_stop_that_can_never_act_is_refused() -> None:
    DistillConfig(steps=101, stop_early=EarlyStop(min_steps=100))
    with pytest.raises(ValueError, match="from step 100 on, and there are only 100 steps"):
        DistillConfig(steps=100, stop_early=EarlyStop(min_steps=100))


@pytest.mark.parametrize("wrong", [{"ema": 1.0}, {"ema": -0.1}, {"accumulate": 0}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        DistillConfig(**wrong)
