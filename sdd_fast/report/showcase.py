"""The pictures of a report: held-out images before and after, and the curves of a training."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..editing.edit_inputs import input_size
from ..fonts import families, legible
from ..grid import grid
from ..images import psnr
from ..manipulator import manipulate
from ..memory import rendering_batch

if TYPE_CHECKING:
    from ..domains import Domain


@torch.no_grad()
def before_after(
    domain: Domain,
    mapper: nn.Module,
    lam: float,
    *,
    title: str,
    pictures: Tensor | None,
    strengths: Sequence[float] = (0.5, 1.0, 1.5),
    count: int = 7,
) -> tuple[Image.Image, float | None]:
    """Draw a labeled grid: input, reconstruction, and the edit at growing strength, image by image.

    Args:
        pictures: [C, 3, R, R] inputs; None: the domain's own held-out latents, without inputs.

    Returns:
        The grid, and the mean PSNR in dB of the reconstructions (None without inputs).
    """
    rows, labels, fidelity = [], [], None
    if pictures is None:
        w_plus = domain.held_out[:count]
        labels.append("before")
    else:
        assert domain.encoder is not None  # a domain that has pictures to show has one
        w_plus = domain.encoder(pictures.to(domain.device))
        rows.append(pictures)
        labels += ["input picture", "encoded and generated again"]
    rows.append(_rendered(domain.generator, w_plus))
    if pictures is not None:
        fidelity = float(psnr(rows[1], pictures).mean())
    for strength in strengths:
        rows.append(_rendered(domain.generator, w_plus, [(mapper, lam * strength)]))
        labels.append(f"strength {strength:g}".replace("-", "−"))
    return grid(rows, row_labels=labels, title=title, cell=_cell(domain)), fidelity


@torch.no_grad()
def milliseconds_per_edit(domain: Domain, mapper: nn.Module, lam: float, batch: int = 16) -> float:
    """Take the time to encode (where the domain has an encoder), edit and generate one image of a
    batch; the best of three."""
    encoder = domain.encoder
    if encoder is None:  # of a domain that edits latents only
        w_plus = domain.held_out[:1].expand(batch, -1, -1)
    else:
        pictures = torch.zeros(batch, 3, *input_size(encoder), device=domain.device)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        if encoder is not None:
            w_plus = encoder(pictures)
        images = manipulate(domain.generator, w_plus, [(mapper, lam)]).images
        images.cpu()  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    return 1000 * best / batch


def _rendered(generator: Any, w_plus: Tensor, mappers: Sequence[Any] = ()) -> Tensor:
    """Images of latents, a few at a time: a batch of large ones need not fit a GPU."""
    chunks = w_plus.split(rendering_batch(generator))
    images = torch.cat([manipulate(generator, w, mappers).images.cpu() for w in chunks])
    return images.nan_to_num(0.0).clamp(-1, 1)  # gray is what cannot be shown


def _cell(domain: Domain) -> int:
    """The side of an image on a grid: whole multiples of small images look sharpest."""
    return min(256, domain.resolution * max(1, round(144 / domain.resolution)))


def training_figure(history: Sequence[dict[str, Any]], images: str = "images") -> Any:
    """Draw a training with matplotlib: the edit as measured on held-out images, the residual and
    the regularizers, with what the domain calls its `images`. None if there are fewer than two
    entries."""
    if len(history) < 2:
        return None
    from matplotlib.figure import Figure

    from ..selection.plot import ENTROPY, INK, L1, SCORE

    figure = Figure(figsize=(7.2, 3.4), dpi=150, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    for name, label, color in (
        ("residual", "teacher's residual", SCORE),
        ("l2", "latent change (L2)", L1),
    ):
        steps, values = _evened(history, name)
        if values and max(values) > 0:
            scaled = [v / max(values) for v in values]
            text = f"{label}, at most {max(values):.3g}"
            left.plot(steps, scaled, "-", color=color, linewidth=1.6, label=text)
    measured = [entry for entry in history if "edit_size" in entry]
    at = [entry["step"] for entry in measured]
    for name, label, color in (
        ("direction", "direction towards the prompt (CLIP)", SCORE),
        ("identity", "identity kept", ENTROPY),
        ("peak_change", "change of the most changed pixels", L1),
    ):
        values = _column(measured, name)
        if values:
            right.plot(at, values, "-o", color=color, markersize=4, linewidth=1.6, label=label)
    left.set_title("training loss terms, relative to their maximum", loc="left", fontsize=9)
    right.set_title(
        legible(f"measured on held-out {images}"), loc="left", fontsize=9, family=families()
    )
    for axes in (left, right):
        axes.set_xlabel("step", fontsize=9)
        axes.set_xlim(0, None)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2, linewidth=0.6)
        axes.tick_params(colors=INK, labelsize=8)
        if axes.lines:
            # Below, where no curve is hidden.
            axes.legend(
                fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(-0.02, -0.22)
            )
    return figure


def _evened(history: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one key, each over about the same number of steps.

    An entry of a history is the mean since the entry before it. Those that came early, because the
    monitor looked, are joined to the next; alone, a mean of one step stands out like a spike.
    """
    values = _column(history, name)
    if not values:
        return [], []
    ends = [int(entry["step"]) for entry in history]
    spans = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    steps, means, covered, total = [], [], 0, 0.0
    for end, span, value in zip(ends, spans, values, strict=True):
        covered, total = covered + span, total + span * value
        if 2 * covered >= max(spans):
            steps.append(end)
            means.append(total / covered)
            covered, total = 0, 0.0
    return steps, means


def _column(entries: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The values of one key, [] unless every entry has a finite one."""
    values = [v for e in entries if (v := e.get(name)) is not None and math.isfinite(v)]
    return values if len(values) == len(entries) else []
