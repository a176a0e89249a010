"""Upsample by zero insertion, pad or crop, filter (FIR), downsample: in one call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._autocast import without_autocast
from ._register import NATIVE, native_kernel, without_autograd

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_MAX_FACTOR, _MAX_SIZE = 2**31 - 1, 2**62  # what 64-bit index arithmetic can take


def upfirdn2d(
    x: Tensor,  # [N, C, H, W]
    f: Tensor,  # [k] separable, or [kh, kw]
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:  # [N, C, H', W'],  H' = (H * up + top + bottom - kh) // down + 1
    """Upsample, FIR-filter and downsample every channel of a batch of images.

    In order: `up - 1` zeros are inserted after every row and column; the borders are zero-padded
    (negative padding crops); the result is convolved with `f` wherever the filter fits; every
    `down`-th row and column is kept.

    Args:
        x: images; float64, float32, float16 or bfloat16, any strides. Planes with neighbouring
            columns and channels_last are read as they are, without a copy.
        f: the filter, on the device of `x`, of any of these dtypes. One dimension means the
            separable filter `outer(f, f)`. It is not normalised.
        up, down: integer factors, 1 to 2**31 - 1, the same in both directions.
        padding: one number for every side or (left, right, top, bottom), counted in pixels of the
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
    left, right, top, bottom = _check(x, f, up, down, padding)
    if not isinstance(flip_filter, bool):
        raise TypeError(
            f"upfirdn2d: flip_filter must be True or False, got {type(flip_filter).__name__}"
        )
    if not isinstance(gain, (int, float, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"upfirdn2d: gain must be a number, got {type(gain).__name__}")
    if not -math.inf < gain < math.inf:  # torch.compile knows no isfinite of a symbol
        raise ValueError(f"upfirdn2d: gain must be finite, got {gain}")
    if not native_kernel("upfirdn2d", x.device):
        pads = (left, right, top, bottom)
        y: Tensor = _Reference.apply(x, f, up, down, pads, flip_filter, float(gain))
        return y
    with without_autograd(x):
        y = torch.ops.sdd_fast.upfirdn2d(
            x, f, up, down, left, right, top, bottom, flip_filter, float(gain)
        )
    return y


def upfirdn2d_ref(
    x: Tensor,  # [N, C, H, W]
    f: Tensor,  # [k] or [kh, kw]
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:  # [N, C, H', W']
    """`upfirdn2d` in plain PyTorch as one depthwise convolution, without argument checks."""
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
        height, width = x.shape[2] * up + top + bottom, x.shape[3] * up + left + right
        return x.new_empty(x.shape[0], 0, (height - kh) // down + 1, (width - kw) // down + 1)
    # conv2d correlates and conv_transpose2d convolves, so they want opposite orientations.
    if flip_filter == (up > 1):
        kernel = kernel.flip(0, 1)
    kernel = kernel.expand(channels, 1, kh, kw)
    if up == 1:
        if left == right >= 0 and top == bottom >= 0:
            return F.conv2d(x, kernel, stride=down, padding=(top, left), groups=channels)
        x = _pad_and_crop(x, (left, right, top, bottom))
        return F.conv2d(x, kernel, stride=down, groups=channels)
    # The transposed convolution is the "full" convolution of the zero-inserted image: it starts
    # k - 1 pixels before an unpadded one, and ends k - up pixels after the inserted zeros end.
    crop_h, crop_w = min(kh - 1 - top, kh - up - bottom), min(kw - 1 - left, kw - up - right)
    crop_h, crop_w = max(crop_h, 0), max(crop_w, 0)  # what both sides lose, conv_transpose2d drops
    x = F.conv_transpose2d(x, kernel, stride=up, padding=(crop_h, crop_w), groups=channels)
    rest = (
        left - (kw - 1) + crop_w,
        right - (kw - up) + crop_w,
        top - (kh - 1) + crop_h,
        bottom - (kh - up) + crop_h,
    )
    if any(rest):
        x = _pad_and_crop(x, rest)
    return x if down == 1 else x[:, :, ::down, ::down]


def _pad_and_crop(x: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    """F.pad crops first, and refuses to crop more than there is before the other side is padded."""
    if min(sides) < 0 < max(sides):
        x = F.pad(x, [max(side, 0) for side in sides])
        sides = tuple(min(side, 0) for side in sides)  # type: ignore[assignment]
    return F.pad(x, sides)


def _check(
    x: Tensor, f: Tensor, up: int, down: int, padding: int | Sequence[int]
) -> tuple[int, int, int, int]:
    """The paddings (left, right, top, bottom) of arguments that can be computed with."""
    for name, tensor in (("x", x), ("f", f)):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"upfirdn2d: {name} must be a torch.Tensor, not {type(tensor).__name__}"
            )
        if tensor.dtype not in _DTYPES:
            raise TypeError(
                f"upfirdn2d: {name} must be float64, float32, float16 or bfloat16, "
                f"not {tensor.dtype}; convert it first"
            )
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
    for name, factor in (("up", up), ("down", down)):
        if not isinstance(factor, int) or not 1 <= factor <= _MAX_FACTOR:
            raise ValueError(
                f"upfirdn2d: {name} must be an integer from 1 to {_MAX_FACTOR}, got {factor!r}"
            )
    left, right, top, bottom = pads = _four_paddings(padding)
    height = x.shape[2] * up + top + bottom
    width = x.shape[3] * up + left + right
    if height < f.shape[0] or width < f.shape[-1] or x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(
            f"upfirdn2d: the upsampled and padded image is {height}x{width}, smaller than the "
            f"filter {f.shape[0]}x{f.shape[-1]}; use more padding or larger images "
            f"(x is {list(x.shape)})"
        )
    if height > _MAX_SIZE or width > _MAX_SIZE or max(pads) > _MAX_SIZE or min(pads) < -_MAX_SIZE:
        raise ValueError(
            f"upfirdn2d: sizes beyond 2**62: x is {list(x.shape)}, up {up}, padding {padding!r}"
        )
    return pads


def _four_paddings(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) of a padding argument."""
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
    """The paddings of the gradient, which is upfirdn2d itself from y to x with up and down, and the
    filter, turned round. Left to a depthwise convolution's backward it takes several times as long.
    """
    return (
        f.shape[-1] - 1 - left,
        x[3] * up - y[3] * down + left - up + 1,
        f.shape[0] - 1 - top,
        x[2] * up - y[2] * down + top - up + 1,
    )


class _Reference(torch.autograd.Function):
    """`upfirdn2d_ref` where there is no native kernel, with the gradient above."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        f: Tensor,
        up: int,
        down: int,
        pads: tuple[int, int, int, int],
        flip_filter: bool,
        gain: float,
    ) -> Tensor:
        with without_autocast(x):
            return upfirdn2d_ref(x, f, up, down, pads, flip_filter, gain)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, f, ctx.up, ctx.down, ctx.pads, ctx.flip_filter, ctx.gain = inputs
        ctx.save_for_backward(f)
        ctx.x_size, ctx.y_size = x.shape, output.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (f,) = ctx.saved_tensors
        left, _, top, _ = ctx.pads
        pads = _transposed_padding(ctx.x_size, ctx.y_size, f, ctx.up, ctx.down, left, top)
        flip = not ctx.flip_filter
        grad_x = _Reference.apply(grad, f, ctx.down, ctx.up, pads, flip, ctx.gain)
        return grad_x, None, None, None, None, None, None


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
    grad_x = torch.ops.sdd_fast.upfirdn2d(grad, f, down, up, *pads, not ctx.flip_filter, ctx.gain)
    return grad_x, *[None] * 9


def _vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *rest: Any) -> tuple[Tensor, int]:
    """Several batches are one larger batch."""
    dim = in_dims[0]
    if dim is None or in_dims[1] is not None:
        raise ValueError("upfirdn2d: vmap over the filter is not supported")
    x = x.movedim(dim, 0)
    y = torch.ops.sdd_fast.upfirdn2d(x.flatten(0, 1), *rest)
    return y.unflatten(0, x.shape[:2]), 0


if NATIVE.path is not None:
    torch.library.register_fake("sdd_fast::upfirdn2d", _fake)
    torch.library.register_autograd("sdd_fast::upfirdn2d", _backward, setup_context=_setup_context)
    torch.library.register_vmap("sdd_fast::upfirdn2d", _vmap)
