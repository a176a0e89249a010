"""Which timesteps of a curve are chosen: above a threshold, the best few, or the plateau."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._deprecated import renamed_fields
from ..checks import check_count, check_memory_budget, check_number, check_seed
from .curve import HQSCurve


@renamed_fields(normalise="normalize")
@dataclass(frozen=True)
class Selection:
    """How the HQS curve is computed, and which of its timesteps are chosen.

    Args:
        images: number of held-out latents of the domain to compute it on.
        candidates: timesteps of the curve; None: 50, 100 … 950 of 1000.
        gradient_map, gradient_at, normalize, noise_draws, seed, search: see `hqs`.
        batch_size: images at once; None: as many as fit `memory_budget`, at most 8. It changes the
            curve by rounding only.
        memory_gb: deprecated; gigabytes for what is computed at once, beside the weights.
        top: choose the k best timesteps. threshold: choose those above ξ. Neither: those whose HQS
            is within `margin` of the largest. An adaptive search settles the largest alone: its
            neighbors are told from fewer images.
        memory_budget: for everything in the device's memory, such as "22GiB"; None: what a 24 GB
            card has.
    """

    images: int = 16
    candidates: tuple[int, ...] | None = None
    gradient_map: Literal["signed", "abs-mean"] = "signed"
    normalize: Literal["per-image", "of-mean"] = "per-image"
    noise_draws: int = 1
    seed: int = 0
    top: int | None = None
    threshold: float | None = None
    margin: float = 0.1
    batch_size: int | None = None
    gradient_at: Literal["image", "latent"] = "image"
    memory_gb: float | None = None
    search: Literal["exhaustive", "adaptive"] = "exhaustive"
    memory_budget: int | float | str | None = None

    def __post_init__(self) -> None:
        for name in ("images", "noise_draws"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))
        object.__setattr__(self, "seed", check_seed(self.seed))
        for name in ("batch_size", "top"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_count(name, getattr(self, name)))
        check_number("margin", self.margin)
        if self.memory_gb is not None:
            check_number("memory_gb", self.memory_gb, positive=True)
        if self.memory_budget is not None:
            check_memory_budget(self.memory_budget)
        given = [
            name
            for name in ("batch_size", "memory_budget", "memory_gb")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"give {' or '.join(given)}, not both")
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is an HQS, −1 … 1, got {self.threshold!r}")
        if self.top is not None and self.threshold is not None:
            raise ValueError("choose timesteps either by top or by threshold, not by both")
        if self.top is not None and self.candidates and self.top > len(self.candidates):
            raise ValueError(f"k must be 1 to {len(self.candidates)}, got top={self.top}")


def choose(curve: HQSCurve, selection: Selection) -> tuple[list[int], str]:
    """Apply the rule of `selection` to a curve: the timesteps chosen, and the rule in words.

    Raises:
        ValueError: no timestep is above the threshold, or the curve has fewer than `top`.
    """
    if selection.threshold is not None:
        return curve.select(selection.threshold), f"HQS above ξ = {selection.threshold:g}"
    if selection.top is not None:
        return sorted(curve.top(selection.top)), f"the {selection.top} largest HQS"
    return curve.plateau(selection.margin), f"HQS within {selection.margin:g} of the largest"
