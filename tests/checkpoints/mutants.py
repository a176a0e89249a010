"""Changes to what a checkpoint file holds, which no change of its bytes would find."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdd_fast.checkpoints.formats.read import PickledObject

NUMBERS: list[Any] = [
    0,
    1,
    -1,
    2,
    3,
    64,
    2**31,
    2**62,
    2**70,
    10**300,
    0.5,
    math.nan,
    math.inf,
    True,
]
_ODD: dict[Any, Any] = {1: 2}
VALUES: list[Any] = [
    *NUMBERS, None, "", "1", "x" * 100, "\x1b[2J", b"1", 1j, [], {}, (), [[]], {"a": [1]}, {1: 2},
    torch.float16, slice(1), {1, 2}, np.zeros(3, np.int8), np.zeros((), np.float64),
    PickledObject("Generator", {}), PickledObject("x", {"_modules": 3}), PickledObject("x", _ODD),
    PickledObject("x", {"_modules": {}, "_parameters": {}, "_buffers": {"a": None}}),
]  # fmt: skip
TYPES = [
    torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool,
    torch.complex64, torch.float8_e4m3fn, torch.uint8,
]  # fmt: skip
LENGTHS = [0, 1, 2, 3, 7, 4096, 2**40, 2**62]


def tensor_like(choice: random.Random, tensor: Tensor) -> Tensor:
    """Another shape, type or value; without elements it may claim to be of any size."""
    kind = choice.randrange(9)
    if tensor.numel() > 2**22:  # by an earlier change
        return tensor[:0]
    if kind == 0:
        return tensor.to(choice.choice(TYPES))
    if kind == 1:
        return torch.full_like(tensor, choice.choice([0, 1, 100]))
    if kind == 2 and tensor.is_floating_point():
        return torch.full_like(tensor, choice.choice([math.nan, math.inf, -math.inf, 6e4]))
    shape = list(tensor.shape)
    if kind <= 4 and shape:
        shape[choice.randrange(len(shape))] = choice.choice([0, 1, 2, 3, 5])
    elif kind == 5:
        shape = shape[1:] if choice.randrange(2) else [*shape, 1]
    elif kind == 6:
        shape = choice.choice([[], [0], [1], [1] * 7, [0] * 3])
    elif kind == 7:
        huge = [choice.choice(LENGTHS) for _ in shape[1:]]
        shape = [0, *huge] if math.prod(max(size, 1) for size in huge) < 2**60 else [0]
    else:
        shape.reverse()
    return torch.zeros((), dtype=tensor.dtype).expand(shape)


def key_like(choice: random.Random, key: Any, others: list[Any]) -> Any:
    if not isinstance(key, str) or not key:
        return choice.choice([0, "a", b"a", ("a", 1), None])
    kind = choice.randrange(6)
    if kind == 0:
        return choice.choice([0, 5, b"a", ("a", 1), None, True, 0.5, "", ".", "...", "encoder."])
    if kind == 1:
        digits = [i for i, letter in enumerate(key) if letter.isdigit()] or [0]
        at = choice.choice(digits)
        return (
            key[:at] + choice.choice(["9", "99999999", "", "-1", "٣", "9" * 5000]) + key[at + 1 :]
        )
    if kind == 2:
        return choice.choice(["module.", "encoder.", "decoder.", "mapper.", "a."]) + key
    if kind == 3:
        return key.partition(".")[2]
    if kind == 4:
        return str(choice.choice(others))
    return key[:-1] + choice.choice("abc\x1b\n")


def mutate(choice: random.Random, content: Any) -> Any:
    """A copy of `content` in which one thing, somewhere, is another."""
    inner = content.state if isinstance(content, PickledObject) else content
    if isinstance(inner, dict) and inner and choice.randrange(12):
        changed = dict(inner)
        # What is not a tensor is rare, and decides most.
        rare = [key for key, value in inner.items() if not isinstance(value, Tensor)]
        key = choice.choice(rare if rare and choice.randrange(4) else list(inner))
        kind = choice.randrange(8)
        if kind == 0:
            del changed[key]
        elif kind == 1:
            changed[key_like(choice, key, list(inner))] = changed.pop(key)
        elif kind == 2:
            changed[key_like(choice, key, list(inner))] = choice.choice(VALUES)
        else:
            changed[key] = mutate(choice, inner[key])
        same_kind = isinstance(content, PickledObject)
        return PickledObject(content.type, changed) if same_kind else changed
    if isinstance(inner, (list, tuple)) and inner and choice.randrange(4):
        at = choice.randrange(len(inner))
        changed_items = [*inner[:at], mutate(choice, inner[at]), *inner[at + 1 :]]
        return type(inner)(changed_items)
    if isinstance(inner, Tensor) and choice.randrange(6):
        return tensor_like(choice, inner)
    if isinstance(content, PickledObject) and choice.randrange(2):
        return PickledObject(choice.choice(["", "Discriminator", "x.Generator"]), content.state)
    return choice.choice(VALUES)


def mutants(content: Any, seed: int, count: int) -> Iterator[Any]:
    choice = random.Random(seed)
    for _ in range(count):
        changed = content
        for _ in range(choice.choice((1, 1, 1, 2, 4))):
            changed = mutate(choice, changed)
        yield changed
