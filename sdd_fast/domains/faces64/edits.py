"""The prompts that edits of rendered faces are measured with, and which attribute each is about."""

from __future__ import annotations

EDITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a face with white hair": ("hair_color", ("white",)),
    "a face with a beard": ("beard", ("yes",)),
    "a bald face": ("hair_length", ("bald",)),
    "a surprised face": ("expression", ("surprised",)),
    "a face with glasses": ("glasses", ("yes",)),
    "a smiling face": ("expression", ("smiling",)),
    "an angry face": ("expression", ("angry",)),
    # the shipped teacher follows no words for other turns of the head
    "a face, turned to the left": ("yaw", ("left",)),
}
"""Prompt → (attribute, the values that count as success)."""

GUIDANCE_RMS: dict[str, float] = {
    "a face with white hair": 1.6,  # more only saturates it
    "a face with a beard": 4.0,  # a blond beard on tan skin is hard to see
}
"""Where the usual one is not best, see `balanced_guidance_scale`."""
