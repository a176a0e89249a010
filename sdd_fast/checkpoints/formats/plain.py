"""Plain data: what a checkpoint may hold once it is read, and in which amount."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .stack_machine import Budget


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


class ArrayType(PickledObject):
    """The type of a numpy array: `code` such as "f4", and `order` of its bytes, "<", ">" or "|"."""

    def __init__(self, code: str) -> None:
        super().__init__("numpy.dtype", {"code": code, "order": "|"})


MOST_ITEMS = 2_000_000
MOST_PATHS = 16_000_000  # of 64 characters: how long "a.b.0" and so on are for all items
DEEPEST = 100  # networks of networks stay below 30
SPARE_BYTES = 64 * 2**20
SHARED = 8  # how often all tensors of a file may be shared

_SCALARS = (type(None), bool, int, float, complex, str, bytes, bytearray, memoryview)
_OTHER_LEAVES = (slice, torch.dtype, torch.Tensor, np.ndarray, Global, ArrayType)
_LEAVES = frozenset(_SCALARS + _OTHER_LEAVES)
_KEYS = frozenset((type(None), bool, int, float, str, bytes))
_LARGEST_INTEGER_KEY = 2**61 - 2  # beyond, different integers have one hash, and dicts turn slow


def as_key(value: Any, budget: Budget) -> Any:
    """`value` as a dict key or a member of a set; a class is known by its name.

    Only small keys of known types: hashing tuples in tuples in … takes unbounded time and depth.

    Raises:
        ValueError: it cannot be one, or there are too many.
    """
    budget.key(value)
    if type(value) is str:
        return value
    if type(value) is Global:
        return value.type
    if type(value) is tuple and len(value) <= 16:
        return tuple(_scalar_key(item) for item in value)
    return _scalar_key(value)


def _scalar_key(value: Any) -> Any:
    if type(value) not in _KEYS:
        raise ValueError(f"a dict or set has a {type(value).__name__} as key")
    if type(value) is int and abs(value) > _LARGEST_INTEGER_KEY:
        raise ValueError("a dict or set has an integer beyond 61 bits as key")
    return value


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
    done: dict[int, tuple[int, int, int, int]] = {}  # id → items, bytes of tensors, depth, paths
    open_now: set[int] = set()
    stack = [content]
    while stack:
        value = stack[-1]
        identity = id(value)
        if identity in done:
            stack.pop()
            continue
        if type(value) in _LEAVES:
            done[identity] = (*_leaf_size(value), 0, 0)
            stack.pop()
            continue
        parts = _parts(value)
        if identity not in open_now:
            open_now.add(identity)
            waiting = [part for part in parts if id(part) not in done]
            if any(id(part) in open_now for part in waiting):
                raise ValueError("it holds a container that contains itself")
            stack.extend(waiting)
            continue
        items, size, depth, paths = 1, 0, 0, 0
        names = parts[: len(parts) // 2] if type(value) in (dict, PickledObject) else []
        for i, part in enumerate(parts):
            if id(part) in open_now:
                raise ValueError("it holds a container that contains itself")
            part_items, part_size, part_depth, part_paths = done[id(part)]
            items, size, depth = items + part_items, size + part_size, max(depth, part_depth + 1)
            name = done[id(names[i - len(names)])][0] if i >= len(names) > 0 else 1
            paths += part_paths + part_items * name
        if depth > DEEPEST:
            raise ValueError(f"its containers are nested more than {DEEPEST} deep")
        if items > MOST_ITEMS:
            raise ValueError(f"it describes more than {MOST_ITEMS:,} items")
        if paths > MOST_PATHS:
            raise ValueError(
                f"the paths to its items have more than 64 × {MOST_PATHS:,} characters"
            )
        if size > most_bytes:
            raise ValueError(f"its tensors would take {size:,} bytes; the file has {file_bytes:,}")
        open_now.discard(identity)
        done[identity] = (items, size, depth, paths)
        stack.pop()
    size = done[id(content)][1]
    if size > most_bytes:
        raise ValueError(f"its tensors would take {size:,} bytes; the file has {file_bytes:,}")


def _leaf_size(value: Any) -> tuple[int, int]:
    if isinstance(value, torch.Tensor):
        return 1, value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return 1, value.nbytes
    if isinstance(value, str | bytes | bytearray | memoryview):
        return 1 + len(value) // 64, 0
    return 1, 0


def _parts(value: Any) -> list[Any]:
    kind = type(value)
    if kind in (list, tuple):
        return list(value)
    if kind is dict:
        return [*value.keys(), *value.values()]
    if kind is PickledObject:
        return [*value.state.keys(), *value.state.values()]
    if kind in (set, frozenset):
        return list(value)
    raise ValueError(f"it holds a {kind.__name__}, which is not plain data")
