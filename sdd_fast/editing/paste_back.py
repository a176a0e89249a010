"""The edited crop of a photograph put back into it, where the edit changed something.

    m = window · blur(grow(ramp(|edited − before|)))        before: the crop at strength 0
    photo' = photo + P(m) (P(edited) − photo)               P: from the crop to the photograph

P is the inverse of the alignment. Everything where m is 0 keeps the photograph's own values: the
background, and all that encoder and generator render otherwise than it is without an edit. Where m
is 1 the photograph shows what the generator made, at the generator's resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from ..images import to_pil

RAMP = (0.02, 0.06)
"""Changes, as shares of the range of values: below nothing is replaced, above everything."""

GROWN, BLURRED = 0.03, 0.015
"""Shares of the crop's shorter side: how far the mask reaches beyond a change, and its blur (σ)."""

BORDER = 0.05
"""Share of the crop over which it fades out towards its edges, unless those of the photograph are
there."""


def upright_quad(rows: slice, columns: slice) -> np.ndarray:
    """The corners of an upright crop, [4, 2] in pixels, as `align.face_quad` gives a face's."""
    left, right = columns.start - 0.5, columns.stop - 0.5
    top, bottom = rows.start - 0.5, rows.stop - 0.5
    return np.array([[left, top], [left, bottom], [right, bottom], [right, top]])


def paste_back(photo: Image.Image, edited: Tensor, before: Tensor, quad: np.ndarray) -> Image.Image:
    """Put an edited crop back into its photograph; returns a new image of the photograph's size.

    Args:
        photo: RGB, upright.
        edited, before: the crop after the edit and at strength 0, [3, H, W] in [-1, 1].
        quad: corners of the crop in the photograph, [4, 2]: top left, bottom left, bottom right,
            top right; in pixels, whole at the center of one.

    Raises:
        ValueError: a quad of no area, or another shape.
    """
    quad = np.asarray(quad, dtype=np.float64)
    if quad.shape != (4, 2) or not np.isfinite(quad).all():
        raise ValueError(
            f"the corners of a crop must be four finite points, [4, 2], got {list(quad.shape)}"
        )
    mask = change_mask(edited, before, sides_within(photo.size, quad))
    result = photo.copy()
    if mask.getextrema() == (0, 0):
        return result
    left, top = np.maximum(np.floor(quad.min(0)).astype(int), 0).tolist()
    right, bottom = np.minimum(np.ceil(quad.max(0)).astype(int) + 1, photo.size).tolist()
    if left >= right or top >= bottom:  # the crop lies beside the photograph
        return result
    box = (left, top, right, bottom)
    result.paste(_placed(to_pil(edited), quad, box), box, _placed(mask, quad, box))
    return result


def change_mask(
    edited: Tensor, before: Tensor, fading: Sequence[bool] = (True, True, True, True)
) -> Image.Image:
    """Where to show the edited crop: an 8-bit gray image, 255 where the edit changed something.

    Args:
        edited, before: [3, H, W] in [-1, 1].
        fading: of the left, top, right and bottom edge: whether the mask fades out towards it.
    """
    if edited.shape != before.shape or edited.ndim != 3:
        raise ValueError(
            "expected two images of one shape [3, H, W], got "
            f"{list(edited.shape)} and {list(before.shape)}"
        )
    change = (edited.float() - before.float()).abs().amax(0).cpu() / 2
    low, high = RAMP
    mask = ((change - low) / (high - low)).clamp(0, 1)
    side = min(mask.shape)
    grown = max(1, round(GROWN * side))
    mask = F.max_pool2d(mask[None], (2 * grown + 1, 1), 1, (grown, 0))
    mask = F.max_pool2d(mask, (1, 2 * grown + 1), 1, (0, grown))[0]
    gray = Image.fromarray((mask * 255).round().to(torch.uint8).numpy())
    soft = np.asarray(gray.filter(ImageFilter.GaussianBlur(max(1.0, BLURRED * side))), np.float64)
    height, width = soft.shape
    left, top, right, bottom = fading
    window = _fade(height, top, bottom)[:, None] * _fade(width, left, right)[None, :]
    return Image.fromarray((soft * window).round().astype(np.uint8))


def sides_within(size: tuple[int, int], quad: np.ndarray) -> list[bool]:
    """Of the left, top, right and bottom edge of a crop: whether it crosses the photograph.

    Args:
        size: the photograph's (width, height). quad: see `paste_back`.
    """
    # How far each corner is within each edge of the photograph, [4 corners, 4 edges].
    depth = np.concatenate([quad + 0.5, np.array(size) - 0.5 - quad], 1)
    edges = ((0, 1), (0, 3), (3, 2), (1, 2))
    return [not bool(((depth[a] < 1) & (depth[b] < 1)).any()) for a, b in edges]


def _fade(length: int, before: bool, after: bool) -> np.ndarray:
    """[length]: from 0 at the ends that fade to 1, smoothly."""
    at = (np.arange(length) + 0.5) / (BORDER * length)
    ones = np.ones(length)
    start, end = at if before else ones, at[::-1] if after else ones
    ramp = np.minimum(np.minimum(start, end), 1)
    smooth: np.ndarray = ramp * ramp * (3 - 2 * ramp)
    return smooth


def _placed(crop: Image.Image, quad: np.ndarray, box: tuple[int, int, int, int]) -> Image.Image:
    """The crop as it lies in the pixels of `box` of the photograph; black beside it."""
    across, down = quad[3] - quad[0], quad[1] - quad[0]
    # Sampled as coarsely as the photograph, where that is coarser than the crop.
    size = tuple(
        min(have, max(1, math.ceil(np.hypot(*side))))
        for have, side in zip(crop.size, (across, down), strict=True)
    )
    if size != crop.size:
        crop = crop.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    to_photo = np.stack([across / size[0], down / size[1]], 1)  # of a step in the crop
    if abs(np.linalg.det(to_photo)) < 1e-12:
        raise ValueError(f"the corners of the crop span no area: {quad.tolist()}")
    to_crop = np.linalg.inv(to_photo)
    # Pillow counts from the corner of a pixel, the quad from its center.
    start = to_crop @ (np.array(box[:2]) - (quad[0] + 0.5))
    rows = (*to_crop[0], start[0], *to_crop[1], start[1])
    return crop.transform(
        (box[2] - box[0], box[3] - box[1]),
        Image.Transform.AFFINE,
        tuple(float(value) for value in rows),
        Image.Resampling.BICUBIC,
    )
