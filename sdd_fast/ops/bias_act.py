"""Bias, activation, gain and clamp in one call: `y = clamp(gain * act(x + b))`."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._autocast import autocast_dtype
from ._register import (
    NATIVE,
    differentiable,
    graph_wanted,
    native_kernel,
    transformed,
    without_autograd,
)

ACTIVATIONS = {"linear": 1.0, "relu": math.sqrt(2.0), "lrelu": math.sqrt(2.0)}
"""Every activation and its default gain (√2 keeps the variance of a rectified normal input)."""

ACT_CODES = {"linear": 0, "relu": 1, "lrelu": 2}
"""What the native kernels call them."""

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""What the ops on feature maps compute with."""

Activation = tuple[str, float, float, float | None]
"""act, alpha, gain and clamp, checked."""


def bias_act(
    x: Tensor,  # [N, C, ...]
    b: Tensor | None = None,  # [C]
    act: str = "lrelu",
    alpha: float = 0.2,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:  # [N, C, ...]
    """Add a per-channel bias, activate, scale and clamp.

    Args:
        x: floating point, channels in dimension 1; any number of further dimensions.
        b: bias of length C and the dtype of `x` (under autocast: any); None for no bias.
        act: "linear", "relu" or "lrelu".
        alpha: slope of "lrelu" below zero, in [0, 1].
        gain: factor after the activation; None takes √2, or 1 for "linear".
        clamp: limits the result to [-clamp, clamp]; None for no limit.

    Returns:
        A tensor of the shape and dtype of `x`.

    Raises:
        TypeError: `x` is not a float64, float32, float16 or bfloat16 tensor, `b` has another dtype,
            or a number is no number.
        ValueError: shapes do not fit, or an unknown activation, slope, gain or clamp is given.

    Source: the activation layer of StyleGAN2 (Karras et al. 2020).
    """
    check_floating("bias_act", "x", x)
    shape = x.shape
    if len(shape) < 2:
        raise ValueError(
            f"bias_act: x must be [N, C, ...] with at least 2 dimensions, got {list(shape)}"
        )
    if b is not None:
        b = b if alike(x, b) else beside("bias_act", "b", b, x)
        if b.shape != (shape[1],):
            raise ValueError(
                f"bias_act: b must have shape [{shape[1]}], one value per channel of x, "
                f"got {list(b.shape)}"
            )
    _, _, gain, _ = activation = check_activation("bias_act", act, alpha, gain, clamp)
    # A single step is one pass in PyTorch already.
    steps = (b is not None) + (act != "linear") + (gain != 1.0) + (clamp is not None)
    graph = graph_wanted(x, b)
    if steps < 2 or (graph and transformed()) or not native_kernel("bias_act", x.device):
        return bias_act_ref(x, b, *activation)
    y: Tensor = _native(graph, x, b, ACT_CODES[act], alpha, gain, clamp)
    return y


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


def alike(x: Tensor, *others: Tensor | None) -> bool:
    """Whether all that are there have the dtype and device of `x`: mostly so, and then said in the
    least time. `beside` deals with the rest."""
    dtype, device = x.dtype, x.device
    for tensor in others:
        if tensor is not None and not (
            isinstance(tensor, Tensor) and tensor.dtype == dtype and tensor.device == device
        ):
            return False
    return True


def beside(op: str, name: str, tensor: object, x: Tensor, or_float32: bool = False) -> Tensor:
    """Check that `tensor` has the dtype and device of `x`; under autocast, convert it.

    or_float32: beside a 16-bit `x` it may be float32.
    """
    tensor = check_floating(op, name, tensor)
    if tensor.device != x.device:
        raise ValueError(
            f"{op}: {name} is on {tensor.device} but x on {x.device}; move one of them"
        )
    if or_float32:
        if tensor.dtype == torch.float32 and x.dtype != torch.float64:
            return tensor
    elif autocast_dtype(x) is not None:
        return tensor.to(x.dtype)
    if tensor.dtype != x.dtype:
        raise TypeError(f"{op}: {name} is {tensor.dtype} but x is {x.dtype}; convert one of them")
    return tensor


def check_number(op: str, name: str, value: object) -> None:
    if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}")


def check_activation(
    op: str, act: str, alpha: float, gain: float | None, clamp: float | None
) -> Activation:
    """Check the activation arguments that several ops share; a gain of None is filled in."""
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


def bias_act_ref(
    x: Tensor,  # [N, C, ...]
    b: Tensor | None = None,  # [C]
    act: str = "lrelu",
    alpha: float = 0.2,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:  # [N, C, ...]
    """`bias_act` in plain PyTorch, without argument checks."""
    if b is not None:
        x = x + b.reshape([1, -1] + [1] * (x.ndim - 2))
    if act == "lrelu":
        x = F.leaky_relu(x, alpha)
    elif act == "relu":
        x = F.relu(x)
    gain = ACTIVATIONS[act] if gain is None else gain
    if gain != 1.0:
        x = x * gain
    if clamp is not None and clamp <= torch.finfo(x.dtype).max:
        x = F.hardtanh(x, -clamp, clamp)  # clamp, with derivative 0 at the limit itself
    return x


def _fake(
    x: Tensor, b: Tensor | None, act: int, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    return torch.empty_like(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, *ctx.activation = inputs
    ctx.save_for_backward(output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (y,) = ctx.saved_tensors
    b_needed = ctx.needs_input_grad[1]
    with without_autograd(grad, y):
        x_grad, b_grad = _native_backward(grad, y, *ctx.activation, b_needed)
    return x_grad, b_grad if b_needed else None, None, None, None, None


def _fake_backward(
    grad: Tensor,
    y: Tensor,
    act: int,
    alpha: float,
    gain: float,
    clamp: float | None,
    b_grad: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(y), y.new_empty(y.shape[1] if b_grad else 0)


def _setup_context_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, y, *ctx.activation, ctx.b_grad = inputs
    ctx.save_for_backward(y)


def _backward_backward(ctx: Any, gg_x: Tensor, gg_b: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass multiplies by a slope that is constant in pieces, and so does its own."""
    (y,) = ctx.saved_tensors
    if ctx.b_grad:
        gg_x = gg_x + gg_b.reshape([1, -1] + [1] * (gg_x.ndim - 2))
    grad, _ = _native_backward(gg_x, y, *ctx.activation, False)
    return grad, None, None, None, None, None, None


if NATIVE.path is not None:
    torch.library.register_fake("sdd_fast::bias_act", _fake)
    torch.library.register_fake("sdd_fast::bias_act_backward", _fake_backward)
    _native = differentiable("bias_act", _backward, _setup_context)
    _native_backward = torch.ops.sdd_fast.bias_act_backward.default
    torch.library.register_autograd(
        "sdd_fast::bias_act_backward", _backward_backward, setup_context=_setup_context_backward
    )
