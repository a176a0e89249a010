"""Prompts that are trained together get what they get alone."""

from __future__ import annotations

import copy
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.distill import distill
from sdd_fast.distillation.monitor import EditMonitor
from sdd_fast.distillation.objective import Learner, Objective
from sdd_fast.distillation.result import DistillResult, PromptsFailed
from sdd_fast.distillation.stacked import stacked
from sdd_fast.files import read_json
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.models import LevelsMapper, StyleGAN2, StyleSpaceMapper
from sdd_fast.progress import Progress
from sdd_fast.run_folder import RunFolder
from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.training_state import StateFile

pytestmark = pytest.mark.filterwarnings("ignore:the words? .* not in the vocabulary")

PROMPTS, TIMESTEPS = ["white hair", "bald", "old face"], [[150, 800], [400], [150, 400, 800]]
STEPS = 5


@pytest.fixture(scope="module")
def w_plus() -> Tensor:
    return torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def identity() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 6))


@pytest.fixture(scope="module")
def run(
    tiny_prior: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor, identity: nn.Module
) -> Callable[..., Any]:
    def call(prompt: Any, timesteps: Any, scales: Any = None, **arguments: Any) -> Any:
        settings: dict[str, Any] = {
            "steps": STEPS, "batch_size": 2, "lr": 0.5, "log_every": 2, "checkpoint_every": 2,
            "monitor_every": 3, "prior_timesteps": (20, 90),
        }  # fmt: skip
        settings |= arguments.pop("config", {})
        configs = [
            DistillConfig(**settings, guidance=g and GuidanceConfig(g))
            for g in (scales if isinstance(scales, list) else [scales])
        ]
        given: dict[str, Any] = {"identity": identity, "held_out": w_plus[:2], "progress": False}
        return distill(
            tiny_prior, generator, w_plus, prompt, timesteps,
            config=configs if isinstance(scales, list) else configs[0], **given | arguments,
        )  # fmt: skip

    return call


def assert_close(one: DistillResult, other: DistillResult) -> None:
    """Equal up to rounding, which AdamW amplifies: where a gradient is almost 0, its sign decides.

    The sharp ones are `test_in_float64_the_gradients_are_the_same` and the test of plain descent.
    """
    a, b = one.mapper.state_dict(), other.mapper.state_dict()
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert (value - b[name]).norm() <= 0.1 * value.norm(), name
    assert [e["step"] for e in one.history] == [e["step"] for e in other.history]
    for x, y in zip(one.history, other.history, strict=True):
        assert x.keys() == y.keys()
        for name in ("lr", "residual", "gradient", "l2", "identity_loss", "range", "keep"):
            assert x[name] == pytest.approx(y[name], rel=0.01, abs=1e-6), name
    assert (one.info, one.config) == (other.info, other.config)


def test_each_of_several_prompts_gets_what_it_gets_alone(run: Callable[..., Any]) -> None:
    """With its own timesteps, and the guidance scale that is balanced for it."""
    levels = [["coarse"], None, ["coarse", "medium"]]  # of two kinds of mappers
    together = run(PROMPTS, TIMESTEPS, levels=levels)
    assert len({result.config.guidance.guidance_scale for result in together}) == 3
    for i, result in enumerate(together):
        assert_close(result, run(PROMPTS[i], TIMESTEPS[i], levels=levels[i]))
        assert result.history[-1]["latent_change"] > 0 and not result.mapper.training
    residuals = sorted(result.history[-1]["residual"] for result in together)
    assert residuals[1] > 1.05 * residuals[0] and residuals[2] > 1.05 * residuals[1]


def test_in_float64_the_gradients_are_the_same(
    tiny_prior64: DiffusionPrior, w_plus: Tensor, identity: nn.Module
) -> None:
    """For mappers of W+, of styles and of one's own; in one graph, and in one for each prompt."""
    torch.manual_seed(3)
    network = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
    network = network.double().eval().requires_grad_(False)

    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.randn(8, 8))

        def forward(self, w: Tensor) -> Tensor:
            return w * self.shift

    makers = [
        lambda i: LevelsMapper(8, 8, scale=torch.rand(8, 8) + 0.5, zero_init=False,
                               levels=["coarse"] if i == 1 else ["coarse", "medium"]),
        lambda i: StyleSpaceMapper(network.style_dims, zero_init=False),
        lambda i: Shift(),
    ]  # fmt: skip
    config = DistillConfig(batch_size=2, steps=3, prior_timesteps=(20, 90))
    for make in makers:
        learners = [
            Learner(
                make(i).double(), tiny_prior64.encode_prompt(text), torch.tensor(TIMESTEPS[i]),
                GuidanceConfig(5.0 + i),
            )
            for i, text in enumerate(PROMPTS)
        ]  # fmt: skip
        gradients = []
        for groups in ([[0, 1, 2]], [[0, 2], [1]], [[0], [1], [2]]):
            objective = Objective(
                tiny_prior64, network, w_plus.double(), learners, identity.double(), config
            )
            for group in groups:
                losses, _ = objective.loss(2, tuple(group))
                losses.sum().backward()
            found = [p.grad for learner in learners for p in learner.mapper.parameters()]
            gradients.append([g.clone() for g in found if g is not None])
            for learner in learners:
                learner.mapper.zero_grad()
        identity.float()
        for other in gradients[:2]:
            for a, b in zip(gradients[2], other, strict=True):
                assert b.abs().max() > 0
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-14)


def test_steps_of_plain_descent_in_float64_lead_to_the_same_weights(
    tiny_prior64: DiffusionPrior, w_plus: Tensor, identity: nn.Module
) -> None:
    """What AdamW makes of rounding left aside, together and alone are one: to 1e-9, for steps."""
    torch.manual_seed(3)
    network = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
    network = network.double().eval().requires_grad_(False)
    judge = copy.deepcopy(identity).double()
    begun = [LevelsMapper(8, 8, ["coarse"], zero_init=False).double() for _ in PROMPTS]
    embeds = [tiny_prior64.encode_prompt(text) for text in PROMPTS]
    config = DistillConfig(batch_size=2, steps=9, prior_timesteps=(20, 90))

    def descended(groups: list[list[int]]) -> list[Tensor]:
        learners = [
            Learner(copy.deepcopy(mapper), its, torch.tensor(steps), GuidanceConfig(5.0))
            for mapper, its, steps in zip(begun, embeds, TIMESTEPS, strict=True)
        ]
        parameters = [list(learner.mapper.parameters()) for learner in learners]
        descent = torch.optim.SGD([p for of_one in parameters for p in of_one], lr=0.1)
        objective = Objective(tiny_prior64, network, w_plus.double(), learners, judge, config)
        for step in range(4):
            for group in groups:
                objective.loss(step, tuple(group))[0].sum().backward()
            descent.step()
            descent.zero_grad()
        return [torch.cat([p.detach().flatten() for p in of_one]) for of_one in parameters]

    first = [torch.cat([p.detach().flatten() for p in mapper.parameters()]) for mapper in begun]
    together, alone = descended([[0, 1, 2]]), descended([[0], [1], [2]])
    for before, a, b in zip(first, together, alone, strict=True):
        assert (a - b).norm() <= 1e-9 * (b - before).norm()
        assert (b - before).norm() > 0


def test_the_networks_are_called_once_for_all(
    run: Callable[..., Any], tiny_prior: DiffusionPrior, generator: StyleGAN2,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rendered: list[int] = []
    synthesis = generator.synthesis

    def counted(w: Tensor) -> Tensor:
        rendered.append(len(w))
        return synthesis(w)

    monkeypatch.setattr(generator, "synthesis", counted)
    calls, rows = tiny_prior.unet_calls, tiny_prior.unet_rows
    config = {"prior_weight": 0.0, "generator_dtype": "float32"}
    run(PROMPTS, TIMESTEPS, [7.5, 5.0, 3.0], held_out=None, config=config)
    assert (tiny_prior.unet_calls - calls, tiny_prior.unet_rows - rows) == (STEPS, STEPS * 12)
    # 5 latents in batches of 2: three batches of unedited images, whatever the number of prompts.
    assert sorted(rendered) == [2] * 3 + [6] * STEPS


def test_of_one_the_stack_is_the_mapper() -> None:
    mapper, styles = LevelsMapper(8, 8, ["coarse"]), StyleSpaceMapper([4, 4])
    assert stacked([mapper]) is mapper
    with pytest.raises(ValueError, match="styles and of W"):
        stacked([mapper, styles])


def test_what_is_asked_for_several_prompts(
    run: Callable[..., Any], generator: StyleGAN2, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    for prompts, timesteps, arguments, message in (
        ([], [150], {}, "no prompts"),
        (["bald", "white hair", "bald"], [150], {}, "'bald' is given twice"),
        (["bald", "bald "], [150], {}, "differ in spaces only"),
        (["bald", " "], [150], {}, "prompt is empty"),
        (["bald", "white hair"], [[150]], {}, "timesteps must be a list .* each of the 2"),
        (["bald", "white hair"], [[150], []], {}, "selection is empty"),
        (["bald", "white hair"], [150], {"run_dir": place}, "run_dir must be a list"),
        (["bald", "white hair"], [150], {"run_dir": [place, place]}, "run_dir of its own"),
        (
            ["bald", "white hair"],
            [150],
            {"mapper": LevelsMapper(8, 8, ["coarse"])},
            "mapper must be a list",
        ),
        (["bald", "white hair"], [150], {"scales": [5.0]}, "config must be a list"),
        (["bald", "white hair"], [150], {"scales": [5.0, None]}, "differ in their guidance scale"),
    ):
        with pytest.raises(ValueError, match=message):
            run(prompts, timesteps, **arguments)
    assert not place.exists()


def test_monitors_that_change_places_are_refused(
    run: Callable[..., Any], generator: StyleGAN2, w_plus: Tensor
) -> None:
    """One whose prompt is in other words is not: a teacher and a CLIP may want different ones."""
    monitors = [
        EditMonitor(generator, w_plus[:2], prompt=text) for text in ("bald", "hair of white")
    ]
    with pytest.raises(ValueError, match="the monitor of 'old face' is that of 'bald'"):
        run(["old face", "bald"], [150], monitor=monitors)
    assert len(run(["bald", "white hair"], [150], [7.5, 5.0], monitor=monitors)) == 2


# --- files ----------------------------------------------------------------------------------------


def folders(parent: Path) -> list[Path]:
    return [parent / str(i) for i in range(len(PROMPTS))]


def step_of(folder: Path) -> int:
    return int(StateFile(folder / "checkpoint.safetensors", {}, STEPS, "").read()["step"])


def stop_at(step: int) -> Callable[[Progress], None]:
    def listen(event: Progress) -> None:
        if event.done == step and not event.closed:
            os.kill(os.getpid(), signal.SIGINT)

    return listen


def test_stopped_together_and_resumed_alone_and_the_other_way_round(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    places, scales = folders(tmp_path), [7.5, 5.0, 3.0]
    with pytest.raises(KeyboardInterrupt, match=r"after step 3 of 5 of 3 prompts.*step 3 is in"):
        run(PROMPTS, TIMESTEPS, scales, run_dir=places, progress=stop_at(3))
    assert [step_of(place) for place in places] == [3, 3, 3]
    with pytest.raises(KeyboardInterrupt, match="after step 4 of 5 of bald"):
        run("bald", [400], 5.0, run_dir=places[1], progress=stop_at(4))
    alone = run("white hair", TIMESTEPS[0], 7.5, run_dir=places[0])
    # The first is finished, the second one step ahead of the third.
    events: list[Progress] = []
    finished = (places[0] / "mapper.safetensors").read_bytes()
    together = run(PROMPTS, TIMESTEPS, scales, run_dir=places, progress=events.append)
    assert [event.done for event in events] == [3, 4, 5, 5]
    assert (places[0] / "mapper.safetensors").read_bytes() == finished
    assert_close(together[0], alone)
    for i, result in enumerate(together):
        assert_close(result, run(PROMPTS[i], TIMESTEPS[i], scales[i]))
        assert read_json(places[i] / "history.json") == result.history
        assert run(PROMPTS[i], TIMESTEPS[i], scales[i], run_dir=places[i]).history == result.history


def test_refused_for_all_prompts_at_once(run: Callable[..., Any], tmp_path: Path) -> None:
    places, settings = folders(tmp_path), {"steps": 2}
    run(PROMPTS, TIMESTEPS, [7.5, 5.0, 3.0], run_dir=places, config=settings)
    with pytest.raises(ValueError, match="with other settings") as error:
        run(PROMPTS, TIMESTEPS, [7.5, 5.5, 3.5], run_dir=places, config=settings)
    told = str(error.value)
    for i, (old, new) in {1: (5.0, 5.5), 2: (3.0, 3.5)}.items():
        assert f"{places[i]} holds" in told or f"{places[i]}/checkpoint" in told
        assert f"guidance_scale: {old} there, {new} now" in told or f"{old} in the" in told
    assert str(places[0]) not in told


def test_resumed_together_is_bit_for_bit_the_same(run: Callable[..., Any], tmp_path: Path) -> None:
    places, scales = folders(tmp_path), [7.5, 5.0, 3.0]
    with pytest.raises(KeyboardInterrupt):
        run(PROMPTS, TIMESTEPS, scales, run_dir=places, progress=stop_at(3))
    resumed = run(PROMPTS, TIMESTEPS, scales, run_dir=places)
    for one, other in zip(resumed, run(PROMPTS, TIMESTEPS, scales), strict=True):
        a, b = one.mapper.state_dict(), other.mapper.state_dict()
        assert all(torch.equal(a[name], b[name]) for name in a)


class Poison(nn.Module):
    """An identity network whose answer for the second of three prompts is NaN in one step."""

    def __init__(self, network: nn.Module, step: int) -> None:
        super().__init__()
        self.network, self.step, self.edited = network, step, 0

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.network(images)
        if len(images) != 6:
            return out
        self.edited += 1
        poison = torch.zeros(6, 1)
        poison[2:4] = float("nan") if self.edited == self.step else 0.0
        return out + poison


def test_a_prompt_that_fails_does_not_stop_the_others(
    run: Callable[..., Any], identity: nn.Module, tmp_path: Path
) -> None:
    places, scales = folders(tmp_path), [7.5, 5.0, 3.0]
    whole = run(PROMPTS, TIMESTEPS, scales)
    with pytest.raises(PromptsFailed, match=r"1 of 3 .*\n.*bald.*in step 4 of 5.*step 2") as error:
        run(PROMPTS, TIMESTEPS, scales, run_dir=places, identity=Poison(identity, 4))
    assert [result is None for result in error.value.results] == [False, True, False]
    assert [(place / "mapper.safetensors").exists() for place in places] == [True, False, True]
    assert step_of(places[1]) == 2
    for i in (0, 2):
        assert_close(error.value.results[i], whole[i])
    resumed = run(PROMPTS, TIMESTEPS, scales, run_dir=places, identity=Poison(identity, 0))
    for one, other in zip(resumed, whole, strict=True):
        assert_close(one, other)


def test_an_interrupt_tells_of_the_prompt_that_had_failed_before(
    run: Callable[..., Any], identity: nn.Module, tmp_path: Path
) -> None:
    """It promises no checkpoint that is not there, and says why the prompt failed."""
    places = folders(tmp_path)
    with pytest.raises(KeyboardInterrupt) as error:
        run(PROMPTS, TIMESTEPS, [7.5, 5.0, 3.0], run_dir=places, identity=Poison(identity, 1),
            config={"checkpoint_every": 1}, progress=stop_at(3))  # fmt: skip
    told, failed = str(error.value).split("; run the same again to resume. ")
    assert told.endswith(f"A checkpoint of step 3 is in {places[0]}, {places[2]}")
    assert "bald: a loss or gradient became NaN or infinite in step 1 of 5" in failed
    assert "No checkpoint had been written" in failed
    assert [step_of(place) for place in (places[0], places[2])] == [3, 3]
    assert not (places[1] / "checkpoint.safetensors").exists()


class Trouble(LevelsMapper):
    """A mapper that raises an error the `at`-th time it is asked for a change in a training."""

    def __init__(self, error: Exception, at: int) -> None:
        super().__init__(8, 8, ["coarse"])
        self.error, self.at, self.asked = error, at, 0

    def forward(self, w_plus: Tensor, levels: list[str] | None = None) -> Tensor:
        self.asked += torch.is_grad_enabled()
        if self.asked >= self.at:
            raise self.error
        return super().forward(w_plus, levels)


def own_mappers(*trouble: Any) -> list[nn.Module]:
    torch.manual_seed(3)
    return [LevelsMapper(8, 8, ["coarse"]), Trouble(*trouble), LevelsMapper(8, 8, ["coarse"])]


@pytest.mark.parametrize("fault", ["mapper", "monitor", "folder", "last file"])
def test_an_error_of_one_prompt_does_not_stop_the_others(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Its own mapper, monitor or folder; what was saved of it can be resumed."""
    places, scales = folders(tmp_path), [7.5, 5.0, 3.0]
    arguments: dict[str, Any] = {"held_out": None, "run_dir": places}

    def given(broken: str) -> dict[str, Any]:
        asked = []

        def monitor(mapper: nn.Module, lam: float) -> dict[str, Any]:
            asked.append(lam)
            if broken == "monitor" and len(asked) == 2:
                raise KeyError("a bug of the monitor")
            return {"figure": 1.0}

        at = 4 if broken == "mapper" else 1000
        mappers = own_mappers(RuntimeError("a bug of the mapper"), at)
        return arguments | {"mapper": mappers, "monitor": [lambda m, lam: {}, monitor, None]}

    whole = run(PROMPTS, TIMESTEPS, scales, **given("") | {"run_dir": None})
    message = {
        "mapper": r"an error \(RuntimeError: a bug of the mapper; .* in step 4 of 5.*after step 2",
        "monitor": r"its monitor failed \(KeyError: 'a bug of the monitor'.* in step 5 .*step 4",
        "folder": r"could not be saved \(OSError: .*No space left.*in step 4 of 5.*after step 2",
        "last file": r"mapper could not be written, .*No space left",
    }[fault]
    with monkeypatch.context() as patch:
        if fault in ("folder", "last file"):
            refuse(patch, places[1], fault)
        with pytest.raises(PromptsFailed, match=r"1 of 3 .*\n.*bald.*" + message) as error:
            run(PROMPTS, TIMESTEPS, scales, **given(fault))
    assert [result is None for result in error.value.results] == [False, True, False]
    assert [(place / "mapper.safetensors").exists() for place in places] == [True, False, True]
    resumed = run(PROMPTS, TIMESTEPS, scales, **given(""))
    for i, one in enumerate(resumed):
        a, b = one.mapper.state_dict(), whole[i].mapper.state_dict()
        for name, value in a.items():
            assert (value - b[name]).norm() <= 0.1 * value.norm() + 1e-6, name
        assert one.history[-1]["step"] == STEPS


def refuse(patch: pytest.MonkeyPatch, place: Path, fault: str) -> None:
    """Let the disk be full for a folder: from the second state on, or for its mapper."""
    save, finish, saved = RunFolder.save, RunFolder.finish, []

    def full(self: RunFolder, *arguments: Any, **named: Any) -> None:
        if self.path == place:
            saved.append(self)
            if fault == "last file" or len(saved) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
        (finish if fault == "last file" else save)(self, *arguments, **named)

    patch.setattr(RunFolder, "finish" if fault == "last file" else "save", full)


def test_an_error_of_all_and_lack_of_memory_are_raised_as_they_are(
    run: Callable[..., Any], identity: nn.Module, tmp_path: Path
) -> None:
    asked: list[int] = []

    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if images.requires_grad:
                asked.append(len(images))
                if len(asked) > 3:
                    raise LookupError("a bug of the identity network")
            return identity(images)

    places = folders(tmp_path)
    with pytest.raises(LookupError, match="a bug of the identity network"):
        run(PROMPTS, TIMESTEPS, [7.5, 5.0, 3.0], identity=Broken(), run_dir=places)
    # Three steps of all; the fourth together, and then of each alone, which fails for all of them.
    assert asked == [6] * 4 + [2] * 3
    assert [step_of(place) for place in places] == [2, 2, 2]
    assert not any((place / "mapper.safetensors").exists() for place in places)
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no more")):
        mapper = own_mappers(error, 3)
        with pytest.warns(UserWarning, match="it goes on with"), pytest.raises(MemoryError) as all_:
            run(PROMPTS, TIMESTEPS, [7.5, 5.0, 3.0], mapper=mapper, held_out=None)
        # Tried again in smaller pieces, and blamed on no prompt.
        assert all_.value.__cause__ is error and mapper[1].asked > 3


def test_prompts_that_do_not_fit_in_one_graph(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(PROMPTS, TIMESTEPS, [7.5, 5.0, 3.0])
    monkeypatch.setattr("sdd_fast.memory.prompts_at_once", lambda *_: 2)
    monkeypatch.setattr("sdd_fast.memory.rows_at_once", lambda *_: 9)
    for one, other in zip(run(PROMPTS, TIMESTEPS, [7.5, 5.0, 3.0]), whole, strict=True):
        assert_close(one, other)
