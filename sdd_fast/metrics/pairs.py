"""Images as metrics take them: checked once, looked at in batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BATCH = 64
"""Images that a network sees at once, unless told otherwise."""
_ROUNDING = 1e-3


def check_images(name: str, images: Tensor) -> Tensor:
    """Return images as float32 in [-1, 1], on the CPU.

    Raises:
        TypeError: no tensor of floating point numbers.
        ValueError: not [N, 3, H, W] with N ≥ 1, values outside of [-1, 1], NaN or infinity.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"{name} must be a float tensor [N, 3, H, W] in [-1, 1], got {got}; of bytes take "
            "x / 127.5 - 1"
        )
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"{name} must be images [N, 3, H, W] with N ≥ 1, got {list(images.shape)}")
    largest = float(images.detach().abs().max())
    if not largest <= 1 + _ROUNDING:  # also true of NaN
        raise ValueError(
            f"{name} must lie in [-1, 1], the largest magnitude is {largest:g}. What a generator "
            "makes overshoots: clamp(-1, 1) it, as saving it would; of values 0…1 take 2 x - 1"
        )
    return images.detach().cpu().float().clamp(-1, 1)


def check_pairs(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return images before and after an edit; ValueError if they do not pair up."""
    before, after = check_images("before", before), check_images("after", after)
    if before.shape != after.shape:
        raise ValueError(
            "before and after must be the same images in the same order; got "
            f"{list(before.shape)} and {list(after.shape)}"
        )
    return before, after


def in_batches(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    device: str | torch.device = "cpu",
    batch_size: int = BATCH,
) -> Tensor:
    """Return float64 results [N, …] on the CPU of images [N, 3, H, W], some at a time."""
    with torch.no_grad():
        parts = [function(part.to(device)).double().cpu() for part in images.split(batch_size)]
    return torch.cat(parts)
