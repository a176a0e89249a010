"""Captions of photographs of clothing: the kind, the brightness, both or neither.

A third of those of a dark or light garment name its brightness and not its kind ("dark clothes"),
so that there are words for a change of the one that leaves the other. Clothes that are neither dark
nor light have no word for it.
"""

from __future__ import annotations

import random

from torch import Tensor

from .attributes import ATTRIBUTES

SOURCE_TEXT = "a photo of clothes"

_FRAMES = ("a photo of {}", "{}", "a picture of {}", "an image of {}")
_KINDS: dict[str, tuple[str, ...]] = {
    "t-shirt": ("a t-shirt", "a top"),
    "trousers": ("trousers", "pants"),
    "pullover": ("a pullover", "a sweater"),
    "dress": ("a dress",),
    "coat": ("a coat", "a jacket"),
    "sandal": ("a sandal",),
    "shirt": ("a shirt",),
    "sneaker": ("a sneaker",),
    "bag": ("a bag",),
    "boot": ("an ankle boot", "a boot"),
}
_ANY = ("clothes", "clothing", "a garment")
_NAMED = {"kind": 0.55, "brightness": 0.7}  # how often


def caption(values: dict[str, str], rng: random.Random) -> str:
    """Write a caption of a garment with these values of the attributes."""
    nouns = _KINDS[values["kind"]] if rng.random() < _NAMED["kind"] else _ANY
    words = rng.choice(nouns)
    if values["brightness"] != "medium" and rng.random() < _NAMED["brightness"]:
        words = _with_adjective(values["brightness"], words)
    return rng.choice(_FRAMES).format(words)


def _with_adjective(adjective: str, words: str) -> str:
    """Return "a dark ankle boot" for "an ankle boot"."""
    for article in ("a ", "an "):
        if words.startswith(article):
            return f"a {adjective} {words.removeprefix(article)}"
    return f"{adjective} {words}"


def captions(labels: dict[str, Tensor], rng: random.Random) -> list[str]:
    """Write a caption for each row of `labels` ({attribute: int64 [B]})."""
    rows = {name: labels[name].tolist() for name in ATTRIBUTES}
    return [
        caption({name: ATTRIBUTES[name][rows[name][i]] for name in ATTRIBUTES}, rng)
        for i in range(len(rows["kind"]))
    ]
