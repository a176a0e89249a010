"""Read off a prompt which attribute of a garment it is about, in the words of the captions."""

from __future__ import annotations

import re

from ..reader import Target

# (pattern, attribute, values). Earlier ones win: a t-shirt is no shirt.
_PATTERNS: list[tuple[str, str, tuple[str, ...]]] = [
    (r"\bdark\b", "brightness", ("dark",)),
    (r"\blight\b", "brightness", ("light",)),
    (r"\bt-?shirt\b|\btop\b", "kind", ("t-shirt",)),
    (r"\btrousers\b|\bpants\b", "kind", ("trousers",)),
    (r"\bpullover\b|\bsweater\b", "kind", ("pullover",)),
    (r"\bdress\b", "kind", ("dress",)),
    (r"\bcoat\b|\bjacket\b", "kind", ("coat",)),
    (r"\bsandals?\b", "kind", ("sandal",)),
    (r"\bshirt\b", "kind", ("shirt",)),
    (r"\bsneakers?\b", "kind", ("sneaker",)),
    (r"\bbag\b", "kind", ("bag",)),
    (r"\bboots?\b", "kind", ("boot",)),
]


def targets_in(prompt: str) -> dict[str, tuple[str, ...]]:
    """Return every attribute that the prompt names, with the values that fit its words.

    >>> targets_in("a dark dress")
    {'brightness': ('dark',), 'kind': ('dress',)}
    """
    found: dict[str, tuple[str, ...]] = {}
    for pattern, attribute, values in _PATTERNS:
        if attribute not in found and re.search(pattern, prompt.lower()):
            found[attribute] = values
    return found


def target_in(prompt: str) -> Target | None:
    """Return the one attribute that the prompt is about; None if it names none or both."""
    found = list(targets_in(prompt).items())
    return found[0] if len(found) == 1 else None
