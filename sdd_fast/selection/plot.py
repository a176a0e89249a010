"""The figure of an HQS curve: the score with its spread over images, and its two statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..fonts import families, pillow_font
from ..grid import wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SCORE, ENTROPY, L1, CHOSEN = "#24292f", "#3b4cc0", "#b8620e", "#1a7f6b", "#c9274b"


def hqs_figure(
    timesteps: Sequence[int],
    scores: Tensor,
    mean: Sequence[float],
    entropy: Sequence[float],
    l1: Sequence[float],
    *,
    chosen: Sequence[int],
    threshold: float | None = None,
    prompt: str = "",
    note: str = "",
) -> Figure:
    """Draw HQS with the 10–90 % range of images above, normalized entropy and L1 below.

    Args:
        timesteps: T, ascending. scores: [N, T], of N images, NaN where there is none.
        mean: T, HQS.
        entropy, l1: T means over images, normalized.
        chosen: timesteps to mark; all of them on the curve. threshold: drawn as a dotted line when
            given.
        prompt: the title. note: how the curve was computed.
    """
    # Figure without pyplot: no window system, no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.8), dpi=150, layout="constrained", facecolor="white")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    t = list(timesteps)

    if len(scores) > 1:
        quantiles = torch.tensor([0.1, 0.9], dtype=scores.dtype)
        low, high = torch.nanquantile(scores, quantiles, dim=0).tolist()
        label = f"10–90 % of {len(scores)} images"
        top.fill_between(t, low, high, color=SCORE, alpha=0.15, linewidth=0, label=label)
    top.axhline(0, color=INK, alpha=0.25, linewidth=0.8)
    top.plot(t, mean, "-o", color=SCORE, markersize=4, linewidth=1.8, label="HQS (mean)")
    if threshold is not None:
        label = f"threshold ξ = {threshold:g}"
        top.axhline(threshold, color=CHOSEN, linestyle=":", linewidth=1.2, label=label)
    bottom.plot(t, l1, "-s", color=L1, markersize=3, linewidth=1.4, label="L1 norm, normalized")
    bottom.plot(
        t, entropy, "-^", color=ENTROPY, markersize=3.5, linewidth=1.4, label="entropy, normalized"
    )

    marked = sorted(set(chosen))
    heights = [mean[t.index(step)] for step in marked]
    for step in marked:
        for axes in (top, bottom):
            axes.axvline(step, color=CHOSEN, alpha=0.25, linewidth=1.0, zorder=0)
    top.scatter(
        marked, heights, s=70, color=CHOSEN, zorder=5, edgecolors="white", label="chosen timesteps"
    )
    if len(marked) <= 6:
        for step, height in zip(marked, heights, strict=True):
            top.annotate(
                str(step), (step, height), xytext=(0, 9), textcoords="offset points",
                ha="center", fontsize=9, color=CHOSEN, fontweight="bold",
            )  # fmt: skip

    # A prompt may be long, hold any script, and a dollar sign, which is no formula here.
    inches, size = 6.2, 12
    title = wrap(f"“{prompt}”", pillow_font(prompt, 10 * size), inches * 10 * 72)
    top.set_title(title, loc="left", fontsize=size, color=INK, parse_math=False, family=families())
    bottom.set_title(note, loc="right", fontsize=8, color=INK, alpha=0.7, parse_math=False)
    top.set_ylabel("HQS")
    bottom.set_ylabel("mean over images")
    bottom.set_xlabel("timestep t   (small: fine detail; large: layout)")
    top.margins(y=0.15)
    bottom.set_ylim(-0.06, 1.06)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2, linewidth=0.6)
        axes.tick_params(colors=INK, labelsize=9)
    # Below, where no curve is hidden.
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    return figure
