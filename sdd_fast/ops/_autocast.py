"""The dtype of `torch.autocast` for an op, and how to compute without it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# Computed once: torch 2.11 cannot trace `is_autocast_available`, and marking it as constant for the
# compiler would import the compiler together with this package.
_DEVICES = frozenset(
    device
    for device in ("cpu", "cuda", "mps", "xpu", "hpu")
    if torch.amp.is_autocast_available(device)
)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the dtype of autocast on the device of `x`; None when it is off or `x` is wider than
    autocast touches (float64)."""
    device = x.device.type
    if device not in _DEVICES or not torch.is_autocast_enabled(device):
        return None
    return None if x.dtype == torch.float64 else torch.get_autocast_dtype(device)


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Let operations on the device of `x` keep the dtypes they are given."""
    device = x.device.type
    if device not in _DEVICES:  # for instance "meta"
        return nullcontext()
    return torch.autocast(device, enabled=False)
