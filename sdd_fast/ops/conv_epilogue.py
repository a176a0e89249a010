"""What follows the convolution of a styled layer, in one pass over the feature maps:
`y = clamp(gain * act(x * factor + noise + bias))`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._checks import (
    ACT_CODES,
    ACTIVATIONS,
    Activation,
    check_activation,
    check_floating,
    match_dtype_and_device,
    same_dtype_and_device,
)
from ._register import native_kernel, native_op, requires_grad, transformed
from .bias_act import bias_act_ref


def conv_epilogue(
    x: Tensor,  # [N, O, H, W]
    factor: Tensor | None = None,  # [N, O]
    noise: Tensor | None = None,  # [1 or N, 1, H, W]
    bias: Tensor | None = None,  # [O]
    act: str = "linear",
    alpha: float = 0.2,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:  # [N, O, H, W]
    """Scale each channel of each sample, add noise and bias, activate, scale and clamp.

    Args:
        x: floating point feature maps, the result of a convolution.
        factor: one value per sample and channel (demodulation), of the dtype of `x`, or float32
            where `x` is float16 or bfloat16; None for 1.
        noise: the same for every channel, of the dtype of `x`; None for none.
        bias: one value per channel, of the dtype of `x`; None for none.
        act, alpha, gain, clamp: see `bias_act`, except that `act` is "linear" by default.

    Under autocast all three may have any dtype; what does not fit is converted to that of `x`.

    Returns:
        Feature maps of the dtype of `x`, channels_last if `x` is, else contiguous. Differentiable
        any number of times in every tensor. The sums behind the gradients of factor, noise and
        bias do not depend on the number of threads. Where the clamp is reached the derivative is 0.

    Raises:
        TypeError: a tensor is not floating point, or dtypes do not fit.
        ValueError: a wrong shape, another device, or an unknown activation, slope, gain or clamp.

    Source: Karras et al. 2020, Sec. 2.2.
    """
    factor, noise, bias = _check(x, factor, noise, bias)
    activation = check_activation("conv_epilogue", act, alpha, gain, clamp)
    return conv_epilogue_unchecked(x, factor, noise, bias, activation)


def conv_epilogue_unchecked(
    x: Tensor,  # [N, O, H, W]
    factor: Tensor | None,  # [N, O]
    noise: Tensor | None,  # [1 or N, 1, H, W]
    bias: Tensor | None,  # [O]
    activation: Activation,
    may_overwrite: bool = False,
) -> Tensor:  # [N, O, H, W]
    """`conv_epilogue` for arguments that were checked. With `may_overwrite` the caller gives `x`
    up: where nothing requires grad the result is written over it, which spares the fresh memory
    that takes most of the time of a large feature map."""
    act, alpha, gain, clamp = activation
    steps = (
        (factor is not None) + (noise is not None) + (bias is not None)
        + (act != "linear") + (gain != 1.0) + (clamp is not None)
    )  # fmt: skip
    # A single step is one pass in PyTorch already, except for the two gradients of a product; on a
    # GPU PyTorch's product with a broadcast operand takes about twice what its memory traffic does.
    single = steps < 2 and not requires_grad(factor) and not (x.is_cuda and factor is not None)
    if single or not native_kernel("conv_epilogue", x.device):
        return conv_epilogue_ref(x, factor, noise, bias, *activation)
    arguments = (x, factor, noise, bias, ACT_CODES[act], alpha, gain, clamp)
    eager = not torch.compiler.is_compiling() and x.device.type != "meta"
    if may_overwrite and eager and not requires_grad(x, factor, noise, bias):
        if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
            _native_inplace(*arguments)
            return x
    y: Tensor = _native(*arguments)
    return y


def conv_epilogue_ref(
    x: Tensor, factor: Tensor | None = None, noise: Tensor | None = None,
    bias: Tensor | None = None, act: str = "linear", alpha: float = 0.2,
    gain: float | None = None, clamp: float | None = None,
) -> Tensor:  # fmt: skip
    """`conv_epilogue` in plain PyTorch, without argument checks."""
    shift = None if bias is None else bias.reshape(1, -1, 1, 1)
    if noise is not None:
        shift = noise if shift is None else noise + shift
    gain = ACTIVATIONS[act] if gain is None else gain
    if factor is None:
        y = x if shift is None else x + shift
    elif shift is None:
        y = x * factor.reshape(*factor.shape, 1, 1)
    else:  # a positive gain commutes with the activation
        shift = shift * gain if gain != 1.0 else shift
        y = torch.addcmul(shift, x, factor.reshape(*factor.shape, 1, 1), value=gain)
        gain = 1.0
    y = bias_act_ref(y, None, act, alpha, gain, clamp)
    y = y if y.dtype == x.dtype else y.to(x.dtype)
    if x.is_contiguous() or transformed():
        return y
    return y.contiguous(memory_format=memory_format_of(x))  # noise and bias bring a layout along


def _check(
    x: Tensor, factor: Tensor | None, noise: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return factor, noise and bias, converted where autocast allows it."""
    op = "conv_epilogue"
    check_floating(op, "x", x)
    shape = x.shape
    if len(shape) != 4:
        raise ValueError(f"{op}: x must be [N, O, H, W], got {list(shape)}")
    n, outputs, height, width = shape
    if not same_dtype_and_device(x, factor, noise, bias):
        match = match_dtype_and_device
        factor = None if factor is None else match(op, "factor", factor, x, or_float32=True)
        noise = None if noise is None else match(op, "noise", noise, x)
        bias = None if bias is None else match(op, "bias", bias, x)
    if factor is not None and factor.shape != (n, outputs):
        raise ValueError(
            f"{op}: factor must be [N, O] = [{n}, {outputs}] for this x, got {list(factor.shape)}"
        )
    if noise is not None and noise.shape not in ((1, 1, height, width), (n, 1, height, width)):
        raise ValueError(
            f"{op}: noise must be [1 or {n}, 1, {height}, {width}], got {list(noise.shape)}"
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"{op}: bias must be [{outputs}], got {list(bias.shape)}")
    return factor, noise, bias


def _fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=memory_format_of(x))


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return channels_last if `x` is that alone; else, and under transforms, contiguous."""
    if x.is_contiguous() or transformed() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, factor, noise, bias, *ctx.activation = inputs
    ctx.save_for_backward(x, factor, noise, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[1:4]
    saved = ctx.saved_tensors
    x_grad, *others = _native_backward(grad, *saved, *ctx.activation, *needed)
    rest = [g if need else None for g, need in zip(others, needed, strict=True)]
    return x_grad, *rest, None, None, None, None


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    factor: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    act: int,
    alpha: float,
    gain: float,
    clamp: float | None,
    factor_grad: bool,
    noise_grad: bool,
    bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def gradient(of: Tensor | None, wanted: bool) -> Tensor:
        if not wanted or of is None:
            return x.new_empty(0)
        return x.new_empty(of.shape, dtype=of.dtype)

    x_grad = torch.empty_like(x, memory_format=memory_format_of(x))
    return (
        x_grad,
        gradient(factor, factor_grad),
        gradient(noise, noise_grad),
        gradient(bias, bias_grad),
    )


def _setup_context_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.activation, ctx.wanted = inputs[5:9], inputs[9:]


def _slope(
    x: Tensor,
    factor: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    activation: tuple[int, float, float, float | None],
) -> Tensor:
    """Compute dy/du of csrc/conv_epilogue/conv_epilogue.h, constant in pieces."""
    act, alpha, gain, clamp = activation
    u = x if factor is None else x * factor
    u = u if noise is None else u + noise
    u = u if bias is None else u + bias
    low = (1.0, 0.0, alpha)[act] * gain
    # torch.where would copy its constants from the CPU, and round them to float32.
    slope = torch.full_like(u, low).masked_fill(u > 0, gain)
    return slope if clamp is None else slope.masked_fill((u * slope).abs() >= clamp, 0.0)


def _backward_backward(
    ctx: Any, gg_x: Tensor, gg_factor: Tensor, gg_noise: Tensor, gg_bias: Tensor
) -> tuple[Tensor | None, ...]:
    """With h = grad * slope the backward pass gives h * factor and the sums of h * x, h and h.

    In differentiable operations, so that any further derivative is exact too.
    """
    grad, x, factor, noise, bias = ctx.saved_tensors
    dtype, wide = x.dtype, torch.float64 if x.dtype == torch.float64 else torch.float32
    maps = None if factor is None else factor.to(wide)[:, :, None, None]
    x, grad, gg_x = x.to(wide), grad.to(wide), gg_x.to(wide)
    with torch.no_grad():
        per_channel = None if bias is None else bias.to(wide).reshape(1, -1, 1, 1)
        noise = None if noise is None else noise.to(wide)
        slope = _slope(x, maps, noise, per_channel, ctx.activation)
    h = grad * slope
    gg_h = gg_x if maps is None else gg_x * maps
    x_grad = factor_grad = None
    if ctx.wanted[0]:
        gg_h = gg_h + gg_factor.to(wide)[:, :, None, None] * x
        x_grad = (gg_factor.to(wide)[:, :, None, None] * h).to(dtype)
    if ctx.wanted[1]:
        gg_h = gg_h + gg_noise.to(wide)
    if ctx.wanted[2]:
        gg_h = gg_h + gg_bias.to(wide).reshape(1, -1, 1, 1)
    if factor is not None:
        factor_grad = (gg_x * h).sum((2, 3)).to(factor.dtype)
    return (gg_h * slope).to(dtype), x_grad, factor_grad, *[None] * 9


_native = native_op("conv_epilogue", _fake, _backward, _setup_context)
_native_inplace = native_op("conv_epilogue_", lambda x, *_: None)
_native_backward = native_op(
    "conv_epilogue_backward", _fake_backward, _backward_backward, _setup_context_backward
)
