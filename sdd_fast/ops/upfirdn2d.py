"""Upsample by zero insertion, pad or crop, filter (FIR), downsample: in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._autocast import without_autocast


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
        x: floating point images.
        f: the filter. One dimension means the separable filter `outer(f, f)`. It is not
            normalised.
        up, down: integer factors, at least 1, the same in both directions.
        padding: one number for every side or (left, right, top, bottom), counted in pixels of the
            *upsampled* image.
        flip_filter: False convolves, True correlates. No difference for a symmetric filter.
        gain: factor on the result; `up**2` keeps the brightness of an upsampled image when `f`
            sums to 1.

    Returns:
        Images of the dtype of `x`. Differentiable any number of times in `x`; not in `f`.

    Raises:
        TypeError: `x` or `f` is not a floating point tensor.
        ValueError: a wrong shape, factor or padding, an image smaller than the filter, or a filter
            that requires a gradient.

    Source: Karras et al. 2019, 2020 (the resampling of StyleGAN and StyleGAN2).
    """
    for name, tensor in (("x", x), ("f", f)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            given = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"upfirdn2d: {name} must be a floating point tensor, got {given}")
    if x.ndim != 4:
        raise ValueError(f"upfirdn2d: x must be [N, C, H, W], got {list(x.shape)}")
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(
            f"upfirdn2d: f must be a filter of shape [k] or [kh, kw], got {list(f.shape)}"
        )
    if f.requires_grad:
        raise ValueError("upfirdn2d: the filter is a constant; pass f.detach()")
    for name, factor in (("up", up), ("down", down)):
        if not isinstance(factor, int) or factor < 1:
            raise ValueError(f"upfirdn2d: {name} must be an integer of at least 1, got {factor!r}")
    pads = _four_paddings(padding)
    kh, kw = f.shape[0], f.shape[-1]
    height = x.shape[2] * up + pads[2] + pads[3]
    width = x.shape[3] * up + pads[0] + pads[1]
    if height < kh or width < kw or x.shape[2] * x.shape[3] == 0:
        raise ValueError(
            f"upfirdn2d: the upsampled and padded image is {height}x{width}, smaller than the "
            f"filter {kh}x{kw}; use more padding or larger images (x is {list(x.shape)})"
        )
    y: Tensor = _Upfirdn2d.apply(x, f, up, down, pads, flip_filter, gain)
    return y


class _Upfirdn2d(torch.autograd.Function):
    """The gradient of upfirdn2d is upfirdn2d with up and down, and the filter, turned round.

    Left to the depthwise convolution's own backward it takes several times as long on a CPU.
    """

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
        with without_autocast(x):  # memory bound: x's dtype is as good
            return upfirdn2d_ref(x, f, up, down, pads, flip_filter, gain)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, f, ctx.up, ctx.down, ctx.pads, ctx.flip_filter, ctx.gain = inputs
        ctx.save_for_backward(f)
        ctx.x_size, ctx.y_size = x.shape[2:], output.shape[2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (f,) = ctx.saved_tensors
        up, down = ctx.up, ctx.down
        left, _, top, _ = ctx.pads
        pads = (
            f.shape[-1] - 1 - left,
            ctx.x_size[1] * up - ctx.y_size[1] * down + left - up + 1,
            f.shape[0] - 1 - top,
            ctx.x_size[0] * up - ctx.y_size[0] * down + top - up + 1,
        )
        grad_x = _Upfirdn2d.apply(grad, f, down, up, pads, not ctx.flip_filter, ctx.gain)
        return grad_x, None, None, None, None, None, None


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
    kernel = (f[:, None] * f[None, :] if f.ndim == 1 else f).to(device=x.device, dtype=x.dtype)
    if gain != 1.0:
        kernel = kernel * gain
    kh, kw = kernel.shape
    # conv2d correlates and conv_transpose2d convolves, so they want opposite orientations.
    if flip_filter == (up > 1):
        kernel = kernel.flip(0, 1)
    kernel = kernel.expand(channels, 1, kh, kw)
    if up == 1:
        if left == right >= 0 and top == bottom >= 0:
            return F.conv2d(x, kernel, stride=down, padding=(top, left), groups=channels)
        x = F.pad(x, (left, right, top, bottom))
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
        x = F.pad(x, rest)
    return x if down == 1 else x[:, :, ::down, ::down]


def _four_paddings(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) of a padding argument."""
    if isinstance(padding, int):
        return padding, padding, padding, padding
    pads = tuple(padding)
    if len(pads) != 4 or not all(isinstance(p, int) for p in pads):
        raise ValueError(
            f"upfirdn2d: padding must be one integer or (left, right, top, bottom), got {padding!r}"
        )
    return pads[0], pads[1], pads[2], pads[3]
