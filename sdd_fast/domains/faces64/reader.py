"""Rendered faces as the package's core sees them, see `domains.reader`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ..reader import Target
from .attributes import ATTRIBUTES as ATTRIBUTES, HEADS as HEADS, asked as asked
from .held_out import right_answers as right_answers, sample_images as sample_images
from .measure import measure_edit
from .pairs import edited_pairs as edited_pairs
from .target import target_in as target_in

if TYPE_CHECKING:
    from .. import Domain

NOUNS = {"image": "face", "subject": "person", "yaw": "view"}
LIMITS = (
    "knows rendered faces of {size}. A photograph of a real person comes out as the nearest "
    "rendered face; for photographs use a domain trained on photographs (sdd train-domain --images)"
)
DEMO_PROMPTS = ("a face with white hair", "a surprised face")


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
    """Read attributes of held-out faces before and after an edit, see `AttributeReader`."""
    quality = measure_edit(
        domain, mapper, lam, prompt, target=target, strength=strength, images=images
    )
    return quality.to_json()
