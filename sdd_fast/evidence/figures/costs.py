"""Time against the number of images, and success against the time of an edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...selection.plot import CHOSEN, SCORE
from ..case import Case
from ..editing import OURS, class_of, editors, measured
from ..judge import values_of
from ..store import Unit
from ..table1 import Cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Time and success of every editor"
CAPTION = (
    "Left: total time of a prompt against the number of images, what is prepared for it or once "
    "for all prompts included, but no training by `sdd bench train`; where a line crosses ours, "
    "ours becomes cheaper. Right: the share of images that show the target, with its interval over "
    "prompts and images, against the time of one edit, preparation left out."
)
_MOST = 100_000


def units(case: Case) -> list[Unit]:
    return []


def draw(case: Case) -> Figure | None:
    from matplotlib.figure import Figure

    found = {key: prompts for key in editors(case) if (prompts := measured(case, key))}
    if OURS not in found:
        return None
    figure = Figure(figsize=(12, 5), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = [round(10 ** (i / 10)) for i in range(51)]
    for i, (key, prompts) in enumerate(found.items()):
        cost = Cost.of(prompts)
        ours = key == OURS
        color = CHOSEN if ours else f"C{i % 10}"
        style = "-" if i < 10 else "--"  # there are ten colors
        mark = "*" if ours else "o" if i < 10 else "D"
        left.plot(
            counts, [cost.total(m, 1) for m in counts], style, color=color,
            linewidth=2.6 if ours else 1.2, marker=mark, markevery=[-1], markersize=5,
            label=class_of(key).name,
        )  # fmt: skip
        success = [values_of(one, "success") for one in prompts.values()]
        known = [[one] for one in success if one is not None]
        if not known:
            continue
        at = case.interval(known, over=("prompts", "images"))
        right.errorbar(
            [cost.edit], [at.estimate],
            yerr=[[at.estimate - at.low], [at.high - at.estimate]],
            fmt=mark, color=color, markersize=13 if ours else 6, capsize=3,
        )  # fmt: skip
    left.set(xscale="log", yscale="log", xlim=(1, _MOST))
    left.set_xlabel("images of a prompt")
    left.set_ylabel("seconds, preparation included")
    right.set(xscale="log", ylim=(-0.03, 1.05))
    right.set_xlabel("seconds of an edit")
    right.set_ylabel("success")
    for axes in (left, right):
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    right.axvline(Cost.of(found[OURS]).edit, color=SCORE, alpha=0.25, linewidth=0.8)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure
