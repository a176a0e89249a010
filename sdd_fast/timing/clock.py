"""Seconds, floating-point operations and bytes of a call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Run = Callable[[], Any]


def wait(device: str | torch.device) -> None:
    """Wait until a device has done what it was given; a CPU has."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()


def seconds(run: Run, device: str | torch.device) -> float:
    """Return the wall time of a call, until the device has finished."""
    wait(device)
    began = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - began


@dataclass(frozen=True)
class Spread:
    """Median and 20th and 80th percentile of samples."""

    median: float
    p20: float
    p80: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Return that of at least one sample."""
        several = list(samples) * 2 if len(samples) == 1 else samples
        tenths = statistics.quantiles(several, n=10, method="inclusive")
        return cls(statistics.median(samples), tenths[1], tenths[7])


@dataclass(frozen=True)
class Work:
    """What a call computes and moves.

    Args:
        flop: of convolutions, matrix products and attention; a multiplication and an addition
            are two.
        moved: bytes of the inputs and outputs of every operation, each tensor once, as if no cache
            held them.
    """

    flop: float
    moved: float


def work_of(run: Run) -> Work:
    """Count what a call computes and moves, its backward passes included."""
    # That of a CPU is not among those that torch counts.
    known = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    flops = FlopCounterMode(display=False, custom_mapping=known)
    flops.mod_tracker = _NoModules()  # type: ignore[assignment]
    moved = _Moved()
    with flops, moved:
        run()
    return Work(float(flops.get_total_flops()), float(moved.bytes))


def _attention(q: Any, k: Any, v: Any, *rest: Any, out_shape: Any = None, **more: Any) -> int:
    return sdpa_flop_count(q, k, v)


class _NoModules(nullcontext[None]):
    """In place of the tracker, whose hooks do not bear gradients at the input of a module."""

    parents = frozenset({"Global"})


class _Moved(TorchDispatchMode):
    """Adds up the bytes of what goes into operations and comes out of them."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False) and "empty" not in func.name():  # which move nothing
            leaves = {id(leaf): leaf for leaf in tree_leaves((args, kwargs, out))}
            for tensor in leaves.values():
                if isinstance(tensor, Tensor):
                    self.bytes += min(tensor.nbytes, tensor.untyped_storage().nbytes())
        return out
