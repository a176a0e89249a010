"""The `compare` fixture: several ways to compute the same thing, timed in turns, in one run.

Machines drift; medians of interleaved rounds of one run can be divided by each other, figures of
different runs cannot. With one thread the clock is the CPU time of the process, which other work
on the machine does not stretch; with more it is wall time. Results go to
benchmarks/results/<device>/<suite>.json, from which tables.py makes docs/benchmarks.md.
"""

from __future__ import annotations

import json
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sdd_fast._build_info import build_info

HERE = Path(__file__).resolve().parent

SECONDS_PER_CASE = 2.0
ROUNDS = (7, 60)  # at least, at most
_results: dict[str, list[dict[str, Any]]] = {}

Compare = Callable[..., dict[str, dict[str, float]]]


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


@pytest.fixture
def compare(request: pytest.FixtureRequest, benchmark: Any) -> Compare:
    """compare(case, sides, inputs, bytes_read, calls=1): time every side on every input, in turns.

    case: the name of the row in the table. sides: name -> function of one input; "ours" is the
    one that is judged. inputs: used in turns, so that none stays in the cache from one use to the
    next. bytes_read: what one call must read at least. calls: how many make one time, where the
    clock is too coarse for a single one. Returns side -> median, p20, p80 of a call in ms.
    """

    def run(
        case: str,
        sides: dict[str, Callable[[Any], object]],
        inputs: list[Any],
        bytes_read: int,
        calls: int = 1,
    ) -> dict[str, dict[str, float]]:
        times: dict[str, list[float]] = {name: [] for name in sides}
        order = list(sides)
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

        def one_round() -> None:
            order.append(order.pop(0))  # no side always follows the same other side
            for name in order:
                x = inputs[len(times[name]) % len(inputs)]
                start = clock()
                for _ in range(calls):
                    sides[name](x)
                times[name].append((clock() - start) / calls)

        for _ in range(2):  # warm-up: compilation, first touches of memory
            start = time.perf_counter()
            one_round()
            seconds = time.perf_counter() - start
        rounds = int(min(max(SECONDS_PER_CASE / seconds, ROUNDS[0]), ROUNDS[1]))
        for values in times.values():
            values.clear()
        benchmark.pedantic(one_round, rounds=rounds, iterations=1, warmup_rounds=0)

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
        row = {"case": case, "rounds": rounds, "bytes_read": bytes_read, "sides": summary}
        _results.setdefault(suite, []).append(row)
        return summary

    return run


def pytest_sessionfinish(session: pytest.Session) -> None:
    info = build_info()
    machine = {
        "device": device_name(),
        "clock": "CPU time" if torch.get_num_threads() == 1 else "wall time",
        "cpu_level": info["cpu_level"] or "no native kernels",
        "torch": info["torch"],
        "python": info["python"],
        "sdd_fast": info["sdd_fast"],
    }
    slug = re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")
    for suite, rows in _results.items():
        path = HERE / "results" / slug / f"{suite}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**machine, "cases": rows}, indent=1) + "\n", encoding="utf-8")
        print(f"\nwrote {path.relative_to(HERE.parent)}")
