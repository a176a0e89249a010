"""What a rendered face can be asked for: eight labeled attributes, and how they are drawn.

Every attribute is one classifier head and one set of words in the captions. `hair_color` of a
bald head is drawn (brows and beard still show it) but is not visible as *hair*: measurements that
ask for the hair's color leave bald faces out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "skin": ("pale", "tan", "brown", "dark"),
    "hair_color": ("black", "brown", "blond", "red", "white", "blue"),
    "hair_length": ("bald", "short", "long"),
    "expression": ("neutral", "smiling", "angry", "surprised"),
    "glasses": ("no", "yes"),
    "beard": ("no", "yes"),
    "yaw": ("front", "left", "right"),
    "background": ("gray", "blue", "green", "orange", "purple"),
}

# Rarer values are the ones whose absence is the natural state of a face; all others are equal.
_WEIGHTS: dict[str, tuple[float, ...]] = {
    "hair_length": (0.2, 0.4, 0.4),
    "glasses": (0.65, 0.35),
    "beard": (0.65, 0.35),
    "yaw": (0.5, 0.25, 0.25),
}

HEADS: dict[str, int] = {name: len(values) for name, values in ATTRIBUTES.items()}


def sample_attributes(n: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Draw `n` independent attribute combinations: {name: int64 [n]}."""
    labels = {}
    for name, values in ATTRIBUTES.items():
        weights = torch.tensor(_WEIGHTS.get(name, (1.0,) * len(values)))
        labels[name] = torch.multinomial(weights, n, replacement=True, generator=rng)
    return labels


def value_index(attribute: str, value: str) -> int:
    """Return the index of `value` among `ATTRIBUTES[attribute]`; ValueError lists what exists."""
    if attribute not in ATTRIBUTES:
        raise ValueError(f"unknown attribute {attribute!r}; known: {', '.join(ATTRIBUTES)}")
    if value not in ATTRIBUTES[attribute]:
        known = ", ".join(ATTRIBUTES[attribute])
        raise ValueError(f"unknown {attribute} {value!r}; known: {known}")
    return ATTRIBUTES[attribute].index(value)


def asked(labels: Mapping[str, Tensor], edited: str | None = None) -> dict[str, Tensor]:
    """Return of which faces each attribute but the edited one can be asked: bool [N].

    The hair of a bald head has no color to read; an edit of the hair's length may take it away or
    bring it about, and is not asked for it at all.
    """
    hair = labels["hair_length"] != ATTRIBUTES["hair_length"].index("bald")
    everywhere = torch.ones_like(hair)
    gone = {edited, "hair_color"} if edited == "hair_length" else {edited}
    return {
        name: hair if name == "hair_color" else everywhere
        for name in ATTRIBUTES
        if name not in gone
    }
