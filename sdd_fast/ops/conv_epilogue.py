"""What follows the convolution of a styled layer, in one pass over the feature maps:
`y = clamp(gain * act(x * factor + noise + bias))`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._autocast import autocast_dtype
from ._register import NATIVE, native_kernel, without_autograd
from .bias_act import ACT_CODES, SMALL, bias_act_ref, check_activation, check_floating


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
        factor: one number per sample and channel (demodulation), of the dtype of `x`, or float32
            where `x` is float16 or bfloat16; None for 1.
        noise: the same for every channel, of the dtype of `x`; None for none.
        bias: one number per channel, of the dtype of `x`; None for none.
        act, alpha, gain, clamp: see `bias_act`, except that `act` is "linear" by default.

    Under autocast, noise and bias may have any dtype and are converted to that of `x`.

    Returns:
        Feature maps of the dtype of `x`, channels_last if `x` is, else contiguous. Differentiable
        any number of times in every tensor. The sums behind the gradients of factor, noise and
        bias do not depend on the number of threads. Where the clamp is reached the derivative is 0.

    Raises:
        TypeError: a tensor is not floating point, or dtypes do not fit.
        ValueError: a wrong shape, another device, or an unknown activation, slope, gain or clamp.

    Source: Karras et al. 2020, Sec. 2.2.
    """
    if isinstance(x, Tensor) and autocast_dtype(x) is not None:
        noise = noise.to(x.dtype) if isinstance(noise, Tensor) else noise
        bias = bias.to(x.dtype) if isinstance(bias, Tensor) else bias
    _check(x, factor, noise, bias)
    gain = check_activation("conv_epilogue", act, alpha, gain, clamp)
    return conv_epilogue_unchecked(x, factor, noise, bias, act, alpha, gain, clamp)


def conv_epilogue_unchecked(
    x: Tensor,  # [N, O, H, W]
    factor: Tensor | None,  # [N, O]
    noise: Tensor | None,  # [1 or N, 1, H, W]
    bias: Tensor | None,  # [O]
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    may_overwrite: bool = False,
) -> Tensor:  # [N, O, H, W]
    """`conv_epilogue` for arguments that were checked. With `may_overwrite` the caller gives `x`
    up: where no gradient is wanted the result is written over it, which spares the fresh memory
    that takes most of the time of a large feature map."""
    steps = (
        (factor is not None) + (noise is not None) + (bias is not None)
        + (act != "linear") + (gain != 1.0) + (clamp is not None)
    )  # fmt: skip
    tensors = [t for t in (x, factor, noise, bias) if t is not None]
    graph = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    compiling = torch.compiler.is_compiling()
    # A single step is one pass in PyTorch already, except for the two gradients of a product.
    single = steps < 2 and not (graph and factor is not None and factor.requires_grad)
    small = graph and not compiling and x.numel() < SMALL
    if single or small or not native_kernel("conv_epilogue", x.device):
        return conv_epilogue_ref(x, factor, noise, bias, act, alpha, gain, clamp)
    code = ACT_CODES[act]
    with without_autograd(*tensors):
        if may_overwrite and not (graph or compiling) and x.device.type == "cpu":
            if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
                _native_inplace(x, factor, noise, bias, code, alpha, gain, clamp)
                return x
        y: Tensor = _native(x, factor, noise, bias, code, alpha, gain, clamp)
        return y


def conv_epilogue_ref(
    x: Tensor,  # [N, O, H, W]
    factor: Tensor | None = None,  # [N, O]
    noise: Tensor | None = None,  # [1 or N, 1, H, W]
    bias: Tensor | None = None,  # [O]
    act: str = "linear",
    alpha: float = 0.2,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:  # [N, O, H, W]
    """`conv_epilogue` step by step in plain PyTorch, without argument checks."""
    y = x if factor is None else x * factor[:, :, None, None]
    if noise is not None:
        y = y + noise
    return bias_act_ref(y, bias, act, alpha, gain, clamp).to(x.dtype)


def _check(x: Tensor, factor: Tensor | None, noise: Tensor | None, bias: Tensor | None) -> None:
    for name, tensor in (("x", x), ("factor", factor), ("noise", noise), ("bias", bias)):
        if tensor is None and name != "x":
            continue
        tensor = check_floating("conv_epilogue", name, tensor)
        if tensor.dtype != x.dtype and not (
            name == "factor" and tensor.dtype == torch.float32 and x.dtype != torch.float64
        ):
            raise TypeError(
                f"conv_epilogue: {name} is {tensor.dtype} but x is {x.dtype}; convert one of them"
            )
        if tensor.device != x.device:
            raise ValueError(
                f"conv_epilogue: {name} is on {tensor.device} but x on {x.device}; move one of them"
            )

    if x.ndim != 4:
        raise ValueError(f"conv_epilogue: x must be [N, O, H, W], got {list(x.shape)}")
    n, outputs, height, width = x.shape
    if factor is not None and factor.shape != (n, outputs):
        raise ValueError(
            f"conv_epilogue: factor must be [N, O] = [{n}, {outputs}] for this x, "
            f"got {list(factor.shape)}"
        )
    if noise is not None and noise.shape not in ((1, 1, height, width), (n, 1, height, width)):
        raise ValueError(
            f"conv_epilogue: noise must be [1 or {n}, 1, {height}, {width}], "
            f"got {list(noise.shape)}"
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"conv_epilogue: bias must be [{outputs}], got {list(bias.shape)}")


def _fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=_memory_format(x))


def _memory_format(x: Tensor) -> torch.memory_format:
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, factor, noise, bias, *ctx.activation = inputs
    ctx.save_for_backward(x, factor, noise, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[1:4]
    x_grad, *others = _native_backward(grad, *ctx.saved_tensors, *ctx.activation, *needed)
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

    x_grad = torch.empty_like(x, memory_format=_memory_format(x))
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
    """dy/du of csrc/conv_epilogue/conv_epilogue.h, constant in pieces."""
    act, alpha, gain, clamp = activation
    u = x if factor is None else x * factor
    u = u if noise is None else u + noise
    u = u if bias is None else u + bias
    low = (1.0, 0.0, alpha)[act] * gain
    slope = torch.where(u > 0, gain, low).to(u.dtype)
    return slope if clamp is None else torch.where((u * slope).abs() >= clamp, 0.0, slope)


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


if NATIVE.path is not None:
    _native = torch.ops.sdd_fast.conv_epilogue.default
    _native_inplace = torch.ops.sdd_fast.conv_epilogue_.default
    _native_backward = torch.ops.sdd_fast.conv_epilogue_backward.default
    torch.library.register_fake("sdd_fast::conv_epilogue", _fake)
    torch.library.register_fake("sdd_fast::conv_epilogue_", lambda x, *_: None)
    torch.library.register_fake("sdd_fast::conv_epilogue_backward", _fake_backward)
    torch.library.register_autograd(
        "sdd_fast::conv_epilogue", _backward, setup_context=_setup_context
    )
    torch.library.register_autograd(
        "sdd_fast::conv_epilogue_backward",
        _backward_backward,
        setup_context=_setup_context_backward,
    )
