"""Read off a prompt which attribute of a rendered face it is about.

The words are those of the captions, so that an edit by any prompt in these words can be measured,
not only by the few prompts of `edits`.
"""

from __future__ import annotations

import re

from ..reader import Target
from .attributes import ATTRIBUTES

_COLORS = "|".join(ATTRIBUTES["hair_color"])

# (pattern, attribute, values); a group in the pattern is the value. Earlier ones win.
_PATTERNS: list[tuple[str, str, tuple[str, ...]]] = [
    (r"\b(?:no|without) glasses\b", "glasses", ("no",)),
    (r"\bglasses\b", "glasses", ("yes",)),
    (r"\bshaved\b|\b(?:no|without a) beard\b", "beard", ("no",)),
    (r"\bbeard\b", "beard", ("yes",)),
    (r"\bbald\b", "hair_length", ("bald",)),
    (rf"\b(short|long)(?: (?:{_COLORS}))? hair\b", "hair_length", ()),
    (rf"\b({_COLORS}) hair\b", "hair_color", ()),
    (r"\bsmiling\b|\bhappy\b", "expression", ("smiling",)),
    (r"\b(neutral|angry|surprised)\b", "expression", ()),
    (r"\bside view\b", "yaw", ("left", "right")),
    (r"\b(?:turned to the|looking) (left|right)\b", "yaw", ()),
    (r"\bfront view\b|\bfacing the camera\b", "yaw", ("front",)),
    (rf"\b({'|'.join(ATTRIBUTES['background'])}) background\b", "background", ()),
    (rf"\b({'|'.join(ATTRIBUTES['skin'])}) skin\b", "skin", ()),
]


def targets_in(prompt: str) -> dict[str, tuple[str, ...]]:
    """Return every attribute that the prompt names, with the values that fit its words.

    >>> targets_in("an angry face with white hair")
    {'hair_color': ('white',), 'expression': ('angry',)}
    """
    found: dict[str, tuple[str, ...]] = {}
    for pattern, attribute, values in _PATTERNS:
        match = re.search(pattern, prompt.lower())
        if match and attribute not in found:
            found[attribute] = values or (match.group(1),)
    return found


def target_in(prompt: str) -> Target | None:
    """Return the one attribute that the prompt is about; None if it names none or several."""
    found = list(targets_in(prompt).items())
    return found[0] if len(found) == 1 else None
