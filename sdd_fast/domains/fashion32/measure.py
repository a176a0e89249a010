"""Measure what an edit does to photographs of clothing that no network has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..evaluate import measure_on
from ..reader import EditQuality, Target
from .attributes import ATTRIBUTES
from .held_out import load_held_out, to_images, without

if TYPE_CHECKING:
    from .. import Domain


def measure_edit(
    domain: Domain,
    mapper: nn.Module,
    lam: float,
    prompt: str,
    *,
    target: Target,
    strength: float = 1.0,
    images: int = 256,
) -> EditQuality:
    """Encode held-out photographs that lack the target, edit them and read the attributes off.

    Args:
        images: how many; fewer where fewer lack the target.

    Raises:
        ValueError: the domain has no classifier or no encoder.
        FileNotFoundError: its held-out photographs are missing.
    """
    photographs = without(load_held_out(domain), [target], images)
    before = to_images(photographs)
    return measure_on(domain, mapper, lam, prompt, before, photographs.labels, target, strength)


def agreement(seen: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of photographs whose attribute reads as labeled."""
    return {name: (seen[name] == labels[name]).double().mean().item() for name in ATTRIBUTES}
