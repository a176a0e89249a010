"""The figures the CUDA kernels are to reach, and what the results of a run say about them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGE = 64 * 2**20  # bytes moved: what less takes is mostly starting and ending
FORWARD = "batch 8, float16"
BOTH = "batch 8, float16, gradient of W+"


@dataclass(frozen=True)
class Figure:
    name: str
    target: str
    measured: str  # "not measured" where nothing is
    met: bool | None = None  # None: not measured

    def verdict(self) -> str:
        return {True: "met", False: "missed", None: "–"}[self.met]


def figures(folder: Path, large: int = LARGE) -> list[Figure]:
    """Of the results in benchmarks/results/<device>/; `folder` need not exist."""
    found = [
        _share(folder, "softmax_entropy_l1", 0.85, large),
        _share(folder, "bias_act", 0.85, large),
        _share(folder, "upfirdn2d", 0.75, large),
        _times_plain(folder, large),
        _share(folder, "conv_epilogue", 0.80, large),
    ]
    rows = {row["case"]: row["sides"] for row in _rows(folder, "stylegan2")}
    forward, both = rows.get(FORWARD), rows.get(BOTH)
    for name, side in (("", "ours"), (" as a CUDA graph", "graph")):
        ahead = _median(forward, side)
        total = _median(both, side)
        back = None if ahead is None or total is None else total - ahead
        of = f"StyleGAN2-1024{name}, batch 8, float16"
        found.append(_most(f"{of}: forward", 0.35, None if ahead is None else ahead / 8))
        found.append(_most(f"{of}: backward to W+", 0.60, None if back is None else back / 8))
    for name, sides in (("forward", forward), ("forward and backward", both)):
        for against, factor in (("grouped", 5.0), ("eager", 1.5)):
            ours, theirs = _median(sides, "ours"), _median(sides, against)
            ratio = None if ours is None or theirs is None else theirs / ours
            what = {
                "grouped": "the grouped-convolution recipe in float32",
                "eager": "the same network in PyTorch's ops, float16, channels_last",
            }[against]
            found.append(_least(f"StyleGAN2-1024, batch 8, {name}, against {what}", factor, ratio))
    return found


def _rows(folder: Path, suite: str) -> list[dict[str, Any]]:
    path = folder / f"{suite}.json"
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return rows


def _large(folder: Path, suite: str, large: int) -> list[dict[str, Any]]:
    return [r for r in _rows(folder, suite) if r["read"] + r["written"] >= large]


def _median(sides: dict[str, Any] | None, side: str) -> float | None:
    return float(sides[side]["median_ms"]) if sides is not None and side in sides else None


def _share(folder: Path, suite: str, target: float, large: int) -> Figure:
    shares = {
        row["case"]: row["roofline_ms"] / row["sides"]["ours"]["median_ms"]
        for row in _large(folder, suite, large)
    }
    return _worst(suite, f"≥ {target:.0%} of the measured bandwidth", target, shares, "{:.0%}")


def _times_plain(folder: Path, large: int) -> Figure:
    ratios = {}
    for row in _large(folder, "upfirdn2d", large):
        plain = [_median(row["sides"], side) for side in ("eager", "grouped")]
        times = [time for time in plain if time is not None]
        if times:
            ratios[row["case"]] = min(times) / row["sides"]["ours"]["median_ms"]
    return _worst("upfirdn2d", "≥ 3× the better of two plain PyTorch", 3.0, ratios, "{:.1f}×")


def _worst(suite: str, target: str, least: float, values: dict[str, float], form: str) -> Figure:
    name = f"{suite}, rows that move 64 MiB or more"
    if not values:
        return Figure(name, target, "not measured")
    case = min(values, key=lambda c: values[c])
    low, high = form.format(values[case]), form.format(max(values.values()))
    many = f"{sum(v >= least for v in values.values())} of {len(values)} rows reach it"
    return Figure(
        name, target, f"{low} ({case}) to {high}; {many}", all(v >= least for v in values.values())
    )


def _most(name: str, target: float, ms: float | None) -> Figure:
    if ms is None:
        return Figure(name, f"≤ {target} ms an image", "not measured")
    return Figure(name, f"≤ {target} ms an image", f"{ms:.3f} ms", ms <= target)


def _least(name: str, target: float, ratio: float | None) -> Figure:
    if ratio is None:
        return Figure(name, f"≥ {target}×", "not measured")
    return Figure(name, f"≥ {target}×", f"{ratio:.1f}×", ratio >= target)
