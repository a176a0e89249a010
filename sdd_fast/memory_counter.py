"""What a forward pass and its backward pass take of memory: measured of one, before many are made.

On a GPU by its allocator. Elsewhere by counting the tensors that are alive, in a run with tensors
that have shapes and no contents (PyTorch's fake tensors), so that nothing is computed and full-size
networks take a second. What runs beside it changes neither.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .out_of_memory import ran_out, release


@dataclass(frozen=True)
class Cost:
    """Bytes beyond the weights: `kept` between forward and backward pass, `peak` at any time."""

    kept: float = 0.0
    peak: float = 0.0


def measure(
    networks: Sequence[Any],
    device: torch.device,
    forward: Callable[[], Any],
    backward: Callable[[Any], Any] | None = None,
) -> Cost:
    """Return what a forward pass takes, and a backward pass of its result.

    Args:
        networks: whose weights take part; what is no module is skipped.
        forward: makes its own inputs, on the device.

    Returns:
        Infinity, where memory runs out already of this.
    """
    try:
        return _measured(networks, device, forward, backward)
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
    release()
    return Cost(math.inf, math.inf)


def _measured(
    networks: Sequence[Any],
    device: torch.device,
    forward: Callable[[], Any],
    backward: Callable[[Any], Any] | None,
) -> Cost:
    if device.type == "cuda":
        return _allocated(device, forward, backward)
    weights = [*tensors_of(networks)]
    if any(isinstance(tensor, FakeTensor) for tensor in weights):
        return _counted(weights, forward, backward)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fakes:
            return _counted([fakes.from_tensor(t) for t in weights], forward, backward)
    except (RuntimeError, TypeError, ValueError, AssertionError):
        # A network of the caller's may look at values, which fake tensors have not.
        return _counted(weights, forward, backward)


def tensors_of(networks: Iterable[Any]) -> Iterator[Tensor]:
    """Yield weights and buffers of networks; what is no module has none."""
    for network in networks:
        if isinstance(network, nn.Module):
            yield from network.parameters()
            yield from network.buffers()


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return what tensors take together, each storage once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def _counted(
    weights: Sequence[Tensor],
    forward: Callable[[], Any],
    backward: Callable[[Any], Any] | None,
) -> Cost:
    with LiveBytes(weights) as live:
        result = forward()
        kept = live.now
        if backward is not None:
            backward(result)
    return Cost(kept, live.peak)


def _allocated(
    device: torch.device, forward: Callable[[], Any], backward: Callable[[Any], Any] | None
) -> Cost:
    with torch.cuda.device(device):
        for _ in range(2):  # the first time more is allocated, which then stays
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            result = forward()
            kept = torch.cuda.memory_allocated() - before
            if backward is not None:
                backward(result)
            del result
            peak = torch.cuda.max_memory_allocated() - before
    return Cost(max(0, kept), max(1, peak))


class LiveBytes(TorchDispatchMode):
    """Counts tensors that are made within it, while they are alive.

    Args:
        but: tensors whose storages do not count, such as weights, of which there are views.

    Attributes:
        now, peak: bytes alive, and the most that were so far.
    """

    def __init__(self, but: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._but = list(but)  # alive, so that nothing else gets their address
        self._known = {tensor.untyped_storage()._cdata for tensor in self._but}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
