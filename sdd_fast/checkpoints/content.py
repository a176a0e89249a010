"""What every layout asks of a file's content."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ..models.save import SaveLoadMixin
from .formats.read import Checkpoint, PickledObject


def read_own(checkpoint: Checkpoint, *networks: type[SaveLoadMixin]) -> Any:
    """Build the network of a file that `save` of one of `networks` wrote; None for other files."""
    for network in networks:
        if checkpoint.metadata.get("network") == network.__name__:
            source = str(checkpoint.path)
            built = network.from_tensors(checkpoint.content, checkpoint.metadata, source)
            assert isinstance(built, nn.Module)
            return built.eval().requires_grad_(False)
    return None


def attributes(value: Any) -> Any:
    """A pickled object (such as an `argparse.Namespace`) as the dict of its attributes."""
    return value.state if isinstance(value, PickledObject) else value


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor within `value`, by its path."""
    value = attributes(value)
    if isinstance(value, Tensor):
        yield name, value
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, inner in items:
        yield from tensors_in(inner, f"{name}.{key}" if name else str(key))


def holds_tensors(value: Any) -> bool:
    """Whether there is a tensor within `value`."""
    return next(tensors_in(value), None) is not None


def shape_of(tensors: Mapping[str, Tensor], key: str, rank: int, source: str) -> tuple[int, ...]:
    """The shape of a tensor that the architecture is told from; ValueError without it."""
    if key not in tensors:
        raise ValueError(f"{source}: missing: {key}, which tells the network's size")
    shape = tuple(tensors[key].shape)
    if len(shape) != rank:
        raise ValueError(f"{source}: {key} must have {rank} dimensions, got {list(shape)}")
    return shape


def count_indexed(keys: Mapping[str, Any], name: str) -> int:
    """How many different i there are in the keys `name.i.…`."""
    matches = (re.match(rf"{re.escape(name)}\.(\d+)\.", key) for key in keys)
    return len({match[1] for match in matches if match})
