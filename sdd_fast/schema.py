"""What a JSON file of ours may hold: one rule a key, and one error that names all that is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What the value of a key must be; `wanted` completes "… must be"."""

    fits: Callable[[Any], bool]
    wanted: str
    required: bool = False


def problems(content: Any, rules: Mapping[str, Rule]) -> list[str]:
    """Return what is wrong with an object, [] if nothing is; None stands for a key left out."""
    if not isinstance(content, dict):
        return [f"expected an object, got {type(content).__name__}"]
    missing = [key for key, rule in rules.items() if rule.required and content.get(key) is None]
    found = [f"it lacks {', '.join(missing)}"] if missing else []
    return found + [
        f"{key} must be {rule.wanted}, got {content[key]!r:.200}"
        for key, rule in rules.items()
        if content.get(key) is not None and not rule.fits(content[key])
    ]


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number, small enough to compute with."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)


def is_list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def is_object_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))
