"""The figures the native ops are to reach on a CPU, and what the results of a run say about them.

A ratio to another way of computing is bounded by memory: no op is faster than a bare pass over as
many bytes, so no ratio is above that of the bare pass. A row whose bound lies below the figure is
told apart from one that only ours misses.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def every(row: Row) -> bool:
    return True


def of_512(row: Row) -> bool:
    return "512, 512] to" in row["case"]


def of_feature_maps(row: Row) -> bool:
    return "4, 4]" not in row["case"]


def named(start: str) -> Callable[[Row], bool]:
    return lambda row: str(row["case"]).startswith(start)


@dataclass(frozen=True)
class Figure:
    """`side` / ours of the rows of a suite is to be `least`; of "bandwidth" it is a share."""

    suite: str
    side: str
    least: float
    rows: Callable[[Row], bool] = every
    of: str = ""  # which rows these are


FIGURES = [
    Figure("softmax_entropy_l1", "eager", 12),
    Figure("softmax_entropy_l1", "compile", 5),
    Figure("softmax_entropy_l1", "bandwidth", 0.7),
    Figure("bias_act", "eager", 10),
    Figure("bias_act", "compile", 3),
    Figure("upfirdn2d", "eager", 10),
    Figure("upfirdn2d", "grouped", 2.5),
    Figure("modulated_conv2d", "grouped", 1.3, of_512, "512²"),
    Figure("modulated_conv2d", "grouped", 1),
    *(Figure(suite, "eager", 1) for suite in (
        "softmax_entropy_l1", "softmax_entropy_l1_gradient", "bias_act", "conv_epilogue",
        "upfirdn2d", "demodulation", "modulated_conv2d",
    )),
    Figure("group_norm_silu", "eager", 1, of_feature_maps, "64² and more"),
    Figure("selection", "paper", 6),
    Figure("selection", "tuned", 1.3, named("HQS, full size"), "full size"),
    Figure("selection", "in turn", 1.5),
    Figure("selection", "diffusers, float32", 4.5, named("VAE"), "VAE"),
    Figure("selection", "diffusers, bfloat16 channels_last", 1.5, named("VAE"), "VAE"),
]  # fmt: skip


@dataclass(frozen=True)
class Reached:
    figure: Figure
    ratios: dict[str, float]  # case -> side / ours
    bounds: dict[str, float]  # case -> side / bare pass, where it was timed
    moved: dict[str, int]  # case -> bytes

    def met(self) -> list[str]:
        return [case for case, ratio in self.ratios.items() if ratio >= self.figure.least]

    def out_of_reach(self) -> list[str]:
        """Missed, as a bare pass over memory would miss it."""
        met = self.met()
        return [c for c, b in self.bounds.items() if c not in met and b < self.figure.least]

    def missed(self) -> list[str]:
        """The rest, what moves most bytes first."""
        done = {*self.met(), *self.out_of_reach()}
        rest = [case for case in self.ratios if case not in done]
        return sorted(rest, key=lambda case: -self.moved[case])


def reached(folder: Path) -> list[Reached]:
    """Of the results in benchmarks/results/<device>/; suites without results are left out."""
    found = []
    for figure in FIGURES:
        path = folder / f"{figure.suite}.json"
        if not path.is_file():
            continue
        ratios, bounds, moved = {}, {}, {}
        for row in json.loads(path.read_text(encoding="utf-8"))["cases"]:
            times = {side: of["median_ms"] for side, of in row["sides"].items()}
            if figure.side in times and "ours" in times and figure.rows(row):
                ratios[row["case"]] = times[figure.side] / times["ours"]
                moved[row["case"]] = row["read"] + row["written"]
                if figure.side != "bandwidth" and "bandwidth" in times:
                    bounds[row["case"]] = times[figure.side] / times["bandwidth"]
        found.append(Reached(figure, ratios, bounds, moved))
    return found


def table(folder: Path) -> list[str]:
    lines = ["| what | to reach | reached by | out of reach | missed by |", "|---|---|---|---|---|"]
    for r in reached(folder):
        f = r.figure
        form = "{:.0%}" if f.side == "bandwidth" else "{:.1f}×" if f.least > 1 else "{:.2f}×"
        against = "bandwidth" if f.side == "bandwidth" else f"vs {f.side}"
        target = f"≥ {f.least:.0%}" if f.side == "bandwidth" else f"≥ {f.least:g}×"
        rest = r.missed()
        shown = ", ".join(f"{case}: {form.format(r.ratios[case])}" for case in rest[:3])
        more = f" and {len(rest) - 3} smaller" if len(rest) > 3 else ""
        lines.append(
            f"| {f.suite}{', ' if f.of else ''}{f.of} {against} | {target} "
            f"| {len(r.met())} of {len(r.ratios)} | {len(r.out_of_reach()) or '–'} "
            f"| {shown + more or '–'} |"
        )
    return lines
