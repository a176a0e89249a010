"""`modulated_conv2d` step by step in PyTorch's operations, and of few numbers: what takes the time
there is the number of operations, most of all in a backward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._register import graph_wanted, native_kernel, transformed, without_autograd
from .bias_act import ACT_CODES, Activation
from .conv_epilogue import conv_epilogue_ref
from .demodulation import demodulation_unchecked, gradient_of_styles
from .upfirdn2d import upfirdn2d_ref

# demodulate, up, resample_filter, eps, activation
Options = tuple[bool, int, Tensor | None, float, Activation]


def of_few_numbers(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    bias: Tensor | None,
    options: Options,
) -> Tensor | None:
    """So few numbers that what takes the time is the number of operations; None: as others."""
    demodulate, up, _, _, (act, *numbers) = options
    graph = graph_wanted(x, weight, styles, noise, bias)
    whole = up == 1 and (demodulate or weight.shape[2] > 1 or graph) and x.device.type != "meta"
    traced = transformed() or torch.jit.is_tracing()
    if (
        not whole or traced or 0 in x.shape or graph_wanted(weight)
        or not native_kernel("modulated_conv2d", x.device)
    ):  # fmt: skip
        return _composed(x, weight, styles, noise, bias, options) if graph else None
    if graph:
        y: Tensor = _FewNumbers.apply(x, weight, styles, noise, bias, options)
        return y
    with without_autograd():
        y, factor, _ = _convolve_few(x, weight, styles, options)
        if not x.is_contiguous():
            y = y.contiguous(memory_format=torch.channels_last)
        elif not y.is_contiguous():
            y = y.contiguous()
        torch.ops.sdd_fast.conv_epilogue_.default(y, factor, noise, bias, ACT_CODES[act], *numbers)
    return y


def _convolve_few(
    x: Tensor, weight: Tensor, styles: Tensor, options: Options
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """conv(x * s, w), the factors and the energies, by native ops."""
    factor = energy = None
    if options[0]:
        factor, energy = torch.ops.sdd_fast.demodulation.default(weight, styles, options[3])
    y = x * styles.reshape(*styles.shape, 1, 1)
    return F.conv2d(y, weight, padding=weight.shape[2] // 2), factor, energy


def _composed(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    bias: Tensor | None,
    options: Options,
) -> Tensor:
    demodulate, up, resample_filter, eps, activation = options
    factor = demodulation_unchecked(weight, styles, eps)[0] if demodulate else None
    y = step_by_step(x, weight, styles, up, resample_filter)
    return conv_epilogue_ref(y, factor, noise, bias, *activation)


class _FewNumbers(torch.autograd.Function):
    """The layer with its backward pass in as few operations as there are: PyTorch's own gradients
    of every step take longer. The weights are frozen, and up is 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, styles: Tensor, *others: Any) -> Tensor:
        noise, bias, ctx.options = others
        act, *numbers = ctx.options[4]
        with without_autograd():
            y, factor, energy = _convolve_few(x, weight, styles, ctx.options)
            ctx.save_for_backward(x, weight, styles, noise, bias, factor, energy, y)
            result: Tensor = torch.ops.sdd_fast.conv_epilogue.default(
                y, factor, noise, bias, ACT_CODES[act], *numbers
            )
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # to be differentiated again
            return _gradients_of_composition(ctx, grad)
        with without_autograd():
            return _gradients_of_few(ctx, grad)


def _gradients_of_composition(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # Styles may depend on x, and more: views of their own keep the derivatives partial.
    views: list[Any] = [None if t is None else t.view_as(t) for t in ctx.saved_tensors[:5]]
    x, weight, styles, noise, bias = views
    result = _composed(x, weight, styles, noise, bias, ctx.options)
    needed = ctx.needs_input_grad[:5]
    wanted = [v for v, need in zip(views, needed, strict=True) if need]
    grads = iter(torch.autograd.grad(result, wanted, grad, create_graph=True))
    return *(next(grads) if need else None for need in needed), None


def _gradients_of_few(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, styles, noise, bias, factor, energy, y = ctx.saved_tensors
    of_x, _, of_styles, of_noise, of_bias, _ = ctx.needs_input_grad
    act, *numbers = ctx.options[4]
    backward = torch.ops.sdd_fast.conv_epilogue_backward.default
    of_factor = factor is not None and of_styles
    y_grad, factor_grad, noise_grad, bias_grad = backward(
        grad, y, factor, noise, bias, ACT_CODES[act], *numbers, of_factor, of_noise, of_bias
    )
    x_grad: Any = None
    styles_grad: Any = None
    if of_x or of_styles:
        pad = weight.shape[2] // 2
        scaled_grad, _, _ = torch.ops.aten.convolution_backward.default(
            y_grad, x, weight, None, [1, 1], [pad, pad], [1, 1], False, [0, 0], 1,
            [True, False, False],
        )  # fmt: skip
        x_grad, styles_grad, _, _ = backward(
            scaled_grad, x, styles, None, None, 0, 1.0, 1.0, None, of_styles, False, False
        )
    if of_factor:
        of_norm = gradient_of_styles(factor_grad, styles, factor, energy)
        styles_grad = of_norm + styles_grad
    return (
        x_grad if of_x else None,
        None,
        styles_grad if of_styles else None,
        noise_grad if of_noise else None,
        bias_grad if of_bias else None,
        None,
    )


def step_by_step(
    x: Tensor, weight: Tensor, styles: Tensor, up: int, resample_filter: Tensor | None
) -> Tensor:
    """conv(x * s, w) in plain PyTorch."""
    y = x * styles.reshape(*styles.shape, 1, 1)
    if y.shape[2] * y.shape[3] == 0:
        return without_pixels(y, weight, up)
    if up == 1:
        return F.conv2d(y, weight, padding=weight.shape[2] // 2)
    y = F.conv_transpose2d(y, weight.transpose(0, 1), stride=2)
    taps = filter_taps(resample_filter, y)
    return upfirdn2d_ref(y, taps, padding=taps.numel() // 2 - 1, gain=4.0)


def without_pixels(y: Tensor, weight: Tensor, up: int) -> Tensor:
    """Maps that PyTorch's convolutions refuse, or give pixels to."""
    n, _, height, width = y.shape
    return (weight.sum((2, 3)) @ y.flatten(2)).reshape(n, len(weight), height * up, width * up)


def filter_taps(resample_filter: Tensor | None, like: Tensor) -> Tensor:
    if resample_filter is None:  # made where it is used: a copy from the CPU waits for the GPU
        taps = torch.full((4,), 0.375, dtype=like.dtype, device=like.device)
        taps[::3].fill_(0.125)
        return taps
    return resample_filter.to(like)
