"""The tables of a measurement, and its figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .equations import Plan, break_even

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = {
    "evaluation": "one HQS evaluation", "step": "one step of a training", "edit": "one edit",
}  # fmt: skip
_TICKS = (1e-3, 1e-2, 0.1, 1, 10, 60, 600, 3600, 36_000, 360_000, 3_600_000, 36_000_000)


def duration(seconds: float) -> str:
    """Return seconds as people say them: 3.21 ms, 4.5 s, 12 min, 3.4 h."""
    for least, unit, size in ((5400, "h", 3600), (90, "min", 60), (1, "s", 1)):
        if seconds >= least:
            return f"{seconds / size:.3g} {unit}"
    return f"{1e3 * seconds:.3g} ms"


def markdown(request: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return the tables: units, totals, stages."""
    plan = Plan(**results["plan"])
    versions = ", ".join(f"{name} {version}" for name, version in request["versions"].items())
    lines = [
        f"# Time cost: {request['domain']}",
        "",
        f"{request['device']}, {_count(request['threads'], 'thread')}; the teacher in "
        f"{request['dtype']}, attention {request['attention']}; images of {request['resolution']} "
        f"pixels a side, the teacher's of {request['teacher_resolution']}. {versions}.",
    ]
    if not request["native_kernels"]:
        lines += ["", "Without the native kernels; `sdd info` says why."]
    if request["quick"]:
        lines += ["", "Measured quickly: of few samples, timesteps and steps."]
    lines += ["", *_units(results["units"]), "", *_totals(plan, results)]
    return "\n".join([*lines, "", *_stages(results), ""])


def _units(units: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Measured: units",
        "",
        "Medians, in brackets 20th and 80th percentile.",
        "",
        "| unit | time | samples |",
        "|---|---|---|",
    ]
    for one in units.values():
        low, high = duration(one["p20"]), duration(one["p80"])
        time = duration(one["median"]) + (f" [{low}, {high}]" if one["samples"] > 1 else "")
        lines.append(f"| {one['what']} | {time} | {one['samples']} |")
    return lines


def _totals(plan: Plan, results: Mapping[str, Any]) -> list[str]:
    ours, others = results["ours"], results["others"]
    lines = [
        f"## Computed: {plan.images:,} images for each of {_prompts(plan)}",
        "",
        f"Selection: {_count(plan.timesteps, 'timestep')} on {_count(plan.searched, 'image')}. "
        f"Training: {_count(plan.steps, 'step')}. Eq. 13–15 of the paper; selection counts as "
        "training. Prompts one after another: what several at once share is left out. SDEdit, by "
        "diffusers' schedulers, is of the same diffusion model, and needs neither selection nor "
        "training.",
        "",
        "| | a prompt: selection | training | an edit | total | cheaper by SDD from |",
        "|---|---|---|---|---|---|",
        f"| SDD | {duration(ours['selection'])} | {duration(ours['training'])} | "
        f"{duration(ours['edit'])} (measured) | {duration(ours['total'])} | |",
    ]
    for name, one in others.items():
        lines.append(
            f"| {name} | – | – | {duration(one['edit'])} ({one['edit_is']}) | "
            f"{duration(one['total'])} | {_from(one['break_even'])} |"
        )
    lines.append("")
    for name, one in others.items():
        lines.append(verdict(name, one, ours, plan) + "  ")
    return lines


def _prompts(plan: Plan) -> str:
    return _count(plan.prompts, "prompt")


def _from(even: int | None) -> str:
    return "never" if even is None else f"{_count(even, 'image')} a prompt"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number > 1)}"


def verdict(name: str, other: Mapping[str, Any], ours: Mapping[str, Any], plan: Plan) -> str:
    """Say in a sentence which of the two takes less time."""
    ratio = other["total"] / ours["total"]
    even = other["break_even"]
    if even is None:
        return (
            f"{name}: SDD takes longer for any number of images, since an edit of it is no faster."
        )
    share = f"{ratio:.0%}" if ratio >= 0.01 else "less than 1%"
    less = f"{ratio:.1f} times as long as SDD" if ratio > 1 else f"{share} of SDD's time"
    return (
        f"{name} takes {less} for {plan.images:,} images a prompt; SDD takes less time from "
        f"{even:,} on, and more below."
    )


def _stages(results: Mapping[str, Any]) -> list[str]:
    limits = results["ceilings"]
    lines = [
        "## Measured: stages",
        "",
        "Each timed alone, as its part of one unit; what was measured at different moments need "
        "not add up. Floor: the longer of its products at the rate of a large matrix product "
        f"({limits['flop_per_s'] / 1e12:.3g} TFLOP/s) and of the inputs and "
        "outputs of its operations at the rate of a copy "
        f"({limits['bytes_per_s'] / 1e9:.3g} GB/s, read and written), both measured here; what "
        "stays in a cache can be faster.",
    ]
    for unit, name in _NAMES.items():
        whole = results["units"][unit]["median"]
        found = [one for one in results["stages"] if one["unit"] == unit]
        lines += ["", f"| {name}: {duration(whole)} | time | share | TFLOP/s | GB/s | floor |"]
        lines.append("|---|---|---|---|---|---|")
        for one in found:
            lines.append(
                f"| {one['stage']} | {duration(one['seconds'])} | {one['seconds'] / whole:.0%} | "
                f"{one['flop_per_s'] / 1e12:.3g} | {one['bytes_per_s'] / 1e9:.3g} | "
                f"{duration(one['floor'])}, {one['limit']} |"
            )
        rest = max(0.0, whole - sum(one["seconds"] for one in found))
        lines.append(f"| the rest | {duration(rest)} | {rest / whole:.0%} | | | |")
    return lines


def figure(request: Mapping[str, Any], results: Mapping[str, Any]) -> Figure:
    """Draw the total time against the number of images a prompt, with the crossings."""
    plan, ours = Plan(**results["plan"]), results["ours"]
    quick = ", measured quickly" if request["quick"] else ""
    return crossings(
        f"{request['domain']} on {request['device']}",
        f"time for {_prompts(plan)}, computed{quick}",
        {"SDD: selection, training, edits": (ours["beforehand"], ours["edit"])},
        {name: one["edit"] for name, one in results["others"].items()},
        plan.prompts,
        plan.images,
    )


def crossings(
    title: str,
    what: str,
    ours: Mapping[str, tuple[float, float]],
    others: Mapping[str, float],
    prompts: int = 1,
    marked: int | None = None,
) -> Figure:
    """Draw the time of all edits against the number of images a prompt.

    Args:
        what: the axis of time shows.
        ours: name → seconds of a prompt beforehand, and of an edit; the crossings are those of the
            first. others: name → seconds of an edit.
        marked: a number of images to mark.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    from ..selection.plot import CHOSEN, INK, SCORE

    first = next(iter(ours.values()))
    evens = {name: break_even(*first, edit) for name, edit in others.items()}
    last = 10 * max(filter(None, [marked or 100, *evens.values()]))
    images = [10 ** (i / 40) for i in range(int(40 * len(str(last))) + 1)]
    drawn = Figure(figsize=(7.2, 4.8), dpi=150, layout="constrained", facecolor="white")
    axes = drawn.subplots()
    for i, (name, (before, edit)) in enumerate(ours.items()):
        cost = [prompts * (before + m * edit) for m in images]
        axes.plot(images, cost, ("-", "--")[i > 0], color=SCORE, linewidth=2, label=name)
    slowest_first = sorted(others.items(), key=lambda item: -item[1])
    for i, (name, edit) in enumerate(slowest_first):
        color, even = colormaps["viridis"](i / max(1, len(others))), evens[name]
        label = f"{name}: {even:,} images" if even else f"{name}: never"
        axes.plot(images, [prompts * m * edit for m in images], color=color, label=label)
        if even:
            axes.plot(even, prompts * even * edit, "o", color=CHOSEN, markersize=5)
    if marked:
        axes.axvline(marked, color=INK, alpha=0.3, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_yticks([t for t in _TICKS if low <= t <= high], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: duration(value))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("images edited for each prompt, m")
    axes.set_ylabel(what)
    axes.set_title(title, loc="left", color=INK, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, linewidth=0.6)
    axes.tick_params(colors=INK, labelsize=9)
    drawn.legend(
        title="dots: from so many images a prompt on SDD takes less time", title_fontsize=8,
        fontsize=8, frameon=False, loc="outside lower center", ncols=2,
    )  # fmt: skip
    return drawn
