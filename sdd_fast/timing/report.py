"""The tables of a measurement, and its figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .equations import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = {
    "evaluation": "one HQS evaluation", "step": "one step of a training", "edit": "one edit",
}  # fmt: skip


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
        f"{request['device']}, {request['threads']} threads; the teacher in {request['dtype']}, "
        f"attention {request['attention']}; images of {request['resolution']} pixels a side, "
        f"the teacher's of {request['teacher_resolution']}. {versions}.",
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
        f"Selection: {plan.timesteps} timesteps on {plan.searched} images. Training: {plan.steps} "
        "steps. Eq. 13–15 of the paper; selection counts as training. Prompts one after another: "
        "what several at once share is left out.",
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
    return f"{plan.prompts:,} prompt{'s' * (plan.prompts > 1)}"


def _from(even: int | None) -> str:
    return "never" if even is None else f"{even:,} image{'s' * (even > 1)} a prompt"


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
        "Each alone, in the time of one unit. Floor: the longer of its products at the rate of a "
        f"large matrix product ({limits['flop_per_s'] / 1e12:.3g} TFLOP/s) and of the inputs and "
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
    from matplotlib.figure import Figure

    from ..selection.plot import CHOSEN, ENTROPY, INK, L1, SCORE

    plan, ours, others = Plan(**results["plan"]), results["ours"], results["others"]
    crossings = [one["break_even"] for one in others.values() if one["break_even"]]
    last = 10 * max([plan.images, *crossings])
    images = [10 ** (i / 40) for i in range(int(40 * len(str(last))) + 1)]
    drawn = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained", facecolor="white")
    axes = drawn.subplots()
    sdd = [plan.prompts * (ours["beforehand"] + m * ours["edit"]) for m in images]
    axes.plot(images, sdd, color=SCORE, linewidth=2, label="SDD: selection, training, edits")
    for (name, one), color in zip(others.items(), (ENTROPY, L1), strict=True):
        axes.plot(images, [plan.prompts * m * one["edit"] for m in images], color=color, label=name)
        even = one["break_even"]
        if even:
            height = plan.prompts * even * one["edit"]
            axes.plot(even, height, "o", color=CHOSEN)
            axes.annotate(
                f"{even:,}", (even, height), xytext=(6, -12), textcoords="offset points",
                fontsize=9, color=CHOSEN,
            )  # fmt: skip
    axes.axvline(plan.images, color=INK, alpha=0.3, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("images edited for each prompt, m")
    quick = ", measured quickly" if request["quick"] else ""
    axes.set_ylabel(f"seconds for {_prompts(plan)}, computed{quick}")
    axes.set_title(
        f"{request['domain']} on {request['device']}", loc="left", color=INK, parse_math=False
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, linewidth=0.6)
    axes.tick_params(colors=INK, labelsize=9)
    drawn.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    return drawn
