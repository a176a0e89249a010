"""Photographs of clothing as the package's core sees them, see `domains.reader`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ..reader import Target
from .attributes import ATTRIBUTES as ATTRIBUTES, HEADS as HEADS
from .held_out import sample_images as sample_images
from .measure import measure_edit
from .target import target_in as target_in

if TYPE_CHECKING:
    from .. import Domain

NOUNS = {"image": "garment", "kind": "kind of garment"}
LIMITS = (
    "knows gray product photographs of clothing of {size}, on white. Whatever else is in a picture "
    "comes out as the nearest garment; for other photographs train a domain on them (sdd "
    "train-domain --images)"
)
DEMO_PROMPTS = ("dark clothes", "a dress")


def measure(
    domain: Domain,
    mapper: nn.Module,
    lam: float,
    prompt: str,
    *,
    target: Target,
    strength: float,
    images: int,
) -> dict[str, Any]:
    """Read attributes of held-out photographs before and after an edit, see `AttributeReader`."""
    quality = measure_edit(
        domain, mapper, lam, prompt, target=target, strength=strength, images=images
    )
    return quality.to_json()
