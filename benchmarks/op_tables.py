"""The tables of the ops, on CPUs and on a GPU, and what else was measured on a GPU."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import figures

GPU = """# On a GPU

Times are those of CUDA events; the second-level cache is flushed before every measurement.
*roofline*: the least time that moving the bytes takes at the bandwidth measured in the same run, or
computing the products at the rate of a large matrix product, as a share of ours. *graph*: ours as
one CUDA graph. *memory*: what a call allocates at most, in MiB, and how many times that the others
do.
"""
NOT_MEASURED = "**Not measured: no results from a GPU are in `benchmarks/results/`.**"

AGAIN = """Figures are those of a first run. What it showed was then changed: packs of 16 and 8
bytes are stored by one instruction (the compiler had split them), the gradients of `conv_epilogue`
take blocks as narrow as the lines of few channels, styles are multiplied by that op's kernel, and
the product of toRGB is computed in pieces. *again*: the median that a later run printed, with these
changes, and its share of the roofline, before it was stopped for want of time; its host launched
kernels more slowly, which shows in stylegan2. Rows without a figure were not run again. (Since
then bias_act without gradients and upfirdn2d store as in the first run: there nothing was split,
and on older GPUs it took registers that were not there.) Two rows of
stylegan2 failed in the first run (the cotangent was too large for float16, a fault of the
benchmark) and have figures of the later run alone.

Nothing was measured at full size but steps of a training, [above](#time-cost): no selection, no
edit, nothing compiled, and no card of 24 GB.
"""
MISSED = """By the first run. The convolutions of cuDNN alone take more of a forward pass of
StyleGAN2-1024 than the target allows for everything (below); then come PyTorch's products of
features with styles, which the kernel of the epilogue has taken over since, the kernels of this
package, and toRGB. What a launch takes is on top of that, and a CUDA graph saves it. In the later
run eight images took 25.7 ms, bound by launches, and their graph, printed as 0.3× of that, between
0.8 and 1.1 ms an image: still above the target. Why 16-bit rows of softmax_entropy_l1 and some of
upfirdn2d stay below their shares was not examined.
"""
PROFILE = """Where the time of that generator goes, eight images at once, by torch.profiler, between
the two runs: the kernels that take most, grouped by who made them. Most of a backward pass was the
gradient of toRGB's weights, one matrix product over a million pixels (44 of 73 ms in float32, 12 of
30 ms in float16); it is computed in pieces since, and no profile was made again.
"""
ATTENTION = """What each backend takes at the shapes of Stable Diffusion 1.x at 512², in float16: of
the U-Net a forward pass of eight rows, of the VAE a forward and a backward pass of one image. Wall
time, so that the small shapes show what a launch costs. `attention="auto"` takes the fastest.
xformers, flash and flash-3: not measured; –: it does not run at this shape. bfloat16 and float32
are in `attention.json`.
"""

# What ours is compared with: a column each, where a suite has such a side.
RATIOS = {"eager": "vs eager", "compile": "vs compile", "grouped": "vs grouped"}
SHARES = {"bandwidth": "bandwidth", "convolution": "convolution"}
NOTES = {
    "bias_act": """*eager*: add, leaky ReLU, multiply and clamp, one after the other. Rows
with *gradients* include the backward pass.
""",
    "conv_epilogue": """*eager*: multiply, add, add, leaky ReLU and multiply, one after the other.
Rows with *gradients* include the backward pass to the input and to the factors.
""",
    "demodulation": """*eager*: squares, their sums over each kernel, a matrix product with the
squares of the styles, and the inverse root. Rows with *gradients* include the backward pass to
the styles.
""",
    "group_norm_silu": """*eager*: `F.silu(F.group_norm(…))` in 32 groups, whose parameters are
frozen. Rows with *gradients* include the backward pass to the input.
""",
    "modulated_conv2d": """*grouped*: the formulation of the paper: a scaled and normalized kernel
for each sample, one grouped convolution, for upsampling a zero-padded depthwise blur, then noise,
bias and activation. *eager*: what an expert writes: features times styles, one convolution, for
upsampling the native upfirdn2d, then factors, noise, bias and activation. All get channels_last
features, except *grouped*, which is faster with contiguous ones. *convolution*: the time of the
convolution alone, as a share of ours. Rows with *gradients* include the backward pass to features
and styles, with frozen weights.
""",
    "stylegan2": """The StyleGAN2-1024 generator from W+ to images, random frozen weights; here
the time that Python and torch take to launch is included, except that of *graph*. *eager*: the same
factored network in PyTorch's operations, in the same dtype, channels_last. *grouped*: the
formulation of the paper with grouped convolutions, in float32.
""",
    "upfirdn2d": """*eager*: the definition with one full 2-D depthwise convolution (insert zeros,
pad, convolve, take every second pixel). *grouped*: one strided depthwise convolution, transposed
for upsampling, and a crop.
""",
}


def table(result: dict[str, Any]) -> list[str]:
    present = {name for row in result["cases"] for name in row["sides"]}
    columns = {n: t for n, t in {**RATIOS, **SHARES}.items() if n in present}
    lines = [
        "| case | ours, ms | " + " | ".join(columns.values()) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for row in result["cases"]:
        sides = row["sides"]
        ours = sides["ours"]
        cells = []
        for name in columns:
            ratio = sides[name]["median_ms"] / ours["median_ms"] if name in sides else None
            shown = "–" if ratio is None else f"{ratio:.0%}" if name in SHARES else f"{ratio:.1f}×"
            cells.append(shown)
        times = f"{ours['median_ms']:.3g} [{ours['p20_ms']:.3g}, {ours['p80_ms']:.3g}]"
        lines.append(f"| {row['case']} | {times} | " + " | ".join(cells) + " |")
    return lines


def gpu_table(result: dict[str, Any], again: Sequence[dict[str, Any]] = ()) -> list[str]:
    """The rows of a suite; `again`: what a later run printed of them, see again.json."""
    present = {name for row in result["cases"] for name in (*row["sides"], *row["missing"])}
    columns = {n: t for n, t in {**RATIOS, "graph": "vs graph"}.items() if n in present}
    heads = ["case", "ours, ms", "roofline", *columns.values(), "memory"]
    later = {row["case"]: row for row in again}
    lines = [heads + ["again"] * bool(again)]
    for row in result["cases"]:
        sides, peak = row["sides"], row["peak_mib"]
        ours = sides["ours"]
        times = f"{ours['median_ms']:.3g} [{ours['p20_ms']:.3g}, {ours['p80_ms']:.3g}]"
        share = f"{row['roofline_ms'] / ours['median_ms']:.0%}, {row['limit']}"
        cells = [row["case"], times, share]
        for name in columns:
            ratio = f"{sides[name]['median_ms'] / ours['median_ms']:.1f}×" if name in sides else "–"
            cells.append(row["missing"].get(name, ratio))
        others = [f"{name} {peak[name] / peak['ours']:.1f}×" for name in columns
                  if peak.get(name) and peak.get("ours")]  # fmt: skip
        cells.append(", ".join([f"{peak.get('ours', 0):.0f}", *others]))
        if again:
            once_more = later.pop(row["case"], None)
            cells.append(printed(once_more) if once_more else "–")
        lines.append(cells)
    for case, row in later.items():  # which the first run lacks
        of = row["ratios"]
        ratios = [f"{of[name]:.1f}×" if name in of else "–" for name in columns]
        lines.append([case, "–", "–", *ratios, "–", printed(row)])
    lines.insert(1, ["---"] * len(lines[0]))
    return [f"| {' | '.join(cells)} |" for cells in lines]


def printed(row: dict[str, Any]) -> str:
    """What a later run printed of a row, for a cell."""
    graph = row["ratios"].get("graph")
    told = f"{row['ours_ms']:.3g}, {row['share']:.0%}"
    return told if graph is None else f"{told}, graph {graph:.1f}×"


def cpu_part(results: dict[Path, dict[str, Any]]) -> list[str]:
    parts = []
    for folder in sorted({path.parent for path in results}):
        of_folder = {path: r for path, r in results.items() if path.parent == folder}
        first = next(iter(of_folder.values()))
        parts.append(f"# {first['device']}\n")
        parts.append(
            f"{first['clock']}; kernels {first['cpu_level']}, torch {first['torch']}, "
            f"Python {first['python']}, sdd_fast {first['sdd_fast']}.\n"
        )
        for path, result in of_folder.items():
            parts.append(f"## {path.stem}: {result['device']}\n")
            if path.stem in NOTES:
                parts.append(NOTES[path.stem])
            parts.append("\n".join(table(result)) + "\n")
    return parts


def gpu_part(results: dict[Path, dict[str, Any]]) -> list[str]:
    parts = [GPU]
    folders = sorted({path.parent for path in results})
    if not folders:
        return [*parts, NOT_MEASURED + "\n"]
    for folder in folders:
        of_folder = {path: r for path, r in results.items() if path.parent == folder}
        first = next(iter(of_folder.values()))
        ceilings = first["ceilings"]
        products = ", ".join(f"{d} {r / 1e12:.0f}" for d, r in ceilings["product"].items())
        parts.append(f"## {first['device']}\n")
        told = (
            f"Kernels for {first['kernels']}, torch {first['torch']}, CUDA {first['cuda']}, Python "
            f"{first['python']}, sdd_fast {first['sdd_fast']}. Measured: reading "
            f"{ceilings['read'] / 1e12:.2f} TB/s, copying {ceilings['copy'] / 1e12:.2f} TB/s (read "
            f"and written), matrix product in TFLOP/s: {products}."
        )
        parts.append(wrapped(told))
        again = beside(folder, "again")
        parts += [AGAIN] if again else []
        parts.append(wrapped(range_of_wins(of_folder, again)))
        parts += missed_part(folder, again) + profile_part(folder)
        for path, result in of_folder.items():
            parts.append(f"### {path.stem}: {result['device']}\n")
            parts += [NOTES[path.stem]] if path.stem in NOTES else []
            rows = [row for row in again.get("rows", []) if row["suite"] == path.stem]
            parts.append("\n".join(gpu_table(result, rows)) + "\n")
        parts += attention_part(folder)
    return parts


def wrapped(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False) + "\n"


def beside(folder: Path, name: str) -> dict[str, Any]:
    """What else lies beside the results of the suites; {} if it does not."""
    path = folder / f"{name}.json"
    there: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return there


def range_of_wins(of_folder: dict[Path, dict[str, Any]], again: dict[str, Any]) -> str:
    """Say how far ours is from eager PyTorch, suite by suite, and where something is faster."""
    ranges, lost = [], []
    for path, result in of_folder.items():
        ratios = []
        for row in result["cases"]:
            ours = row["sides"]["ours"]["median_ms"]
            of = {name: row["sides"][name]["median_ms"] / ours for name in row["sides"]}
            ratios.append(of["eager"])
            lost += slower(path.stem, row["case"], of, "")
        low, high = (
            f"{one:.1f}" if one < 10 else f"{one:.0f}" for one in (min(ratios), max(ratios))
        )
        ranges.append(f"`{path.stem}` {low} to {high}×")
    for row in again.get("rows", []):
        lost += slower(row["suite"], row["case"], row["ratios"], ", again")
    told = f"Times that eager PyTorch takes: {', '.join(ranges)}."
    return told + (f" Faster than ours: {'; '.join(lost)}." if lost else "")


def slower(suite: str, case: str, ratios: dict[str, float], run: str) -> list[str]:
    return [
        f"*{name}* at {suite}, {case}{run} ({ratios[name]:.2g}×)"
        for name in RATIOS
        if ratios.get(name, 1.0) < 1
    ]


def missed_part(folder: Path, again: dict[str, Any]) -> list[str]:
    """What the kernels were to reach on a GPU, and what they do."""
    lines = ["| what | to reach | measured | |", "|---|---|---|---|"]
    for one in figures(folder):
        lines.append(f"| {one.name} | {one.target} | {one.measured} | {one.verdict()} |")
    parts = ["### What was to be reached\n", MISSED if again else "", "\n".join(lines) + "\n"]
    return [part for part in parts if part]


def profile_part(folder: Path) -> list[str]:
    profile = beside(folder, "profile")
    if not profile:
        return []
    kinds = list(dict.fromkeys(kind for row in profile["rows"] for kind in row["parts"]))
    lines = [f"| {' | '.join(['GPU time, ms', 'all', *kinds])} |", "|---" * (len(kinds) + 2) + "|"]
    for row in profile["rows"]:
        times = [row["gpu_ms"], *(row["parts"].get(kind, 0.0) for kind in kinds)]
        cells = [f"{row['dtype']}, {row['pass']}", *(f"{time:.1f}" for time in times)]
        lines.append(f"| {' | '.join(cells)} |")
    return [PROFILE, "\n".join(lines) + "\n"]


def attention_part(folder: Path) -> list[str]:
    """By backend, in float16: what `--attention auto` timed."""
    found = beside(folder, "attention")
    if not found:
        return []
    shapes = found["dtypes"]["float16"]
    backends = list(dict.fromkeys(name for one in shapes.values() for name in one["milliseconds"]))
    lines = [f"| {' | '.join(['ms', *backends])} |", "|---" * (len(backends) + 1) + "|"]
    for shape, one in shapes.items():
        times = one["milliseconds"]
        cells = [f"{times[name]:.3g}" if name in times else "–" for name in backends]
        lines.append(f"| {' | '.join([shape, *cells])} |")
    return [f"### Attention: {found['device']}\n", ATTENTION, "\n".join(lines) + "\n"]
