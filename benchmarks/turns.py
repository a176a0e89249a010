"""Sides that take turns, whose samples several calls add up in benchmarks/results/<device>/.

For what takes seconds to minutes a turn on a CPU: each sample is in the file as soon as it is
there, and a file of other versions is refused. tables.py makes the page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import torch
from conftest import HERE, device_name

from sdd_fast._build_info import build_info
from sdd_fast.timing.clock import Spread

Run = Callable[[], Any]
Clock = Callable[[], float]
Cases = Callable[[str], Iterable["Case"]]


@dataclass(frozen=True)
class Timed:
    """What takes its own time: `seconds`, given a clock, are of a part of what it runs."""

    seconds: Callable[[Clock], float]


@dataclass(frozen=True)
class Editor:
    """An editor of so many denoising steps, of which the sides `few` and `more` take other numbers.

    All its steps take the same time, so that the whole follows from the two.

    Args:
        few, more: (number of steps, name of the side).
    """

    steps: int
    few: tuple[int, str]
    more: tuple[int, str]


@dataclass(frozen=True)
class Case:
    """Sides to compare.

    Args:
        sides: name → what returns what is timed.
        turns: how many of a side make the whole.
        editors: name → how to compute it from its sides.
        notes: name of a side or an editor → what to know of it, such as steps, dtype, resolution.
        images: that a turn takes, where times of one are wanted.
    """

    name: str
    sides: dict[str, Callable[[], Run | Timed]]
    turns: dict[str, int] = field(default_factory=dict)
    editors: dict[str, Editor] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    images: int = 0


class Results:
    """The file of a device: samples of all calls so far, and what follows from them."""

    def __init__(self, folder: Path, device: str, suite: str) -> None:
        info = build_info()
        name = torch.cuda.get_device_name() if device == "cuda" else device_name()
        name = "dry run on the CPU" if device == "emulated" else name
        self.head = {"device": name, "clock": "CPU time" if by_cpu_time(device) else "wall time"}
        self.head |= {"cpu_level": info["cpu_level"] or "no native kernels"}
        self.head |= {key: info[key] for key in ("torch", "python", "sdd_fast")}
        self.head["diffusers"] = version("diffusers")
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        self.path = folder / slug / f"{suite}.json"
        self.samples: dict[str, dict[str, list[float]]] = {}
        self.peaks: dict[str, dict[str, float]] = {}
        self.told: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            there = json.loads(self.path.read_text(encoding="utf-8"))
            if {key: there.get(key) for key in self.head} != self.head:
                sys.exit(f"{self.path} is of other versions; delete it to measure again")
            self.samples = {row["case"]: row["samples_s"] for row in there["cases"]}
            self.peaks = {row["case"]: row["peak_gb"] for row in there["cases"]}
            self.told = {row["case"]: told_of(row) for row in there["cases"]}

    def add(self, name: str, case: Case, side: str, seconds: float, peak: float) -> None:
        self.samples.setdefault(name, {}).setdefault(side, []).append(seconds)
        if peak:
            self.peaks.setdefault(name, {})[side] = peak
        editors = {name: asdict(editor) for name, editor in case.editors.items()}
        self.told[name] = told_of({"editors": editors, "notes": case.notes, "images": case.images})
        rows = [
            {
                "case": name, "read": 0, "written": 0,
                "sides": {side: summary(times) for side, times in sides.items()},
                "samples_s": sides, "peak_gb": self.peaks.get(name, {}), **self.told[name],
            }
            for name, sides in self.samples.items()
        ]  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**self.head, "cases": rows}, indent=1, ensure_ascii=False)
        self.path.write_text(text + "\n", encoding="utf-8")


def told_of(case: dict[str, Any]) -> dict[str, Any]:
    """What is known of a case beside its times; empty parts are left out."""
    return {name: case[name] for name in ("editors", "notes", "images") if case.get(name)}


def summary(seconds: list[float]) -> dict[str, float]:
    return {f"{name}_ms": 1e3 * value for name, value in asdict(Spread.of(seconds)).items()}


def timed(run: Run | Timed, device: str) -> tuple[float, float]:
    """Return seconds and the peak of GPU memory in GB, 0 on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    clock = time.process_time if by_cpu_time(device) else time.perf_counter
    began = clock()
    own = run.seconds(clock) if isinstance(run, Timed) else run()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = own if isinstance(run, Timed) else clock() - began
    return seconds, torch.cuda.max_memory_reserved() / 1e9 if device == "cuda" else 0.0


def by_cpu_time(device: str) -> bool:
    """With one thread: other work on the machine does not stretch it."""
    return device != "cuda" and torch.get_num_threads() == 1


def main(suite: str, about: str | None, cases: Cases, arguments: list[str] | None = None) -> None:
    """Measure the cases of a suite as the command line says."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda", "emulated"), default="cpu",
                        help="emulated: a dry run at tiny sizes on the CPU")  # fmt: skip
    parser.add_argument("--cases", nargs="*", default=[""], help="how their names begin")
    parser.add_argument("--sides", nargs="*", help="their names")
    parser.add_argument("--rounds", type=int, default=3, help="0: only warm up, to compile")
    parser.add_argument(
        "--cold", action="store_true", help="no turn to warm up, which may take minutes"
    )
    parser.add_argument("--restart", action="store_true", help="drop earlier samples")
    parser.add_argument("--cap", type=float, help="GB of GPU memory to do with")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    diffusers.utils.logging.set_verbosity_error()  # it warns of every cast
    if options.cap:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(options.cap * 1e9 / total)
    results = Results(options.results, options.device, suite)
    for case in cases(options.device):
        if any(case.name.startswith(name) for name in options.cases):
            measure(case, options, results)


def measure(case: Case, options: argparse.Namespace, results: Results) -> None:
    wanted = {n: s for n, s in case.sides.items() if not options.sides or n in options.sides}
    if options.device == "emulated":  # to compile takes minutes
        wanted = {n: s for n, s in wanted.items() if "compiled" not in n}
    runs = {}
    name = case.name + (f", within {options.cap:g} GB" if options.cap else "")
    for side, ready in wanted.items():
        runs[side] = ready()
        if not options.cold:
            timed(runs[side], options.device)
        if options.restart:
            results.samples.get(name, {}).pop(side, None)
    order = list(runs)
    for _ in range(options.rounds):
        for side in order:
            seconds, peak = timed(runs[side], options.device)
            seconds *= case.turns.get(side, 1)
            results.add(name, case, side, seconds, peak)
            print(f"{name}; {side}: {seconds:.3g} s", flush=True)
        order.append(order.pop(0))  # no side always follows the same other side
