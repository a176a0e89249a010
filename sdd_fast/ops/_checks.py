"""Argument checks that several ops share; each raises an error that names the op and argument."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._autocast import autocast_dtype

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

ACTIVATIONS = {"linear": 1.0, "relu": math.sqrt(2.0), "lrelu": math.sqrt(2.0)}
"""Every activation and its default gain (√2 keeps the variance of a rectified normal input)."""

ACT_CODES = {"linear": 0, "relu": 1, "lrelu": 2}
"""What the native kernels call them."""

Activation = tuple[str, float, float, float | None]
"""act, alpha, gain and clamp, checked."""


def check_floating(op: str, name: str, tensor: object) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{op}: {name} must be a floating point tensor, got {type(tensor).__name__}"
        )
    if tensor.dtype not in DTYPES:
        raise TypeError(
            f"{op}: {name} must be a floating point tensor, got {tensor.dtype}; "
            "convert it to float64, float32, float16 or bfloat16"
        )
    return tensor


def same_dtype_and_device(x: Tensor, *others: Tensor | None) -> bool:
    """Tell in the least time whether all `others` that are there have the dtype and device of `x`;
    `match_dtype_and_device` deals with those that do not."""
    dtype, device = x.dtype, x.device
    for tensor in others:
        if tensor is not None and not (
            isinstance(tensor, Tensor) and tensor.dtype == dtype and tensor.device == device
        ):
            return False
    return True


def match_dtype_and_device(
    op: str, name: str, tensor: object, x: Tensor, *, x_name: str = "x", or_float32: bool = False
) -> Tensor:
    """Check that `tensor` has the dtype and device of `x`; under autocast, convert it.

    or_float32: beside a 16-bit `x` it may be float32.
    """
    tensor = check_floating(op, name, tensor)
    if tensor.device != x.device:
        raise ValueError(
            f"{op}: {name} is on {tensor.device} but {x_name} on {x.device}; move one of them"
        )
    if or_float32 and tensor.dtype == torch.float32 and x.dtype != torch.float64:
        return tensor
    if autocast_dtype(x) is not None:
        return tensor.to(x.dtype)
    if tensor.dtype != x.dtype:
        raise TypeError(
            f"{op}: {name} is {tensor.dtype} but {x_name} is {x.dtype}; convert one of them"
        )
    return tensor


def check_number(op: str, name: str, value: object) -> None:
    if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}")


def check_flag(op: str, name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{op}: {name} must be True or False, got {type(value).__name__}")


def check_eps(op: str, eps: float) -> None:
    check_number(op, "eps", eps)
    if not 0.0 <= eps <= 1.0:
        raise ValueError(f"{op}: eps must lie in [0, 1], got {eps}")


def check_activation(
    op: str, act: str, alpha: float, gain: float | None, clamp: float | None
) -> Activation:
    """Check the activation arguments that several ops share; fill in a gain of None."""
    if not isinstance(act, str) or act not in ACTIVATIONS:
        raise ValueError(f"{op}: act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
    gain = ACTIVATIONS[act] if gain is None else gain
    check_number(op, "alpha", alpha)
    check_number(op, "gain", gain)
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"{op}: alpha must lie in [0, 1], got {alpha}")
    if not 0.0 < gain < math.inf:
        raise ValueError(f"{op}: gain must be a positive number, got {gain}")
    if clamp is not None:
        check_number(op, "clamp", clamp)
        if not clamp > 0.0:
            raise ValueError(f"{op}: clamp must be positive, or None for no limit, got {clamp}")
    return act, alpha, gain, clamp
