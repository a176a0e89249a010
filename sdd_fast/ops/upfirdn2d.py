"""Upsample by zero insertion, pad or crop, filter (FIR), downsample: in one call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._autocast import without_autocast
from ._checks import check_flag, check_floating, check_number
from ._register import native_kernel, native_op

_MAX_FACTOR, _MAX_SIZE = 2**31 - 1, 2**62  # what 64-bit index arithmetic can take


def upfirdn2d(
    x: Tensor,  # [N, C, H, W]
    f: Tensor,  # [k] separable, or [kh, kw]
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:  # [N, C, H', W'],  H' = (H * up + top + bottom - kh) // down + 1
    """Upsample, FIR-filter and downsample every channel of a batch of images.

    In order: `up - 1` zeros are inserted after every row and column; the borders are zero-padded
    (negative padding crops); the result is convolved with `f` wherever the filter fits; every
    `down`-th row and column is kept.

    Args:
        x: images; float64, float32, float16 or bfloat16, any strides. Planes with neighboring
            columns and channels_last are read as they are, without a copy.
        f: the filter, on the device of `x`, of any of these dtypes. One dimension means the
            separable filter `outer(f, f)`. It is not normalized.
        up, down: integer factors, 1 to 2**31 - 1, or pairs (horizontal, vertical). Factors that
            differ by axis are computed by the reference: the native kernels have one for both.
        padding: one integer for every side or (left, right, top, bottom), counted in pixels of the
            *upsampled* image.
        flip_filter: False convolves, True correlates. No difference for a symmetric filter.
        gain: factor on the result; `up**2` keeps the brightness of an upsampled image when `f`
            sums to 1.

    Returns:
        Images of the dtype of `x`, channels_last if `x` is. Differentiable any number of times in
        `x`; not in `f`. Natively, float64 is summed in float64 and everything else in float32, as
        which `gain` times the taps is rounded; the bits do not depend on the number of threads.
        Autocast leaves the op alone: it is bound by memory, so that the dtype of `x` is as good as
        any.

    Raises:
        TypeError: `x` or `f` is not a tensor of one of the dtypes above, `flip_filter` no bool or
            `gain` no number.
        ValueError: a wrong shape, factor, padding or gain, an image smaller than the filter, a
            filter on another device, or one that requires a gradient.

    Source: Karras et al. 2019, 2020 (the resampling of StyleGAN and StyleGAN2).
    """
    (up_x, up_y), (down_x, down_y) = _two_factors("up", up), _two_factors("down", down)
    pads = _check(x, f, up_x, up_y, padding)
    check_flag("upfirdn2d", "flip_filter", flip_filter)
    check_number("upfirdn2d", "gain", gain)
    if not -math.inf < gain < math.inf:  # torch.compile knows no isfinite of a symbol
        raise ValueError(f"upfirdn2d: gain must be finite, got {gain}")
    gain = float(gain)
    if up_x != up_y or down_x != down_y or not native_kernel("upfirdn2d", x.device):
        with without_autocast(x):
            return upfirdn2d_ref(x, f, (up_x, up_y), (down_x, down_y), pads, flip_filter, gain)
    y: Tensor = _native(x, f, up_x, down_x, *pads, flip_filter, gain)
    return y


def upfirdn2d_ref(
    x: Tensor, f: Tensor, up: int | Sequence[int] = 1, down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0, flip_filter: bool = False, gain: float = 1.0,
) -> Tensor:  # fmt: skip
    """`upfirdn2d` in plain PyTorch as one depthwise convolution, without argument checks."""
    (up_x, up_y), (down_x, down_y) = _two_factors("up", up), _two_factors("down", down)
    left, right, top, bottom = _four_paddings(padding)
    channels = x.shape[1]
    # A separable filter is applied as one 2-D filter: for the four taps used here the second pass
    # over memory costs more than the extra multiplications.
    f = f.to(x.device, torch.promote_types(f.dtype, x.dtype))  # float64 x: no product in float32
    kernel = (f[:, None] * f[None, :] if f.ndim == 1 else f).to(x.dtype)
    if gain != 1.0:
        kernel = kernel * gain
    kh, kw = kernel.shape
    if channels == 0:  # which a convolution refuses
        height, width = x.shape[2] * up_y + top + bottom, x.shape[3] * up_x + left + right
        return x.new_empty(x.shape[0], 0, (height - kh) // down_y + 1, (width - kw) // down_x + 1)
    # conv2d correlates and conv_transpose2d convolves, so they want opposite orientations.
    upsamples = up_x > 1 or up_y > 1
    if flip_filter == upsamples:
        kernel = kernel.flip(0, 1)
    kernel = kernel.expand(channels, 1, kh, kw)
    if not upsamples:
        stride = (down_y, down_x)
        if left == right >= 0 and top == bottom >= 0:
            return F.conv2d(x, kernel, stride=stride, padding=(top, left), groups=channels)
        x = _pad_and_crop(x, (left, right, top, bottom))
        return F.conv2d(x, kernel, stride=stride, groups=channels)
    # The transposed convolution is the "full" convolution of the zero-inserted image: it starts
    # k - 1 pixels before an unpadded one, and ends k - up pixels after the inserted zeros end.
    crop_h, crop_w = min(kh - 1 - top, kh - up_y - bottom), min(kw - 1 - left, kw - up_x - right)
    crop_h, crop_w = max(crop_h, 0), max(crop_w, 0)  # what both sides lose, conv_transpose2d drops
    crop, stride = (crop_h, crop_w), (up_y, up_x)
    x = F.conv_transpose2d(x, kernel, stride=stride, padding=crop, groups=channels)
    rest = (
        left - (kw - 1) + crop_w,
        right - (kw - up_x) + crop_w,
        top - (kh - 1) + crop_h,
        bottom - (kh - up_y) + crop_h,
    )
    if any(rest):
        x = _pad_and_crop(x, rest)
    return x if down_x == down_y == 1 else x[:, :, ::down_y, ::down_x]


def _pad_and_crop(x: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    """F.pad crops first, and refuses to crop more than there is before the other side is padded."""
    if min(sides) < 0 < max(sides):
        x = F.pad(x, [max(side, 0) for side in sides])
        sides = tuple(min(side, 0) for side in sides)  # type: ignore[assignment]
    return F.pad(x, sides)


def _check(
    x: Tensor, f: Tensor, up_x: int, up_y: int, padding: int | Sequence[int]
) -> tuple[int, int, int, int]:
    """Return the paddings (left, right, top, bottom) of arguments that can be computed with."""
    check_floating("upfirdn2d", "x", x)
    check_floating("upfirdn2d", "f", f)
    if x.ndim != 4:
        raise ValueError(f"upfirdn2d: x must be [N, C, H, W], got {list(x.shape)}")
    if f.ndim not in (1, 2) or 0 in f.shape:
        raise ValueError(
            f"upfirdn2d: f must be a filter of shape [k] or [kh, kw], got {list(f.shape)}"
        )
    if f.device != x.device:
        raise ValueError(
            f"upfirdn2d: f is on {f.device} but x is on {x.device}; move the filter: f.to(x.device)"
        )
    if f.requires_grad:
        raise ValueError("upfirdn2d: the filter is a constant; pass f.detach()")
    left, right, top, bottom = pads = _four_paddings(padding)
    height = x.shape[2] * up_y + top + bottom
    width = x.shape[3] * up_x + left + right
    if height < f.shape[0] or width < f.shape[-1] or x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(
            f"upfirdn2d: the upsampled and padded image is {height}x{width}, smaller than the "
            f"filter {f.shape[0]}x{f.shape[-1]}; use more padding or larger images "
            f"(x is {list(x.shape)})"
        )
    if height > _MAX_SIZE or width > _MAX_SIZE or max(pads) > _MAX_SIZE or min(pads) < -_MAX_SIZE:
        raise ValueError(
            f"upfirdn2d: sizes beyond 2**62: x is {list(x.shape)}, up {up_x}, {up_y}, padding "
            f"{padding!r}"
        )
    return pads


def _two_factors(name: str, factor: int | Sequence[int]) -> tuple[int, int]:
    """Return the factors (horizontal, vertical) of an argument `up` or `down`."""
    pair = (factor, factor) if isinstance(factor, int) else factor
    if (
        not isinstance(pair, Sequence) or len(pair) != 2
        or not all(isinstance(part, int) and 1 <= part <= _MAX_FACTOR for part in pair)
    ):  # fmt: skip
        raise ValueError(
            f"upfirdn2d: {name} must be an integer from 1 to {_MAX_FACTOR} or a pair of them "
            f"(horizontal, vertical), got {factor!r}"
        )
    return pair[0], pair[1]


def _four_paddings(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Return (left, right, top, bottom) of a padding argument."""
    if isinstance(padding, (int, torch.SymInt)):
        return padding, padding, padding, padding
    pads = tuple(padding) if isinstance(padding, Sequence) else ()
    if len(pads) != 4 or not all(isinstance(p, (int, torch.SymInt)) for p in pads):
        raise ValueError(
            f"upfirdn2d: padding must be one integer or (left, right, top, bottom), got {padding!r}"
        )
    return pads[0], pads[1], pads[2], pads[3]


def _transposed_padding(
    x: torch.Size, y: torch.Size, f: Tensor, up: int, down: int, left: int, top: int
) -> tuple[int, int, int, int]:
    """Return the paddings of the gradient, which is upfirdn2d itself from y to x with up and down,
    and the filter, turned round."""
    return (
        f.shape[-1] - 1 - left,
        x[3] * up - y[3] * down + left - up + 1,
        f.shape[0] - 1 - top,
        x[2] * up - y[2] * down + top - up + 1,
    )


def _fake(
    x: Tensor,
    f: Tensor,
    up: int,
    down: int,
    left: int,
    right: int,
    top: int,
    bottom: int,
    flip_filter: bool,
    gain: float,
) -> Tensor:
    torch._check(up >= 1 and down >= 1, lambda: "upfirdn2d: up and down must be at least 1")
    n, c, height, width = x.shape
    size = (
        n,
        c,
        (height * up + top + bottom - f.shape[0]) // down + 1,
        (width * up + left + right - f.shape[-1]) // down + 1,
    )
    last = c > 1 and x.stride(1) == 1 and x.stride(3) != 1
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, ctx.up, ctx.down, ctx.left, _, ctx.top, _, ctx.flip_filter, ctx.gain = inputs
    ctx.save_for_backward(f)
    ctx.x_size, ctx.y_size = x.shape, output.shape


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (f,) = ctx.saved_tensors
    up, down = ctx.up, ctx.down
    pads = _transposed_padding(ctx.x_size, ctx.y_size, f, up, down, ctx.left, ctx.top)
    grad_x = _native(grad, f, down, up, *pads, not ctx.flip_filter, ctx.gain)
    return grad_x, *[None] * 9


_native = native_op("upfirdn2d", _fake, _backward, _setup_context)
