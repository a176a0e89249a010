"""Training with the teacher's U-Net through torch.compile, by a backend that is quick."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.distill import DistillResult, distill
from sdd_fast.files import read_json
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.models import StyleGAN2
from sdd_fast.progress import Progress
from sdd_fast.teacher.compiled import check_compiler, compiled, in_use
from sdd_fast.teacher.prior import DiffusionPrior

STEPS, BACKEND = 8, "eager"


@pytest.fixture(scope="module", autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def w_plus() -> Tensor:
    return torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def run(
    tiny_prior: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor
) -> Callable[..., DistillResult]:
    def call(compile: bool | str = BACKEND, **arguments: Any) -> DistillResult:
        config = DistillConfig(
            steps=STEPS, batch_size=2, lr=0.5, log_every=2, checkpoint_every=3,
            guidance=GuidanceConfig(7.5), prior_weight=0, compile=compile,
        )  # fmt: skip
        given = {"config": config, "progress": False} | arguments
        return distill(tiny_prior, generator, w_plus, "white hair", [150, 800], **given)

    return call


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def stop_at(step: int) -> Callable[[Progress], None]:
    def listen(event: Progress) -> None:
        if event.done == step and not event.closed:
            raise KeyboardInterrupt

    return listen


def weights(result: DistillResult) -> dict[str, Tensor]:
    return result.mapper.state_dict()


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = ("seconds", "compile_seconds")
    return [{key: e[key] for key in e if key not in times} for e in history]


def test_compiled_once_and_as_good_as_plain(
    run: Callable[..., DistillResult],
    tiny_prior: DiffusionPrior,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is left on the U-Net, and a resumed training has the same bits."""
    clock = SimpleNamespace(perf_counter=count().__next__)  # a second passes whenever it is read
    monkeypatch.setattr("sdd_fast.teacher.compiled.time", clock)
    monkeypatch.setattr("sdd_fast.training_loop.time", clock)
    torch._dynamo.reset()
    check_compiler(BACKEND, torch.device("cpu"))
    before, unet, names = graphs(), tiny_prior.unet, set(vars(tiny_prior.unet))
    calls = tiny_prior.unet_calls
    whole = run(run_dir=tmp_path / "whole")
    assert graphs() - before == 1
    assert tiny_prior.unet_calls - calls == STEPS
    assert tiny_prior.unet is unet and set(vars(unet)) == names and in_use(unet) is unet
    plain = run(False)
    assert graphs() - before == 1
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(whole)[name], value, rtol=1e-3, atol=1e-3)

    told = [entry for entry in whole.history if "compile_seconds" in entry]
    assert [entry["step"] for entry in told] == [2]
    # Read before and after what compiles, before every other call, and at the end of every step.
    assert whole.compile_seconds == sum(entry["compile_seconds"] for entry in told) == 1
    assert whole.seconds == 2 * STEPS and plain.compile_seconds == 0
    assert read_json(tmp_path / "whole" / "config.json")["distill"]["compile"] == BACKEND

    # As in another process: compiled again, to the same bits; in the same one it is not.
    place = tmp_path / "stopped"
    torch._dynamo.reset()
    with pytest.raises(KeyboardInterrupt):
        run(run_dir=place, progress=stop_at(1))
    assert graphs() - before == 2
    resumed = run(run_dir=place)
    assert graphs() - before == 2
    assert [entry["step"] for entry in resumed.history if "compile_seconds" in entry] == [2]
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name
    assert without_times(resumed.history) == without_times(whole.history)


def test_a_run_is_resumed_as_it_was_compiled(
    run: Callable[..., DistillResult], tmp_path: Path
) -> None:
    for first, second in ((BACKEND, False), (False, BACKEND)):
        place = tmp_path / str(first)
        with pytest.raises(KeyboardInterrupt):
            run(first, run_dir=place, progress=stop_at(1))
        there, now = (repr(how) if how else "not set" for how in (first, second))
        with pytest.raises(ValueError, match=f"config.compile: {there} in the check.*, {now} now"):
            run(second, run_dir=place)
    assert DistillConfig(compile=True).compile == "inductor"


def test_what_cannot_compile_is_told_before_any_work(
    run: Callable[..., DistillResult], tiny_prior: DiffusionPrior, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from torch._inductor import cpp_builder

    def none(*_: Any) -> str:
        raise cpp_builder.exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    check_compiler.cache_clear()
    calls = tiny_prior.unet_calls
    for how, message in (
        (True, "'inductor'.*C\\+\\+ compiler.*without compile"),
        ("nonsense", "'nonsense'.*without compile"),
    ):
        with pytest.raises(ValueError, match=message):
            run(how, run_dir=tmp_path / "run", config=DistillConfig(steps=2, compile=how))
    assert tiny_prior.unet_calls == calls and not list((tmp_path / "run").glob("*.*"))
    for wrong in ("", None, 1):
        with pytest.raises(ValueError, match="compile must be"):
            DistillConfig(compile=wrong)  # type: ignore[arg-type]


def test_of_one_thread_alone_once_per_shape_and_kept_as_long_as_its_network() -> None:
    def use() -> weakref.ref[nn.Module]:
        network, x = nn.Linear(3, 3).requires_grad_(False), torch.ones(1, 3)
        seen: list[Any] = []
        with compiled(network, "eager") as made:
            thread = threading.Thread(target=lambda: seen.append(in_use(network)))
            thread.start()
            thread.join()
            assert torch.equal(in_use(network)(x), network(x))
            assert in_use(network) is made and seen == [network]
            assert made.take_seconds() > 0 and made.seconds == 0
        with compiled(network, "eager") as again:
            in_use(network)(x)
            assert again.seconds == 0
            graphs_before = graphs()
            for rows in (2, 3, 2, 1, 3):
                in_use(network)(torch.ones(rows, 3))
            assert graphs() - graphs_before == 2 and again.seconds > 0
        return weakref.ref(network)

    gone = use()
    gc.collect()
    assert gone() is None


def test_networks_do_not_use_up_each_others_compilations() -> None:
    """Torch gives up on a function after 8 compilations; each network is one of its own."""
    check_compiler("eager", torch.device("cpu"))
    x = torch.ones(1, 3)
    for width in range(1, 12):
        network = nn.Linear(3, width)
        with compiled(network, "eager") as made:
            in_use(network)(x)
            assert made.seconds > 0, width
