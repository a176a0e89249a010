"""Networks through torch.compile, for the time of one call and for its thread alone.

No network is changed: `in_use` says what is called in its place. What was compiled of one is kept
as long as the network itself, for later calls; it is compiled again for another shape.
"""

from __future__ import annotations

import functools
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..out_of_memory import ran_out

_in_use: ContextVar[Mapping[int, Compiled]] = ContextVar("_in_use", default=MappingProxyType({}))
"""id of a network → what is called in its place."""
_kept: WeakKeyDictionary[nn.Module, dict[str, Callable[..., Any]]] = WeakKeyDictionary()


class Compiled:
    """A network through torch.compile; called as the network is.

    Attributes:
        seconds: what the calls took in which something was compiled.
    """

    def __init__(self, network: nn.Module, backend: str) -> None:
        self.network, self.backend, self.seconds = network, backend, 0.0
        kept = _kept.setdefault(network, {})
        if backend not in kept:
            kept[backend] = torch.compile(call_anew(), backend=backend, dynamic=False)
        self._call = kept[backend]

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        graphs, began = _graphs(), time.perf_counter()
        try:
            result = self._call(self.network, *inputs, **named)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise _unusable(self.backend, error) from error
        if _graphs() != graphs:
            self.seconds += time.perf_counter() - began
        return result

    def take_seconds(self) -> float:
        """Return `seconds`, and start again at 0."""
        taken, self.seconds = self.seconds, 0.0
        return taken


@contextmanager
def compiled(network: nn.Module, backend: str) -> Iterator[Compiled]:
    """Within it, and in this thread alone, `in_use(network)` is compiled."""
    made = Compiled(network, backend)
    token = _in_use.set({**_in_use.get(), id(network): made})
    try:
        yield made
    finally:
        _in_use.reset(token)


@contextmanager
def as_they_are() -> Iterator[None]:
    """Within it networks are called as they are, for whoever watches their modules."""
    token = _in_use.set({})
    try:
        yield
    finally:
        _in_use.reset(token)


def in_use(network: Any) -> Any:
    """Return what to call for a network: itself, or what `compiled` has made of it."""
    return _in_use.get().get(id(network), network)


@functools.cache
def check_compiler(backend: str, device: torch.device) -> None:
    """Raise ValueError, before any work, unless torch.compile works here with this backend."""
    if device.type == "cpu" and backend == "inductor":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:  # what was compiled earlier is found on the disk, without a compiler
            get_cpp_compiler()
        except RuntimeError as error:
            raise _unusable(backend, error) from error
    try:
        call = torch.compile(call_anew(), backend=backend, dynamic=False)
        call(torch.square, torch.zeros(4, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        raise _unusable(backend, error) from error


def _unusable(backend: str, error: BaseException) -> Exception:
    if ran_out(error):
        return MemoryError(f"memory ran out while torch.compile was at work: {error}")
    why = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ValueError(
        f"torch.compile does not work here with the backend {backend!r}: {why}. On a CPU it needs "
        "a C++ compiler (g++, or another that the environment variable CXX names), on a GPU "
        "triton; or do without compile (on the command line --compile)"
    )


def call_anew() -> Callable[..., Any]:
    """Return a function that calls a network, with a code object of its own.

    By that torch keeps what it compiled, and gives up after a few shapes of all together.
    """

    def call(network: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        return network(*inputs, **named)

    return types.FunctionType(call.__code__.replace(), globals())


def _graphs() -> int:
    """Return how many graphs torch has compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
