"""Images in and out: any common file, PIL image or array ↔ float32 tensors [3, H, W] in [-1, 1].

Pillow's guard against decompression bombs stays on. Every problem with a file is a ValueError (or
FileNotFoundError) that names the file and says what to do.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from . import _deprecated
from .files import PathLike, atomic_path, expanded

ImageSource = PathLike | Image.Image | np.ndarray | torch.Tensor
Size = int | tuple[int, int]
"""Of an image in pixels: the side of a square, or (height, width)."""

MIN_SIDE = 16  # pixels; below this nothing recognizable is left to edit
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})


def load_image(source: ImageSource, size: Size | None = None) -> torch.Tensor:
    """Load any image as float32 [3, H, W] in [-1, 1].

    Args:
        source: one of
            - a file: EXIF rotation is applied; alpha is composited on white; CMYK, palette,
              grayscale, 1-bit and 16-bit are converted; of an animation the first frame is taken;
            - a PIL image: likewise;
            - an array [H, W], [H, W, 1|3|4]: uint8 (0…255), uint16 (0…65535) or float in [0, 1];
            - a tensor [3, H, W]: uint8 (0…255), or float in [-1, 1] (beyond that is clamped, as
              generators overshoot).
        size: if given, the image is center-cropped and resized to [3, size, size], or to
            [3, *size] for a (height, width); see `fit`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an image, truncated, larger than Pillow's bomb limit, smaller than 16
            pixels, or a shape, type or range other than those above.
    """
    if isinstance(source, torch.Tensor):
        image = _from_tensor(source)
    elif isinstance(source, np.ndarray):
        image = _from_array(source)
    elif isinstance(source, Image.Image):
        image = _from_pil(ImageOps.exif_transpose(source), "the PIL image")
    elif isinstance(source, (str, os.PathLike)):
        image = _from_file(expanded(source))
    else:
        raise TypeError(
            "expected an image file, a PIL image, an array or a tensor, got "
            f"{type(source).__name__}"
        )
    height, width = image.shape[1:]
    if min(height, width) < MIN_SIDE:
        name = f"{source} " if isinstance(source, (str, os.PathLike)) else "the image "
        raise ValueError(
            f"{name}is too small: {width}×{height} pixels, at least {MIN_SIDE}×{MIN_SIDE} "
            "are needed"
        )
    return image if size is None else fit(image, size)


def list_images(folder: PathLike) -> list[Path]:
    """List the image files directly in `folder`, sorted by name, without hidden ones.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
        ValueError: it holds no image.
    """
    root = expanded(folder)
    if not root.exists():
        raise FileNotFoundError(f"there is no such folder: {root}")
    if not root.is_dir():
        raise NotADirectoryError(f"expected a folder of images, but {root} is a file")
    files = sorted(p for p in root.iterdir() if p.is_file() and not p.name.startswith("."))
    images = [p for p in files if p.suffix.lower() in SUFFIXES]
    if not images:
        found = f"{len(files)} other files" if files else "no files at all"
        raise ValueError(
            f"no images in {root} ({found}); expected files ending in {' '.join(sorted(SUFFIXES))}"
        )
    return images


def load_folder(
    folder: PathLike, size: Size, limit: int | None = None
) -> tuple[torch.Tensor, list[Path]]:
    """Load a folder, cropped and resized: (float32 [N, 3, H, W] in [-1, 1], the paths).

    `limit` takes the first so many by name. Errors are those of `list_images` and `load_image`.
    """
    paths = list_images(folder)[:limit]
    return torch.stack([load_image(path, size) for path in paths]), paths


def fit(image: torch.Tensor, size: Size) -> torch.Tensor:
    """Center-crop [..., 3, H, W] to the shape of `size` and resize it to that.

    The resize is antialiased bicubic; its overshoot is clamped to [-1, 1].
    """
    target = (size, size) if isinstance(size, int) else tuple(size)
    if min(target) < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    height, width = image.shape[-2:]
    scale = min(height / target[0], width / target[1])
    rows = min(height, max(1, round(scale * target[0])))
    columns = min(width, max(1, round(scale * target[1])))
    top, left = (height - rows) // 2, (width - columns) // 2
    crop = image[..., top : top + rows, left : left + columns]
    if crop.shape[-2:] == target:
        return crop.contiguous()
    batch = crop.reshape(-1, *crop.shape[-3:])
    resized = F.interpolate(batch, target, mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(-1, 1).reshape(*image.shape[:-2], *target)


def to_pil(image: torch.Tensor) -> Image.Image:
    """Convert [3, H, W] float in [-1, 1] (clamped) to an 8-bit RGB image; NaN raises ValueError."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"expected one image of shape [3, H, W], got {list(image.shape)}; "
            "of a batch, convert each image"
        )
    values = image.detach().float().cpu()
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the image holds NaN or infinity and cannot be shown")
    pixels = ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy(), "RGB")


def save_png(path: PathLike, image: torch.Tensor | Image.Image) -> None:
    """Write a [3, H, W] tensor in [-1, 1] or a PIL image as PNG, atomically."""
    picture = to_pil(image) if isinstance(image, torch.Tensor) else image
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the peak signal-to-noise ratio in dB of images in [-1, 1]: [B, …] → [B]."""
    error = (a.double() - b.double()).square().flatten(1).mean(1)
    return 10.0 * torch.log10(4.0 / error.clamp(min=1e-12))


# What Pillow's decoders raise on broken files; SyntaxError is its PNG decoder's.
_BROKEN = (OSError, SyntaxError, EOFError, ValueError, TypeError, LookupError, struct.error)


# --- readers --------------------------------------------------------------------------------------


def _from_file(path: Path) -> torch.Tensor:
    if not path.exists():
        raise FileNotFoundError(f"there is no such image file: {path}")
    if path.is_dir():
        raise IsADirectoryError(f"expected an image file, but {path} is a folder")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    try:
        with Image.open(path) as opened:
            opened.load()
            # The orientation is read here because a broken EXIF block fails only when parsed.
            picture = ImageOps.exif_transpose(opened)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} is refused as a possible decompression bomb ({error}); "
            "scale it down with an image editor first"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image that Pillow can read") from error
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's error (permission, too many open files), not the decoder's
        raise ValueError(f"{path} is a truncated or corrupt image ({error})") from error
    return _from_pil(picture, str(path))


def _from_pil(picture: Image.Image, name: str) -> torch.Tensor:
    mode = picture.mode
    if mode.startswith("I") or mode == "F":
        return _gray_to_rgb(_unit_range(np.asarray(picture), name))
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        rgba = np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255
        return _hwc(_on_white(rgba))
    return _hwc(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)


def _from_array(array: np.ndarray) -> torch.Tensor:
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
        raise ValueError(
            f"expected an array of shape [H, W] or [H, W, 1|3|4], got {list(array.shape)}"
            "; tensors, not arrays, are channels-first"
        )
    if array.dtype == np.uint8:
        unit = array.astype(np.float32) / 255
    elif array.dtype == np.uint16 or np.issubdtype(array.dtype, np.floating):
        unit = _unit_range(array, "the array")
    else:
        raise TypeError(
            "expected an array of uint8 (0…255), uint16 (0…65535) or float (0…1), got "
            f"{array.dtype}"
        )
    if unit.ndim == 2 or unit.shape[2] == 1:
        return _gray_to_rgb(unit.reshape(unit.shape[:2]))
    return _hwc(_on_white(unit) if unit.shape[2] == 4 else unit)


def _from_tensor(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"expected an image tensor of shape [3, H, W], got {list(tensor.shape)}")
    tensor = tensor.detach()
    if tensor.dtype == torch.uint8:
        return tensor.float() / 127.5 - 1
    if not tensor.is_floating_point():
        raise TypeError(
            f"expected an image tensor of uint8 (0…255) or float (-1…1), got {tensor.dtype}"
        )
    tensor = tensor.float()
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    if not largest <= 2:  # also true of NaN
        raise ValueError(
            f"expected a float image tensor in [-1, 1], its largest magnitude is {largest:g}; "
            "for values 0…255 use x / 127.5 - 1"
        )
    return tensor.clamp(-1, 1)


def _unit_range(values: np.ndarray, name: str) -> np.ndarray:
    """Integers of up to 16 bits, or floats already in [0, 1] → float32 in [0, 1]."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    limit = 1.0 if np.issubdtype(values.dtype, np.floating) else 65535.0
    if not (low >= 0 and high <= limit):  # also true of NaN
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}; expected 16-bit integers (0…65535) "
            "or floats in [0, 1]"
        )
    return (values.astype(np.float64) / limit).astype(np.float32)


def _on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + (1 - alpha)


def _hwc(unit: np.ndarray) -> torch.Tensor:
    """[H, W, 3] in [0, 1] → [3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(unit.transpose(2, 0, 1))).float() * 2 - 1


def _gray_to_rgb(unit: np.ndarray) -> torch.Tensor:
    return _hwc(np.repeat(unit[..., None], 3, axis=2))


if not TYPE_CHECKING:
    __getattr__ = _deprecated.moved(__name__, grid="sdd_fast.grid")
