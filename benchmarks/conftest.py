"""The `compare` fixture: several ways to compute the same thing, timed in turns, in one run.

Machines drift; medians of interleaved rounds of one run can be divided by each other, figures of
different runs cannot. With one thread the clock is the CPU time of the process, which other work
on the machine does not stretch; with more it is wall time; with --device cuda, see gpu_clock.py.
Every suite names its rows, CASES for the CPU and GPU_CASES. Results go to
benchmarks/results/<device>/<suite>.json, from which tables.py makes docs/benchmarks.md; those of a
part of a suite do not replace those of the whole.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_clock import GpuClock, roofline
from torch import Tensor

from sdd_fast._build_info import build_info

HERE = Path(__file__).resolve().parent
# What torch.compile made, for later runs; `make clean` removes it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(HERE.parent / "build" / "inductor"))

SECONDS_PER_CASE = 1.2
ROUNDS = (7, 60)  # at least, at most
SECONDS_PER_TIME = 1e-3  # the clock is too coarse for less: a time then is that of several calls
SMALL = 1 << 17  # bytes: below it calling a bare pass takes longer than the pass
_results: dict[str, list[dict[str, Any]]] = {}
_described: dict[str, Any] = {}  # of the GPU, if it is one

Side = Callable[..., Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=("cpu", "cuda", "emulated"), default="cpu",
        help="emulated: the rows of cuda at tiny sizes on the CPU, to try the suite",
    )  # fmt: skip
    parser.addoption("--compiled", action="store_true", help="torch.compile on a GPU too: slow")
    parser.addoption("--results", type=Path, default=HERE / "results", help="where to write")


def smaller(case: Any) -> Any:
    """A row for a dry run: the same, with no size beyond 13."""
    if isinstance(case, tuple):
        return tuple(smaller(part) for part in case)
    return 12 + case % 2 if isinstance(case, int) and case > 13 else case


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        device = metafunc.config.getoption("--device")
        cases = metafunc.module.CASES if device == "cpu" else metafunc.module.GPU_CASES
        cases = [smaller(case) for case in cases] if device == "emulated" else cases
        metafunc.parametrize("case", cases, ids=str)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Where the inputs of a suite belong."""
    return "cuda" if request.config.getoption("--device") == "cuda" else "cpu"


@pytest.fixture(scope="session")
def gpu_clock(request: pytest.FixtureRequest, device: str) -> GpuClock | None:
    if request.config.getoption("--device") == "cpu":
        if not build_info()["native"]:
            missing = build_info()["native_missing"]
            pytest.exit(f"no native kernels to measure: {missing}", returncode=2)
        return None
    if device == "cuda" and not torch.cuda.is_available():
        pytest.exit("--device cuda: this torch sees no GPU", returncode=2)
    clock = GpuClock(device)
    _described.update(clock.describe())
    return clock


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        match = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def device_name() -> str:
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def with_gradients(side: Side, arguments: tuple[Any, ...]) -> Side:
    """The side and the gradients of what asks for them among `arguments`, if anything does."""
    leaves = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
    if not leaves:
        return side
    cotangent = torch.randn_like(side(*arguments))

    def both(*given: Any) -> object:
        wanted = [a for a in given if isinstance(a, Tensor) and a.requires_grad]
        return torch.autograd.grad(side(*given), wanted, cotangent)

    return both


def bare_pass(read: int, written: int) -> tuple[Side, tuple[Tensor, Tensor]]:
    """A function, and what it is given, that does no more than to read and write as many bytes:
    it copies into fresh memory, then sums what is left to read or fills what is left to write."""
    copied = min(read, written) // 4
    more = (max(read, written) - min(read, written)) // 4
    arguments = torch.rand(copied), torch.rand(more if read > written else 0)

    def function(copied: Tensor, summed: Tensor) -> object:
        copy = copied.clone() if len(copied) else None
        return copy, summed.sum() if read > written else summed.new_full((more,), 1.0)

    return function, arguments


def check_agreement(name: str, actual: object, expected: object) -> None:
    """No figures of sides that compute different things. The usual formulas round coarsely."""
    if isinstance(actual, Tensor) and isinstance(expected, Tensor):
        a, b = actual.detach().double(), expected.detach().double()
        assert a.shape == b.shape, (name, a.shape, b.shape)
        assert float((a - b).abs().max()) <= 0.02 * float(b.abs().max()) + 1e-6, name


@pytest.fixture
def compare(
    request: pytest.FixtureRequest,
    benchmark: Any,
    gpu_clock: GpuClock | None,
    capsys: pytest.CaptureFixture[str],
) -> Side:
    """compare(case, sides, inputs, own_inputs={}, read=0, written=0): time every side in turns.

    case: the name of the row in the table. sides: name -> function; "ours" is the one that is
    judged, and "eager" is timed once more as torch.compile makes it. inputs: tuples of arguments,
    used in turns, so that none stays in the cache from one use to the next; where any requires a
    gradient, the backward pass is timed too. own_inputs: name -> tuples, for a side that takes
    others. read, written: bytes that any way must move; 0: memory is not what limits. flops: the
    same of multiplications and additions. ready: more sides, timed as they are; with it, and on a
    GPU, the time of launching counts. Returns side -> median, p20, p80 of a call in ms.
    """
    clock_options = request.config.option

    def run(
        case: str,
        sides: dict[str, Side],
        inputs: list[tuple[Any, ...]],
        own_inputs: dict[str, list[tuple[Any, ...]]] | None = None,
        read: int = 0,
        written: int = 0,
        flops: int = 0,
        ready: dict[str, Side] | None = None,
    ) -> dict[str, dict[str, float]]:
        torch._dynamo.reset()
        sides = dict(sides)
        if not ready and (gpu_clock is None or clock_options.compiled):
            sides["compile"] = torch.compile(sides["eager"], dynamic=False)
        given = {name: (own_inputs or {}).get(name, inputs) for name in (*sides, *(ready or {}))}
        if own_inputs and "eager" in own_inputs:
            given["compile"] = own_inputs["eager"]
        missing: dict[str, str] = {}
        peaks: dict[str, int] = {}
        ours = sides["ours"](*given["ours"][0])
        for name in list(sides):
            try:
                if name in ("eager", "compile", "grouped"):
                    check_agreement(name, sides[name](*given[name][0]), ours)
                sides[name] = with_gradients(sides[name], given[name][0])
                if gpu_clock is not None:
                    peaks[name] = gpu_clock.peak_bytes(sides[name], given[name][0])
            except torch.OutOfMemoryError:
                if name == "ours":
                    raise
                missing[name] = "out of memory"
                del sides[name]
                torch.cuda.empty_cache()
        del ours
        sides.update(ready or {})
        if gpu_clock is None and read + written > SMALL:
            passes = [bare_pass(read, written) for _ in inputs]
            sides["bandwidth"] = passes[0][0]
            given["bandwidth"] = [arguments for _, arguments in passes]

        times: dict[str, list[float]] = {name: [] for name in sides}
        order = list(sides)

        def one_round(calls: int) -> None:
            order.append(order.pop(0))  # no side always follows the same other side
            readings = {}
            for name in order:
                arguments = given[name][len(times[name]) % len(given[name])]
                if gpu_clock is not None:
                    readings[name] = gpu_clock.measure(
                        sides[name], arguments, calls, launches=ready is not None
                    )
                    continue
                start = clock()
                for _ in range(calls):
                    sides[name](*arguments)
                times[name].append((clock() - start) / calls)
            for name, seconds in readings.items():  # what was queued above is waited for here
                times[name].append(seconds())

        one_round(1)  # warm-up: compilation of backward passes, first touches of memory
        calls = int(min(max(SECONDS_PER_TIME / max(times["ours"][0], 1e-9), 1), 100))
        if gpu_clock is not None:  # with the cache flushed, every call counts
            calls = 1
        start = time.perf_counter()
        one_round(calls)
        seconds = time.perf_counter() - start
        if clock_options.device == "emulated":
            rounds = 2
        else:
            rounds = int(min(max(SECONDS_PER_CASE / seconds, ROUNDS[0]), ROUNDS[1]))
        for values in times.values():
            values.clear()
        benchmark.pedantic(one_round, (calls,), rounds=rounds, iterations=1, warmup_rounds=0)

        summary = {}
        for name, values in times.items():
            quantiles = statistics.quantiles(values, n=10, method="inclusive")
            summary[name] = {
                "median_ms": statistics.median(values) * 1e3,
                "p20_ms": quantiles[1] * 1e3,
                "p80_ms": quantiles[7] * 1e3,
            }
        benchmark.extra_info.update(summary)
        suite = Path(str(request.node.path)).stem.removeprefix("test_")
        row = {"case": case, "rounds": rounds, "calls": calls, "read": read, "written": written}
        if gpu_clock is not None:
            first = given["ours"][0][0]
            dtype = str(first.dtype).removeprefix("torch.")
            least, limit = roofline(gpu_clock.ceilings, read, written, flops, dtype)
            row.update({
                "roofline_ms": least * 1e3, "limit": limit, "missing": missing,
                "peak_mib": {name: peak / 2**20 for name, peak in peaks.items()},
            })  # fmt: skip
            with capsys.disabled():
                print(f"\n    {suite}: {said(case, summary, row)}", flush=True)
        _results.setdefault(suite, []).append({**row, "sides": summary})
        return summary

    return run


def said(case: str, summary: dict[str, dict[str, float]], row: dict[str, Any]) -> str:
    """A line about a row, with its roofline beside it."""
    ours = summary["ours"]["median_ms"]
    share = f", {row['roofline_ms'] / ours:.0%} of the {row['limit']}" if row["limit"] else ""
    others = [f"{name} {times['median_ms'] / ours:.1f}x" for name, times in summary.items()]
    others += [f"{name}: {why}" for name, why in row["missing"].items()]
    return f"{case}: {ours:.4g} ms{share}; " + ", ".join(o for o in others if o[:5] != "ours ")


def _cases(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    return {row["case"] for row in json.loads(path.read_text(encoding="utf-8"))["cases"]}


def pytest_sessionfinish(session: pytest.Session) -> None:
    info = build_info()
    machine = _described or {
        "device": device_name(),
        "clock": "CPU time" if torch.get_num_threads() == 1 else "wall time",
        "cpu_level": info["cpu_level"] or "no native kernels",
    }
    machine |= {key: info[key] for key in ("torch", "python", "sdd_fast")}
    slug = re.sub(r"[^a-z0-9]+", "-", machine["device"].lower()).strip("-")
    for suite, rows in _results.items():
        path = session.config.getoption("--results").resolve() / slug / f"{suite}.json"
        left = _cases(path) - {row["case"] for row in rows}
        if left:  # figures of different runs do not mix
            print(f"\nkept {path}, for cases that were not measured now:")
            print("\n".join(f"    {case}" for case in sorted(left)))
            print("run the whole suite, or delete the file if these are no more")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**machine, "cases": rows}, indent=1) + "\n", encoding="utf-8")
        print(f"\nwrote {path}")
