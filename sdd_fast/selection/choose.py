"""Choosing a prompt's timesteps in a domain: the HQS curve, and the rule applied to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from ..gradients.config import GuidanceConfig
from ..memory import selection_batch
from .curve import HQSCurve
from .hqs import hqs

if TYPE_CHECKING:
    from ..domains import Domain


@dataclass(frozen=True)
class Selection:
    """How the HQS curve is computed, and which of its timesteps are chosen.

    Args:
        images: number of held-out latents of the domain to compute it on.
        candidates: timesteps of the curve; None: 50, 100 … 950 of 1000.
        gradient_map, normalise, noise_draws, seed: see `hqs`.
        batch_size: pictures at once; None: as many as fit a 24 GB card, at most 8. It changes the
            curve by rounding only.
        top: choose the k best timesteps. threshold: choose those above ξ. Neither: those whose HQS
            is within `margin` of the largest.
    """

    images: int = 16
    candidates: tuple[int, ...] | None = None
    gradient_map: Literal["signed", "abs-mean"] = "signed"
    normalise: Literal["per-image", "of-mean"] = "per-image"
    noise_draws: int = 1
    seed: int = 0
    top: int | None = None
    threshold: float | None = None
    margin: float = 0.1
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"images must be at least 1, got {self.images}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 or None, got {self.batch_size}")
        if self.top is not None and self.threshold is not None:
            raise ValueError("choose timesteps either by top or by threshold, not by both")


def choose(curve: HQSCurve, selection: Selection) -> tuple[list[int], str]:
    """The timesteps that `selection` takes from a curve, and the rule in words.

    Raises:
        ValueError: no timestep is above the threshold, or the curve has fewer than `top`.
    """
    if selection.threshold is not None:
        return curve.select(selection.threshold), f"HQS above ξ = {selection.threshold:g}"
    if selection.top is not None:
        return sorted(curve.top(selection.top)), f"the {selection.top} largest HQS"
    return curve.plateau(selection.margin), f"HQS within {selection.margin:g} of the largest"


def pictures_at_once(
    domain: Domain,
    selection: Selection,
    config: GuidanceConfig | None = None,
    pictures: Tensor | None = None,
) -> int:
    """How many pictures `compute_curve` takes at once, of the same arguments."""
    if selection.batch_size is not None:
        return selection.batch_size
    height, width = domain.generator.image_size if pictures is None else pictures.shape[-2:]
    jacobian = (config or GuidanceConfig()).jacobian
    return selection_batch(domain.prior, height, width, jacobian)


def compute_curve(
    domain: Domain,
    prompt: str,
    selection: Selection | None = None,
    config: GuidanceConfig | None = None,
    *,
    pictures: Tensor | None = None,
    progress: bool = True,
) -> HQSCurve:
    """The HQS curve of a prompt in a domain.

    Args:
        config: of the guidance; default: that of `hqs`.
        pictures: [N, 3, R, R] in [-1, 1] to compute it on; default: `selection.images` held-out
            latents of the domain.
    """
    selection = selection or Selection()
    return hqs(
        domain.prior,
        domain.held_out[: selection.images] if pictures is None else pictures,
        prompt,
        selection.candidates,
        generator=domain.generator if pictures is None else None,
        config=config,
        gradient_map=selection.gradient_map,
        normalise=selection.normalise,
        noise_draws=selection.noise_draws,
        batch_size=pictures_at_once(domain, selection, config, pictures),
        seed=selection.seed,
        progress=progress,
    )
