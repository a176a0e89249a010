"""A step that is recorded once and replayed. What a GPU would record is recorded here as well.

A `Recording` is what a CUDA graph is: operations, and the tensors at fixed addresses that they read
and write. It refuses what a GPU's stream could not record either.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdd_fast import captured
from sdd_fast.captured import CapturedStep
from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.distill import DistillResult, distill
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.models import StyleGAN2, StyleSpaceMapper
from sdd_fast.progress import Progress
from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.teacher.schedule import Schedule

pytestmark = pytest.mark.filterwarnings("ignore:the words? .* not in the vocabulary")

STEPS, PROMPTS = 8, ["white hair", "bald", "old face"]
REFUSED = {
    "_local_scalar_dense", "nonzero", "equal", "masked_select",  # wait for their result
    "bernoulli", "normal", "normal_", "rand", "randn", "randint", "randperm", "uniform_",
}  # fmt: skip


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Recording(TorchDispatchMode):
    """Operations as they are computed; `replay` computes them again, into the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []
        # What other tests left may be tensors without memory, such as those of vmap, or fake ones.
        gc.collect()
        self.known = {storage(x) for x in gc.get_objects() if type(x) in (Tensor, nn.Parameter)}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in REFUSED:
            raise RuntimeError(f"operation not permitted while recording: {name}")
        for tensor in tensors((args, kwargs)):
            if tensor.numel() and storage(tensor) not in self.known:
                raise RuntimeError(f"operation not permitted: {name} reads what the host has made")
        found = func(*args, **kwargs)
        self.known |= {storage(tensor) for tensor in tensors(found)}
        self.operations.append((func, args, kwargs, tensors(found)))
        return found

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, results in self.operations:
                read = {storage(tensor) for tensor in tensors((args, kwargs))}
                again = tensors(func(*args, **kwargs))
                for there, new in zip(results, again, strict=True):
                    if storage(there) not in read:  # neither a view nor written in place
                        there.copy_(new)


recordings: list[Recording] = []


def record(
    step: Callable[[], dict[str, Tensor]], device: torch.device
) -> tuple[Callable[[], None], dict[str, Tensor]]:
    recording = Recording()
    with recording:
        measured = step()
    recordings.append(recording)
    return recording.replay, measured


@pytest.fixture(autouse=True)
def _without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    recordings.clear()
    monkeypatch.setattr(captured, "_EAGER", 1)
    monkeypatch.setattr(captured, "record", record)
    monkeypatch.setattr(captured, "beside", lambda device: nullcontext())
    monkeypatch.setattr("sdd_fast.distillation.request.check_graphs", lambda device: None)
    # The range of timesteps is looked at where they lie on the CPU alone.
    monkeypatch.setattr(Schedule, "timesteps_tensor", lambda _, t, n: torch.as_tensor(t).expand(n))
    yield
    recordings.clear()


@pytest.fixture(scope="module")
def w_plus() -> Tensor:
    return torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1))


class Identity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(48, 6, generator=torch.Generator().manual_seed(2)))

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = nn.functional.adaptive_avg_pool2d(images, 4).flatten(1) @ self.weight
        return pooled


class Asking(Identity):
    """An identity network of a user's that asks the host."""

    def forward(self, images: Tensor) -> Tensor:
        out = super().forward(images)
        return out * 2 if float(out.detach().abs().max()) < 1e-6 else out


@pytest.fixture(scope="module")
def run(tiny_prior: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor) -> Callable[..., Any]:
    def call(
        prompt: Any = PROMPTS[0], cuda_graph: bool = True, config: Any = None, **arguments: Any
    ) -> Any:
        settings = {
            "steps": STEPS, "batch_size": 2, "lr": 0.5, "log_every": 5, "checkpoint_every": 4,
            "guidance": GuidanceConfig(7.5), "prior_timesteps": (20, 90), "ema": 0.9,
            "cuda_graph": cuda_graph,
        } | (config or {})  # fmt: skip
        given = {"progress": False, "identity": Identity()} | arguments
        return distill(
            tiny_prior, generator, w_plus, prompt, [150, 800],
            config=DistillConfig(**settings), **given,
        )  # fmt: skip

    return call


def same(one: DistillResult, other: DistillResult) -> None:
    a, b = one.mapper.state_dict(), other.mapper.state_dict()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name
    for x, y in zip(one.history, other.history, strict=True):
        assert {**x, "seconds": 0} == {**y, "seconds": 0}


@pytest.mark.parametrize("kind", ["W+", "styles", "top-k, zero noise", "through the U-Net", "dds"])
def test_replayed_steps_are_the_same_to_the_bit(
    run: Callable[..., Any], generator: StyleGAN2, kind: str
) -> None:
    """Over all of a training: a number that was recorded with a step would be wrong in the next."""

    def mapper() -> nn.Module | None:
        torch.manual_seed(3)
        return StyleSpaceMapper(generator.style_dims) if kind == "styles" else None

    guidance = {
        "top-k, zero noise": GuidanceConfig(7.5, clip_topk=40, noise="zero"),
        "through the U-Net": GuidanceConfig(7.5, jacobian="full"),
    }
    config = {"guidance": guidance.get(kind, GuidanceConfig(7.5))}
    config |= {"gradient": "dds", "source_prompt": "old face"} if kind == "dds" else {}
    plain = run(cuda_graph=False, mapper=mapper(), config=config)
    assert not recordings
    same(run(mapper=mapper(), config=config), plain)
    assert len(recordings) == 2  # before the teacher judges, and after


def test_several_prompts_and_those_that_are_left(run: Callable[..., Any], tmp_path: Path) -> None:
    """Mappers of two kinds, one of them a few steps behind."""
    arguments: dict[str, Any] = {"levels": [["coarse"], ["coarse", "medium"], ["coarse"]]}
    plain = run(PROMPTS, cuda_graph=False, **arguments)
    for one, other in zip(run(PROMPTS, **arguments), plain, strict=True):
        same(one, other)
    assert len(recordings) == 2
    places = [tmp_path / str(i) for i in range(3)]
    with pytest.raises(KeyboardInterrupt):
        run(PROMPTS[:2], run_dir=places[:2], progress=stop_at(5), levels=arguments["levels"][:2])
    recordings.clear()
    run(PROMPTS, run_dir=places, **arguments)
    assert len(recordings) == 3  # the third alone, before and after the judge, then all


def stop_at(step: int) -> Callable[[Progress], None]:
    def listen(event: Progress) -> None:
        if event.done == step and not event.closed:
            raise KeyboardInterrupt

    return listen


def test_stopped_and_resumed_with_or_without_graphs(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    whole = run(cuda_graph=False)
    for first, second in ((True, True), (True, False), (False, True)):
        place = tmp_path / f"{first} {second}"
        with pytest.raises(KeyboardInterrupt):
            run(cuda_graph=first, run_dir=place, progress=stop_at(5))
        same(run(cuda_graph=second, run_dir=place), whole)


def test_what_cannot_be_recorded_is_made_as_ever_and_told_once(run: Callable[..., Any]) -> None:
    for config, identity, why in (
        ({}, Asking(), "not permitted while recording: _local_scalar_dense"),
        ({"accumulate": 2}, Identity(), "gradients are added up"),
    ):
        plain = run(cuda_graph=False, config=config, identity=identity)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            result = run(config=config, identity=identity)
        messages = [str(w.message) for w in told if "CUDA graph" in str(w.message)]
        assert len(messages) == 1 and why in messages[0], messages
        same(result, plain)
    assert not recordings


def test_calls_of_the_unet_are_counted_as_without_a_graph(
    run: Callable[..., Any], tiny_prior: DiffusionPrior
) -> None:
    """In steps that are replayed, for one prompt and several; and where recording fails."""

    def spent(cuda_graph: bool, **arguments: Any) -> tuple[int, int]:
        calls, rows = tiny_prior.unet_calls, tiny_prior.unet_rows
        run(cuda_graph=cuda_graph, **arguments)
        return tiny_prior.unet_calls - calls, tiny_prior.unet_rows - rows

    for prompts in (PROMPTS[0], PROMPTS[:2]):
        count = 1 if isinstance(prompts, str) else len(prompts)
        plain = spent(False, prompt=prompts)
        assert plain[0] == STEPS and plain[1] > STEPS * 2 * 2 * count
        assert spent(True, prompt=prompts) == plain
    assert len(recordings) == 4
    with pytest.warns(UserWarning, match="not permitted while recording"):
        assert spent(True, identity=Asking()) == spent(False, identity=Asking())


class One(NamedTuple):
    x: Tensor


def test_a_recording_notices_what_a_step_must_not_do() -> None:
    """The tests above can fail."""
    weight, x, calls = nn.Parameter(torch.ones(2)), torch.tensor([2.0, 3.0]), [1.0]

    def step(given: One) -> dict[str, Tensor]:
        (weight * given.x * calls[0]).sum().backward()
        return {"x": given.x * 1}

    made = CapturedStep(torch.device("cpu"))
    for scale in (1.0, 1.0, 1.0, 3.0):
        weight.grad, calls[0], x = None, scale, x + 1
        measured = made("kind", step, One(x), [weight])
        assert torch.equal(measured["x"], x)
        assert weight.grad is not None and torch.equal(weight.grad, x)  # not 3 x

    def from_host(given: One) -> dict[str, Tensor]:
        (weight * torch.tensor([1.0, calls[0]])).sum().backward()
        return {}

    made = CapturedStep(torch.device("cpu"))
    made("kind", from_host, One(x), [weight])
    with pytest.warns(UserWarning, match="reads what the host has made"):
        made("kind", from_host, One(x), [weight])


def test_without_a_gpu_it_is_refused_before_any_work(
    run: Callable[..., Any], tiny_prior: DiffusionPrior, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("sdd_fast.distillation.request.check_graphs", captured.check_graphs)
    calls = tiny_prior.unet_calls
    with pytest.raises(ValueError, match="needs a GPU, but the teacher is on cpu"):
        run(run_dir=tmp_path / "run")
    assert tiny_prior.unet_calls == calls and not list((tmp_path / "run").glob("*.*"))


def test_by_default_steps_are_recorded_on_a_gpu_unless_the_teacher_is_compiled() -> None:
    def made(device: str, wanted: bool | None, compiled: bool = False) -> CapturedStep | None:
        prior: Any = SimpleNamespace(device=torch.device(device))
        return captured.recorder(prior, wanted, compiled)

    assert made("cpu", None) is made("cuda", False) is made("cuda", None, True) is None
    default, asked = made("cuda", None), made("cuda", True, True)
    assert default is not None and not default.asked
    assert asked is not None and asked.asked


@pytest.mark.parametrize("asked", [True, False])
def test_what_nobody_asked_for_is_given_up_where_little_memory_is_left(
    asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured, "little_left", lambda device: True)
    weight = nn.Parameter(torch.ones(2))
    made = CapturedStep(torch.device("cpu"), asked=asked)

    def step(inputs: One) -> dict[str, Tensor]:
        (weight * inputs.x).sum().backward()
        return {"sum": weight.sum()}

    for number in range(4):
        weight.grad = None
        made("kind", step, One(torch.full((2,), float(number))), [weight])
        assert torch.equal(weight.grad, torch.full((2,), float(number)))  # type: ignore[arg-type]
    assert len(recordings) == 1 and bool(made._why_not) is not asked
