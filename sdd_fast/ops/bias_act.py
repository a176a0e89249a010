"""Bias, activation, gain and clamp in one call: `y = clamp(gain * act(x + b))`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import (
    ACT_CODES,
    ACTIVATIONS,
    check_activation,
    check_floating,
    match_dtype_and_device,
    same_dtype_and_device,
)
from ._register import native_kernel, native_op


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
        if not same_dtype_and_device(x, b):
            b = match_dtype_and_device("bias_act", "b", b, x)
        if b.shape != (shape[1],):
            raise ValueError(
                f"bias_act: b must have shape [{shape[1]}], one value per channel of x, "
                f"got {list(b.shape)}"
            )
    _, _, gain, _ = activation = check_activation("bias_act", act, alpha, gain, clamp)
    # A single step is one pass in PyTorch already.
    steps = (b is not None) + (act != "linear") + (gain != 1.0) + (clamp is not None)
    if steps < 2 or not native_kernel("bias_act", x.device):
        return bias_act_ref(x, b, *activation)
    y: Tensor = _native(x, b, ACT_CODES[act], alpha, gain, clamp)
    return y


def bias_act_ref(
    x: Tensor, b: Tensor | None = None, act: str = "lrelu", alpha: float = 0.2,
    gain: float | None = None, clamp: float | None = None,
) -> Tensor:  # fmt: skip
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


_native = native_op("bias_act", _fake, _backward, _setup_context)
_native_backward = native_op(
    "bias_act_backward", _fake_backward, _backward_backward, _setup_context_backward
)
