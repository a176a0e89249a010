"""Other editors of images by a prompt, to compare with: `load_baseline(name, domain).edit(…)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .baseline import Baseline as Baseline
from .delta_denoising import DeltaDenoising
from .styleclip_direction import StyleClipDirection
from .styleclip_mapper import StyleClipMapper
from .styleclip_optimization import StyleClipOptimization
from .stylemc import StyleMC

if TYPE_CHECKING:
    from ..domains import Domain

BASELINES: dict[str, type[Baseline]] = {
    "styleclip-mapper": StyleClipMapper,
    "styleclip-optimization": StyleClipOptimization,
    "styleclip-direction": StyleClipDirection,
    "stylemc": StyleMC,
    "delta-denoising": DeltaDenoising,
}
"""Name → class, in the order of tables."""


def load_baseline(name: str, domain: Domain, **settings: Any) -> Baseline:
    """Make a baseline of a domain's parts.

    Args:
        name: one of `BASELINES`.
        settings: of its class, in place of those that were found best on validation images.

    Raises:
        ValueError: an unknown name, or the domain lacks a part that the baseline needs.
    """
    if name not in BASELINES:
        raise ValueError(f"unknown baseline {name!r}; there are: {', '.join(BASELINES)}")
    return BASELINES[name](domain, **settings)
