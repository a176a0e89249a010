"""What the ops need to know about `torch.autocast`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_any_autocast = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)


# Asked once: torch 2.11 cannot trace the question, and marking it as constant for the compiler
# would import the compiler together with this package.
_DEVICES = frozenset(
    device
    for device in ("cpu", "cuda", "mps", "xpu", "hpu")
    if torch.amp.is_autocast_available(device)
)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast asks for on the device of `x`; None when it is off or `x` is wider
    than autocast touches (float64)."""
    if not _any_autocast():  # a fifth of the time of what follows
        return None
    device = x.device.type
    if x.dtype == torch.float64 or device not in _DEVICES:
        return None
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Within it, operations on the device of `x` keep the dtypes they are given."""
    device = x.device.type
    if device not in _DEVICES:  # for instance "meta"
        return nullcontext()
    return torch.autocast(device, enabled=False)
