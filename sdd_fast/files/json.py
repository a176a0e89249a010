"""JSON files: standard, within bounds, and of nothing that cannot be used or printed."""

from __future__ import annotations

import json
import math
import os
import re
from typing import Any

from .atomic import half_character, write_text
from .errors import library_text
from .paths import PathLike, read_bytes

LARGEST = 64 * 2**20
_MOST_DIGITS = 300  # floats end at 1.8e308
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def write_json(path: PathLike, value: Any) -> None:
    """Write `value` as indented standard JSON, atomically.

    Paths become strings; tensors, arrays and numpy scalars become lists and numbers.  NaN and
    infinity raise ValueError, since standard JSON cannot hold them.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False, default=_jsonable, ensure_ascii=False)
    except ValueError as error:
        raise ValueError(
            f"cannot write {path}: {error}; replace NaN and infinity by None before writing"
        ) from error
    write_text(path, text + "\n")


def _jsonable(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # torch.Tensor, numpy.ndarray, numpy scalars
        return value.tolist()
    raise TypeError(
        f"an object of type {type(value).__name__} cannot be written as JSON: {value!r}"
    )


def read_json(path: PathLike, *, infinite: bool = False) -> Any:
    """Parse the JSON file `path`, see `parse_json`; a byte-order mark is passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, in which case the message names file, line and column, larger
            than `LARGEST`, or not a regular file.
    """
    data = read_bytes(path, LARGEST)
    try:
        return parse_json(data.decode("utf-8-sig"), infinite=infinite)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a JSON text file: it is not UTF-8") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {library_text(error)}") from error


def parse_json(text: str, *, infinite: bool = False) -> Any:
    """Parse JSON like `json.loads`, which here raises ValueError for everything that is wrong.

    Integers that no float holds and texts that cannot be printed are wrong too: whoever uses them
    would fail in ways that do not speak of the file. So are NaN and infinity, which are not JSON,
    unless they are `infinite`: diffusers writes them into schedulers' files.
    """
    numbers: dict[str, Any] = {"parse_int": _integer}
    if not infinite:
        numbers |= {"parse_constant": _not_finite, "parse_float": _float}
    try:
        value = json.loads(text, **numbers)
        if _HALF_CHARACTER.search(text):  # cheap, and seldom there
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeEncodeError as error:
        raise ValueError(half_character(error)) from error
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits; at most {_MOST_DIGITS} are accepted")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _not_finite(digits)


def _not_finite(text: str) -> float:
    raise ValueError(f"it holds {text[:40]}, which is no finite number")
