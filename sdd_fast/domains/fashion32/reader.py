"""Photographs of clothing as the package's core sees them, see `domains.reader`."""

from __future__ import annotations

from .attributes import ATTRIBUTES as ATTRIBUTES, HEADS as HEADS
from .held_out import sample_images as sample_images
from .measure import measure_edit as measure_edit
from .target import target_in as target_in

NOUNS = {"image": "garment", "kind": "kind of garment"}
LIMITS = (
    "knows gray product photographs of clothing of {size}, on white. Whatever else is in a picture "
    "comes out as the nearest garment; for other photographs train a domain on them (sdd "
    "train-domain --images)"
)
DEMO_PROMPTS = ("dark clothes", "a dress")
