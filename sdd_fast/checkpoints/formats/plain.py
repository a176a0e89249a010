"""Plain data: what a checkpoint may hold once it is read, and in which amount."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch


@dataclass(frozen=True)
class PickledObject:
    """An object of another program's class: its state, without the class.

    Args:
        type: what the class was called: "argparse.Namespace", or for a network that carries its
            own source code (NVIDIA's) the bare name, such as "Generator".
        state: its attributes. Of a torch module: also `_parameters`, `_buffers`, `_modules`.
    """

    type: str
    state: dict[str, Any]


class Global(PickledObject):
    """A class or function itself, by its full name: nothing but that name."""

    def __init__(self, name: str) -> None:
        super().__init__(name, {})


class Refused(ValueError):
    """What is wrong with a file, in words that need no more about where."""


MOST_ITEMS = 2_000_000
MOST_PATHS = 16_000_000  # of 64 characters: how long "a.b.0" and so on are for all items
DEEPEST = 100  # networks of networks stay below 30
SPARE_BYTES = 64 * 2**20
SHARED = 8  # how often all tensors of a file may be shared
_LONGEST_SHOWN = 80  # characters; the name of torch's longest function has 60

_SCALARS = (type(None), bool, int, float, complex, str, bytes, bytearray, memoryview)
_LEAVES = frozenset((*_SCALARS, slice, torch.dtype, torch.Tensor, np.ndarray, Global))


class _Size(NamedTuple):
    items: int
    tensors: int = 0  # bytes
    height: int = 0
    paths: int = 0  # of 64 characters


def check_plain(content: Any, file_bytes: int) -> None:
    """Make sure that code which walks through `content` ends soon and needs no defences.

    A few bytes of a pickle can describe a list that contains itself, tuples nested a million deep,
    or one tuple shared so often that 2⁶⁴ items appear to be there.

    Args:
        content: of any type.
        file_bytes: length of the file, to which the tensors are compared.

    Raises:
        ValueError: something in it is not plain data, contains itself, is nested deeper than
            `DEEPEST`, or with everything that is shared counted as often as it appears there are
            more than `MOST_ITEMS` items, paths to them of more than `MOST_PATHS`, or tensors of
            more than `SHARED` times the file.
    """
    most_bytes = SHARED * file_bytes + SPARE_BYTES
    sizes: dict[int, _Size | None] = {}  # None while the container is being walked through

    def size_of(value: Any, depth: int) -> _Size:
        if type(value) in _LEAVES or isinstance(value, np.dtype):
            size = _leaf_size(value)
        elif id(value) not in sizes:
            sizes[id(value)] = None
            size = sizes[id(value)] = sum_of(value, depth)
        elif (known := sizes[id(value)]) is not None:
            return known
        else:
            raise ValueError("it holds a container that contains itself")
        if size.height > DEEPEST:
            raise ValueError(f"its containers are nested more than {DEEPEST} deep")
        if size.items > MOST_ITEMS:
            raise ValueError(f"it describes more than {MOST_ITEMS:,} items")
        if size.paths > MOST_PATHS:
            raise ValueError(
                f"the paths to its items have more than 64 × {MOST_PATHS:,} characters"
            )
        if size.tensors > most_bytes:
            raise ValueError(
                f"its tensors would take {size.tensors:,} bytes; the file has {file_bytes:,}"
            )
        return size

    def sum_of(container: Any, depth: int) -> _Size:
        if depth > DEEPEST:
            return _Size(1, height=depth)
        names, parts = _parts(container)
        keys = [size_of(name, depth + 1).items for name in names]
        inner = [size_of(part, depth + 1) for part in parts]
        lengths = keys or [1] * len(parts)
        paths = sum(size.paths + size.items * n for size, n in zip(inner, lengths, strict=True))
        return _Size(
            1 + sum(size.items for size in inner) + sum(keys),
            sum(size.tensors for size in inner),
            1 + max((size.height for size in inner), default=-1),
            paths + sum(keys),
        )

    size_of(content, 0)


_ONE = _Size(1)


def _leaf_size(value: Any) -> _Size:
    if isinstance(value, torch.Tensor):
        return _Size(1, value.numel() * value.element_size())
    if isinstance(value, np.ndarray):
        return _Size(1, value.nbytes)
    if isinstance(value, str | bytes | bytearray | memoryview) and len(value) >= 64:
        return _Size(1 + len(value) // 64)
    return _ONE


def _parts(value: Any) -> tuple[list[Any], list[Any]]:
    """Return the keys, if it has any, and the items of a container."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return [], list(value)
    if kind is dict or kind is PickledObject:
        entries = value if kind is dict else value.state
        return list(entries), list(entries.values())
    raise ValueError(f"it holds an object of type {kind.__name__}, which is not plain data")


def shown(name: str) -> str:
    """Make `name` printable and short: it comes from a file and may hold escape sequences."""
    start = name[: _LONGEST_SHOWN + 1]
    text = start if start.isascii() and start.isprintable() else ascii(start)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
