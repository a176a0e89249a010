"""The styled convolution of StyleGAN2: modulate, convolve, demodulate, noise, bias, activation.

The paper scales the weights per sample, w'_{oik} = s_i w_{oik}, and divides them by their norm over
(i, k) (Karras et al. 2020, Eq. 1 and 3). A convolution is linear in its input channels, so the same
result is `conv(x * s, w) * d` with d_o = rsqrt(Σ_i s_i² Σ_k w²_{oik} + eps): one ordinary
convolution for the whole batch instead of one per sample, and half the cost of the backward pass
when only the styles are trained.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from ._autocast import autocast_dtype, without_autocast
from ._checks import (
    check_activation,
    check_eps,
    check_flag,
    check_floating,
    match_dtype_and_device,
    same_dtype_and_device,
)
from ._register import requires_grad
from .conv_epilogue import conv_epilogue_ref, conv_epilogue_unchecked, memory_format_of
from .demodulation import demodulation_ref, demodulation_unchecked
from .upfirdn2d import upfirdn2d, upfirdn2d_ref

_CPU = torch.device("cpu")
_PIECE = 4096  # pixels


def modulated_conv2d(
    x: Tensor,  # [N, I, H, W]
    weight: Tensor,  # [O, I, k, k]
    styles: Tensor,  # [N, I]
    *,
    demodulate: bool = True,
    up: int = 1,
    resample_filter: Tensor | None = None,  # [t]
    noise: Tensor | None = None,  # [1 or N, 1, H * up, W * up]
    bias: Tensor | None = None,  # [O]
    act: str = "linear",
    alpha: float = 0.2,
    gain: float | None = None,
    clamp: float | None = None,
    eps: float = 1e-8,
) -> Tensor:  # [N, O, H * up, W * up]
    """Convolve with weights scaled per sample, then `clamp(gain * act(y + noise + bias))`.

    Args:
        x: floating point feature maps.
        weight: kernel with an odd side k, shared by the batch; the result has the size of `x`
            (times `up`).
        styles: one factor per sample and input channel. Any constant factor of the weight
            (equalized learning rate) may be folded into them.
        demodulate: divide each output channel by the norm of its scaled weights.
        up: 1, or 2 for a transposed convolution of stride 2 followed by `resample_filter`.
        resample_filter: an even number t of taps, summing to 1; None takes [1, 3, 3, 1] / 8.
        noise: added after demodulation, already multiplied by its strength.
        bias, act, alpha, gain, clamp: see `bias_act`, except that `act` is "linear" by default.
        eps: added to the squared norm before its root, in [0, 1].

    Returns:
        Feature maps of the dtype of `x`, or autocast's. In float16 the styles and weights are
        normalized before the convolution, which keeps the sums in range and cancels exactly in
        the demodulation.
        Differentiable any number of times in every tensor.

    Raises:
        TypeError: a tensor is not floating point, dtypes differ, or a number is no number.
        ValueError: a wrong shape, another device or an unsupported `up`, `eps`, `act`, `alpha`,
            `gain` or `clamp`.

    Source: Karras et al. 2020, Sec. 2.2, Eq. 1-3.
    """
    op = "modulated_conv2d"
    dtype = autocast_dtype(check_floating(op, "x", x))
    if dtype is not None:
        x = x.to(dtype)
    if (
        weight is None
        or styles is None
        or not same_dtype_and_device(x, weight, styles, noise, bias)
    ):
        match = match_dtype_and_device
        weight, styles = match(op, "weight", weight, x), match(op, "styles", styles, x)
        noise = None if noise is None else match(op, "noise", noise, x)
        bias = None if bias is None else match(op, "bias", bias, x)
    _check(x, weight, styles, demodulate, up, resample_filter, noise, bias, eps)
    activation = check_activation(op, act, alpha, gain, clamp)
    # Autocast's dtype would cost the demodulation its precision.
    with nullcontext() if dtype is None else without_autocast(x):
        y, factor = _convolve(x, weight, styles, demodulate, up, resample_filter, eps)
        # y is ours alone, and no other part of a graph keeps it.
        return conv_epilogue_unchecked(y, factor, noise, bias, activation, may_overwrite=True)


def modulated_conv2d_ref(
    x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool = True, up: int = 1,
    resample_filter: Tensor | None = None, noise: Tensor | None = None,
    bias: Tensor | None = None, act: str = "linear", alpha: float = 0.2,
    gain: float | None = None, clamp: float | None = None, eps: float = 1e-8,
) -> Tensor:  # fmt: skip
    """`modulated_conv2d` step by step in plain PyTorch, without argument checks."""
    factor = demodulation_ref(weight, styles, eps) if demodulate else None
    y = x * styles.reshape(*styles.shape, 1, 1)
    if y.shape[2] * y.shape[3] == 0:
        y = _without_pixels(y, weight, up)
    elif up == 1:
        y = F.conv2d(y, weight, padding=weight.shape[2] // 2)
    else:
        y = F.conv_transpose2d(y, weight.transpose(0, 1), stride=2)
        taps = _taps(resample_filter, y)
        y = upfirdn2d_ref(y, taps, padding=taps.numel() // 2 - 1, gain=4.0)
    return conv_epilogue_ref(y, factor, noise, bias, act, alpha, gain, clamp)


def _pointwise(
    x: Tensor,  # [N, I, H, W]
    weight: Tensor,  # [O, I, 1, 1]
    styles: Tensor,  # [N, I]
) -> Tensor:  # [N, O, H, W]
    """Convolve 1x1 without demodulation (toRGB): its few weights are scaled per sample, which
    spares a pass over the feature map, and convolution libraries are slow at three outputs."""
    n, _, height, width = x.shape
    scaled = weight.flatten(1) * styles[:, None]  # [N, O, I]
    if x.is_contiguous():
        return (scaled @ x.flatten(2)).reshape(n, -1, height, width)
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # [N, H * W, I]
    y = _product_in_pieces(pixels, scaled) if x.is_cuda else pixels @ scaled.mT
    return y.reshape(n, height, width, -1).permute(0, 3, 1, 2)


def _product_in_pieces(
    pixels: Tensor,  # [N, P, I]
    weight: Tensor,  # [N, O, I]
) -> Tensor:  # [N, P, O]
    """Compute `pixels @ weight.mT` in a form that GPU libraries are fast at: with a multiple of 8
    outputs, and with many products of some thousand pixels each in place of one for a sample. The
    gradient of the weights, a sum over a million pixels, is several times as fast by it."""
    outputs, count = weight.shape[1], pixels.shape[1]
    pieces = 1 if count % _PIECE else max(1, count // _PIECE)
    weight = F.pad(weight, (0, 0, 0, -outputs % 8))
    weight = weight.unsqueeze(1).expand(-1, pieces, -1, -1).flatten(0, 1)
    y = pixels.unflatten(1, (pieces, -1)).flatten(0, 1) @ weight.mT  # [N * pieces, p, 8]
    return y.unflatten(0, (-1, pieces)).flatten(1, 2)[..., :outputs]


def _convolve(
    x: Tensor,  # [N, I, H, W]
    weight: Tensor,  # [O, I, k, k]
    styles: Tensor,  # [N, I]
    demodulate: bool,
    up: int,
    resample_filter: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor | None]:  # [N, O, H * up, W * up], [N, O]
    """Compute conv(x * s, w), and the factor that is still to be multiplied to each channel."""
    n, inputs, height, width = x.shape
    outputs, _, side, _ = weight.shape
    if side == 1 and not demodulate:
        return _pointwise(x, weight, styles), None
    # A single sample with fewer weights than features: the styles go into the weights. Where they
    # are trained this would ask for the gradient of the weights, a convolution more.
    few = n == 1 and outputs * side * side < height * width
    into_weights = few and not requires_grad(weight, styles)
    factor: Tensor | None = None
    energy: Tensor | None = None
    if demodulate:
        factor, energy = demodulation_unchecked(weight, styles, eps)
    if x.dtype == torch.float16:
        # Normalized styles and weights keep the sums of the convolution within float16's range;
        # what is divided out here is multiplied to the float32 factor.
        norm, wide = torch.linalg.vector_norm, torch.float32
        style_scale = norm(styles.detach(), math.inf, 1, True, dtype=wide).clamp_min(1e-30)
        styles = (styles / style_scale).to(x.dtype)
        if energy is None:
            weight_scale = norm(weight.detach(), 2, (1, 2, 3), dtype=wide)
        else:
            weight_scale = energy.detach().sum(1).sqrt()
        weight_scale = weight_scale.clamp_min(1e-30)
        weight = (weight / weight_scale[:, None, None, None]).to(x.dtype)
        common = style_scale * weight_scale  # [N, O]
        factor = common if factor is None else factor * common

    if into_weights:
        weight = weight * styles.reshape(1, inputs, 1, 1)
        y = x
    else:
        y = _scale(x, styles)
    # On a CPU small maps go to the layout of the weights, which cost more to move. Weights go to
    # the layout of large maps: convolution libraries bring them there anyway, slowly.
    moved = n * height * width * (inputs + outputs)  # elements of x and y
    small = x.device.type == "cpu" and 8 * moved <= weight.numel()
    layout = memory_format_of(x)
    if small:
        y = y.contiguous()
    elif up == 1:
        weight = weight.contiguous(memory_format=layout)
    if height * width == 0:
        y = _without_pixels(y, weight, up)
    elif up == 1:
        y = F.conv2d(y, weight, padding=side // 2)
    else:
        # 2H + 1 pixels come out of the transposed convolution; the even filter makes them 2H.
        weight = weight.transpose(0, 1)
        if not small:
            weight = weight.contiguous(memory_format=layout)
        y = F.conv_transpose2d(y, weight, stride=2)
        taps = _taps(resample_filter, y)
        y = upfirdn2d(y, taps, padding=taps.numel() // 2 - 1, gain=4.0)
    if small:
        y = y.contiguous(memory_format=layout)
    return y, factor


def _scale(x: Tensor, styles: Tensor) -> Tensor:
    """Compute x * s, which the epilogue does too: with both gradients in one pass, and on a GPU at
    the bandwidth of its memory, which PyTorch does not reach where an operand is broadcast."""
    if x.is_cuda or requires_grad(styles):
        return conv_epilogue_unchecked(x, styles, None, None, ("linear", 0.2, 1.0, None))
    return x * styles.reshape(*styles.shape, 1, 1)


def _without_pixels(y: Tensor, weight: Tensor, up: int) -> Tensor:
    """Convolve maps that PyTorch's convolutions refuse, or give pixels to."""
    n, _, height, width = y.shape
    return (weight.sum((2, 3)) @ y.flatten(2)).reshape(n, len(weight), height * up, width * up)


def _taps(resample_filter: Tensor | None, like: Tensor) -> Tensor:
    if resample_filter is None:  # made where it is used: a copy from the CPU waits for the GPU
        taps = torch.full((4,), 0.375, dtype=like.dtype, device=like.device)
        taps[::3].fill_(0.125)
        return taps
    return resample_filter.to(like)


def _check(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool,
    up: int,
    resample_filter: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> None:
    op = "modulated_conv2d"
    message = _wrong_shape(x, weight, styles, up, noise, bias)
    if message:
        raise ValueError(f"{op}: {message}")
    check_flag(op, "demodulate", demodulate)
    check_eps(op, eps)
    if resample_filter is None:
        return
    check_floating(op, "resample_filter", resample_filter)
    if resample_filter.device not in (x.device, _CPU):
        raise ValueError(
            f"{op}: resample_filter is on {resample_filter.device} but x on {x.device}; "
            "move the filter"
        )
    if resample_filter.ndim != 1 or resample_filter.numel() not in range(2, 99, 2):
        raise ValueError(
            f"{op}: resample_filter must be [t] with an even number of taps, "
            f"got {list(resample_filter.shape)}"
        )


def _wrong_shape(
    x: Tensor, weight: Tensor, styles: Tensor, up: int, noise: Tensor | None, bias: Tensor | None
) -> str:
    """Say what is wrong, or ""."""
    shape, kernel = x.shape, weight.shape
    if len(shape) != 4:
        return f"x must be [N, I, H, W], got {list(shape)}"
    n, inputs, height, width = shape
    if len(kernel) != 4 or kernel[2] != kernel[3] or kernel[2] % 2 != 1:
        return f"weight must be [O, I, k, k] with odd k, got {list(kernel)}"
    outputs, taken, side, _ = kernel
    if taken != inputs:
        return (
            f"weight {list(kernel)} takes {taken} input channels, but x {list(shape)} has {inputs}"
        )
    if styles.shape != (n, inputs):
        return f"styles must be [N, I] = [{n}, {inputs}] for this x, got {list(styles.shape)}"
    if not isinstance(up, int) or up not in (1, 2):
        return f"up must be 1 or 2, got {up!r}"
    if up == 2 and side != 3:
        return f"up=2 needs 3x3 weights, got {side}x{side}"
    height, width = height * up, width * up
    if noise is not None and noise.shape not in ((1, 1, height, width), (n, 1, height, width)):
        return f"noise must be [1 or {n}, 1, {height}, {width}], got {list(noise.shape)}"
    if bias is not None and bias.shape != (outputs,):
        return f"bias must be [{outputs}], got {list(bias.shape)}"
    return ""
