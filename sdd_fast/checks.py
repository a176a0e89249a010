"""Checks of settings that several functions share. Imports no torch: command lines use it too."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from contextlib import suppress
from numbers import Real
from typing import Any

MOST = 10**9
"""Of anything that is counted, such as steps."""


def check_count(name: str, value: object, least: int = 1) -> int:
    """Return an integer of any kind, such as numpy's, as Python's.

    Raises:
        ValueError: it is none, or not from `least` to a thousand million.
    """
    count = _integer(value)
    if count is None or not least <= count <= MOST:
        wanted = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{name} must be {wanted}, at most {MOST:,}, got {_short(value)}")
    return count


def check_number(name: str, value: object, *, positive: bool = False) -> None:
    """Raise ValueError unless `value` is a finite number ≥ 0, or > 0."""
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):
            number = float(value)
    if not (0 < number < math.inf or (number == 0 and not positive)):
        wanted = "a positive number" if positive else "0 or more"
        raise ValueError(f"{name} must be {wanted}, got {_short(value)}")


_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for unit, base in (("b", 1000), ("ib", 1024))
}
_LEAST_MEMORY = 2**20


def check_memory_budget(value: object) -> int:
    """Return an amount of memory in bytes: "22GiB", "22 GB", "24000MiB", or a number of bytes.

    Raises:
        ValueError: it is none, or less than a megabyte.
    """
    text = value.strip().lower() if isinstance(value, str) else ""
    told = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text)
    size = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):
            size = float(value)
    elif told and told[2] in _UNITS:
        size = float(told[1]) * _UNITS[told[2]]
    if not 0 < size < math.inf:
        raise ValueError(
            "memory_budget must be a positive, finite amount, such as 22GiB, 22GB, 24000MiB or a "
            f"number of bytes, got {_short(value)}"
        )
    if size < _LEAST_MEMORY:
        raise ValueError(
            f"memory_budget={_short(value)} is {size:g} bytes, too little for any network; give a "
            "unit, as in 22GiB"
        )
    return int(size)


def check_seed(value: object) -> int:
    """Return a seed as Python's integer; ValueError unless it is one in 0 … 2⁶⁴ − 1."""
    seed = _integer(value)
    if seed is None or not 0 <= seed < 2**64:
        raise ValueError(f"a seed must be an integer from 0 to 2⁶⁴ − 1, got {_short(value)}")
    return seed


def check_distinct(prompts: Sequence[str]) -> None:
    """Refuse a prompt that is given twice, be it with other spaces, which a teacher does not see.

    Raises:
        ValueError: there is one.
    """
    seen: dict[str, str] = {}
    for prompt in prompts:
        words = " ".join(prompt.split())
        if words in seen:
            alike = f"{prompt!r} is given twice"
            if seen[words] != prompt:
                alike = f"{seen[words]!r} and {prompt!r} differ in spaces only"
            raise ValueError(f"the prompts must differ, but {alike}")
        seen[words] = prompt


def raise_all(problems: Sequence[ValueError]) -> None:
    """Raise what was found to be wrong, of several things in one message; nothing if there is none.

    Raises:
        ValueError: the only one of them, or one of them all.
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ValueError("\n".join(map(str, problems)))


def _integer(value: Any) -> int | None:
    with suppress(TypeError, ValueError, RuntimeError):  # a tensor's are of the last two
        return None if isinstance(value, bool) else operator.index(value)
    return None


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:36]} …"
