"""Rendered faces as the package's core sees them, see `domains.reader`."""

from __future__ import annotations

from .attributes import ATTRIBUTES as ATTRIBUTES, HEADS as HEADS, asked as asked
from .held_out import right_answers as right_answers, sample_images as sample_images
from .measure import measure_edit as measure_edit
from .pairs import edited_pairs as edited_pairs
from .target import target_in as target_in

NOUNS = {"image": "face", "subject": "person", "yaw": "view"}
LIMITS = (
    "knows rendered faces of {size}. A photograph of a real person comes out as the nearest "
    "rendered face; for photographs use a domain trained on photographs (sdd train-domain --images)"
)
DEMO_PROMPTS = ("a face with white hair", "a surprised face")
