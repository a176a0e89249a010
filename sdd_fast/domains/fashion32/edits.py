"""The prompts that edits of clothing are measured with, and which attribute each is about."""

from __future__ import annotations

EDITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dark clothes": ("brightness", ("dark",)),
    "light clothes": ("brightness", ("light",)),
    "a dress": ("kind", ("dress",)),
    "a bag": ("kind", ("bag",)),
    "trousers": ("kind", ("trousers",)),
    "an ankle boot": ("kind", ("boot",)),
    "a t-shirt": ("kind", ("t-shirt",)),
    "a coat": ("kind", ("coat",)),
}
"""Prompt → (attribute, the values that count as success)."""

GUIDANCE_RMS: dict[str, float] = {
    "dark clothes": 1.25,  # more saturates it
    "light clothes": 1.0,  # more turns garments into other kinds
}
"""Where the usual one is not best, see `balanced_guidance_scale`."""

SAMPLED: dict[str, tuple[str, tuple[str, ...]]] = EDITS | {
    "a pullover": ("kind", ("pullover",)),
    "a sandal": ("kind", ("sandal",)),
    "a shirt": ("kind", ("shirt",)),
    "a sneaker": ("kind", ("sneaker",)),
}
"""Prompts that the diffusion model is sampled from, in the same form."""
