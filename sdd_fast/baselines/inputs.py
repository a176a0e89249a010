"""What baselines are given: images of the domain's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from ..domains import Domain

_LARGEST = 2.0  # magnitude: generators overshoot [-1, 1]


def image_size(domain: Domain) -> tuple[int, int]:
    """Return (height, width) of a domain's images."""
    rows = domain.spec.content_rows
    width = domain.resolution
    return (width if rows is None else rows[1] - rows[0]), width


def check_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images [B, 3, *size] as float32 in [-1, 1]; what overshoots a little is clamped.

    Raises:
        ValueError: another shape, not floating point, or values far outside, NaN among them.
    """
    wanted = f"images must be floating point [B, 3, {size[0]}, {size[1]}] in [-1, 1]"
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"{wanted}, got {given}; convert bytes with x / 127.5 - 1")
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, *size):
        raise ValueError(f"{wanted}, got {list(images.shape)}; sdd_fast.images.fit crops others")
    images = images.detach().float()
    largest = float(images.abs().max()) if images.numel() else 0.0
    if not largest <= _LARGEST:  # also true of NaN
        raise ValueError(
            f"{wanted}, got values up to {largest:g}; for values 0…255 use x / 127.5 - 1"
        )
    return images.clamp(-1, 1)
