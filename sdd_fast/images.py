"""Images in and out: any common file, PIL image or array ↔ float32 tensors [3, H, W] in [-1, 1].

Every problem with a file is a ValueError (or FileNotFoundError) that names the file and says what
to do. How files are decoded: `decoding.py`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from . import _deprecated
from .checks import check_count
from .color_profiles import has_alpha, is_srgb, to_srgb
from .decoding import check_side, list_images, named, read_image
from .files import PathLike, atomic_path, expanded
from .image_bytes import image_bytes, is_encoded
from .shield import shielded

Encoded = PathLike | bytes | bytearray | memoryview | IO[bytes] | Image.Image
"""An image file: its path, its bytes, or open for reading; or what Pillow made of one."""

ImageSource = Encoded | np.ndarray | torch.Tensor
Size = int | tuple[int, int]
"""Of an image in pixels: the side of a square, or (height, width)."""

_STRIP = 2**20  # pixels that are converted to float32 at once


@shielded(grad=False)
def load_image(
    source: ImageSource, size: Size | None = None, *, strict: bool = False
) -> torch.Tensor:
    """Load any image as float32 [3, H, W] in [-1, 1].

    Args:
        source: one of

            - a file (see `decoding.FORMATS`): EXIF rotation is applied; colors are converted to
              sRGB as the file's ICC profile says, without one they are sRGB; alpha is composited
              on white; CMYK, palette, grayscale, 1-bit and 16-bit are converted; of an animation
              the first frame is taken;
            - its bytes, or a file open for reading ("rb"), and a PIL image: likewise;
            - an array [H, W], [H, W, 1|3|4]: uint8 (0…255), uint16 (0…65535) or float in [0, 1];
            - a tensor [3, H, W]: uint8 (0…255), or float in [-1, 1] (beyond that is clamped, as
              generators overshoot).
        size: if given, the image is center-cropped and resized to [3, size, size], or to
            [3, *size] for a (height, width); see `fit`.
        strict: refuse a JPEG that lacks its end, and a color profile that cannot be used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an image, truncated, larger than `decoding.MOST_PIXELS`, smaller than 16
            pixels, or a shape, type or range other than those above.

    Warns:
        UserWarning: a JPEG lacks its end; a color profile cannot be used; 16-bit samples that do
            not exceed 255 are taken as 0…255.
    """
    return load_sizes(source, [size], strict=strict)[0]


def load_sizes(
    source: ImageSource, sizes: Sequence[Size | None], *, strict: bool = False
) -> list[torch.Tensor]:
    """Load an image in several sizes, decoding it once; see `load_image`."""
    if isinstance(source, torch.Tensor):
        image = _from_tensor(source)
        check_side(image.shape[1:], "the image")
        return [image if size is None else fit(image, size) for size in sizes]
    pixels: _Pixels
    if isinstance(source, np.ndarray):
        pixels, largest = _from_array(source)
    elif is_photo(source):
        pixels, largest = _from_pil(*_upright(source, strict), strict)
    else:
        raise TypeError(
            "expected an image file (its path, its bytes, or open for reading), a PIL image, an "
            f"array or a tensor, got {type(source).__name__}"
        )
    check_side(_shape(pixels), "the image")
    return [_fitted(pixels, largest, size) for size in sizes]


@shielded(grad=False)
def load_tensors(images: torch.Tensor, size: Size) -> torch.Tensor:
    """Load a batch [B, 3, H, W] as `load_image` does each of them, looking at the values once.

    That is what a GPU has to be waited for.
    """
    check_side(images.shape[2:], "the image")
    return fit(_in_range(images), size)


def is_photo(source: object) -> TypeGuard[Encoded]:
    """Tell a file in any form, or a PIL image, from pixels: arrays and tensors."""
    return isinstance(source, (str, os.PathLike, Image.Image)) or is_encoded(source)


def load_pil(source: Encoded, *, strict: bool = False) -> Image.Image:
    """Load a file or PIL image as a PIL image of mode RGB and full size; see `load_image`."""
    picture, name = _upright(source, strict)
    if not _is_deep(picture) and not has_alpha(picture):
        return _convert(to_srgb(picture, name, strict), "RGB", name)
    pixels, largest = _from_pil(picture, name, strict)
    return to_pil(_fitted(pixels, largest, None))


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
    target = _target(size)
    rows, columns = center(image.shape[-2:], target)
    crop = image[..., rows, columns]
    if crop.shape[-2:] == target:
        return crop.contiguous()
    batch = crop.reshape(-1, *crop.shape[-3:])
    return _resize(batch, target).clamp(-1, 1).reshape(*image.shape[:-2], *target)


def _target(size: Size) -> tuple[int, int]:
    sides = size if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size must be a side or (height, width), in pixels, got {size!r:.80}")
    return check_count("size", sides[0]), check_count("size", sides[1])


def center(shape: Sequence[int], target: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns in the middle of an image that have the shape of `target`."""
    (height, width), (tall, wide) = shape, target
    scale = min(height / tall, width / wide)
    rows = min(height, max(1, round(scale * tall)))
    columns = min(width, max(1, round(scale * wide)))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def _resize(batch: torch.Tensor, target: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(batch, target, mode="bicubic", align_corners=False, antialias=True)


_Pixels = np.ndarray | Image.Image
"""Samples [H, W] or [H, W, C], or a PIL image of 8 bits."""


def _fitted(pixels: _Pixels, largest: int, size: Size | None) -> torch.Tensor:
    """Samples, white being `largest` → [3, *size] in [-1, 1], to the bits of `fit`.

    The resize works on rows, then on columns. Rows are converted and resized a strip at a time, so
    that a large image is never held as float32.
    """
    target = _target(_shape(pixels) if size is None else size)
    rows, columns = center(_shape(pixels), target)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    image = torch.empty(3, height, target[1], dtype=torch.float32)
    at_once = max(1, _STRIP // width)
    for start in range(0, height, at_once):
        some = slice(rows.start + start, min(rows.start + start + at_once, rows.stop))
        strip = _rgb(_part(pixels, some, columns), largest)
        if width != target[1]:
            strip = _resize(strip[None], (strip.shape[1], target[1]))[0]
        image[:, start : start + at_once] = strip
    if height != target[0]:
        image = _resize(image[None], target)[0]
    return image.clamp_(-1, 1)


def _shape(pixels: _Pixels) -> tuple[int, int]:
    """Height and width."""
    if isinstance(pixels, Image.Image):
        return pixels.height, pixels.width
    return pixels.shape[0], pixels.shape[1]


def _part(pixels: _Pixels, rows: slice, columns: slice) -> np.ndarray:
    if isinstance(pixels, np.ndarray):
        return pixels[rows, columns]
    # Not `crop`: it obeys Pillow's limit of pixels, which any program may set.
    size = columns.stop - columns.start, rows.stop - rows.start
    box = (columns.start, rows.start, columns.stop, rows.stop)
    return np.asarray(pixels.transform(size, Image.Transform.EXTENT, box))


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
        # Not optimize=True: up to five times as long, for a few percent of the bytes.
        picture.save(temporary, format="PNG")


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the peak signal-to-noise ratio in dB of images in [-1, 1]: [B, …] → [B]."""
    error = (a.double() - b.double()).square().flatten(1).mean(1)
    return 10.0 * torch.log10(4.0 / error.clamp(min=1e-12))


# --- readers: samples [H, W] or [H, W, C], and the value of white --------------------------------


def _upright(source: Encoded, strict: bool) -> tuple[Image.Image, str]:
    """A file or PIL image, decoded and turned; and its name for messages."""
    if not isinstance(source, Image.Image):
        file = expanded(source) if isinstance(source, (str, os.PathLike)) else image_bytes(source)
        return read_image(file, strict), str(file)
    with named("the PIL image"):
        picture = ImageOps.exif_transpose(source)
        return picture.convert("LA") if picture.mode == "La" else picture, "the PIL image"


def _from_pil(picture: Image.Image, name: str, strict: bool) -> tuple[_Pixels, int]:
    if _is_deep(picture):
        pixels, largest = _deep(np.asarray(picture), name)
        if is_srgb(picture):
            return pixels, largest
        # Profiles are for 8 bits here: what is edited in the end has no more.
        gray = Image.fromarray(np.round(pixels * (255 / largest)).astype(np.uint8))
        gray.info = dict(picture.info)
        picture = gray
    picture = to_srgb(picture, name, strict)
    return _convert(picture, "RGBA" if has_alpha(picture) else "RGB", name), 255


def _convert(picture: Image.Image, mode: str, name: str) -> Image.Image:
    transparent = "transparency" in picture.info
    try:
        return picture if picture.mode == mode and not transparent else picture.convert(mode)
    except ValueError as error:
        raise ValueError(
            f"{name} has Pillow's mode {picture.mode}, which is not known here; save it as RGB"
        ) from error


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode.startswith("I") or picture.mode == "F"


def _from_array(array: np.ndarray) -> tuple[np.ndarray, int]:
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
        raise ValueError(
            f"expected an array of shape [H, W] or [H, W, 1|3|4], got {list(array.shape)}"
            "; tensors, not arrays, are channels-first"
        )
    if array.dtype == np.uint8:
        return array, 255
    if array.dtype == np.uint16 or np.issubdtype(array.dtype, np.floating):
        return _deep(array, "the array")
    raise TypeError(
        f"expected an array of uint8 (0…255), uint16 (0…65535) or float (0…1), got {array.dtype}"
    )


def _from_tensor(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"expected an image tensor of shape [3, H, W], got {list(tensor.shape)}")
    return _in_range(tensor)


def _in_range(tensor: torch.Tensor) -> torch.Tensor:
    """Values of images of any shape as float32 in [-1, 1]."""
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


def _deep(values: np.ndarray, name: str) -> tuple[np.ndarray, int]:
    """Integers of up to 16 bits, or floats already in [0, 1]."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    largest = 1 if np.issubdtype(values.dtype, np.floating) else 65535
    if not (low >= 0 and high <= largest):  # also true of NaN
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}; expected 16-bit integers (0…65535) "
            "or floats in [0, 1]"
        )
    if largest == 65535 and 0 < high <= 255:
        # Of 16 bits they would be black to any eye.
        warnings.warn(
            f"{name} has 16-bit samples or more, none above {high:g}: they are taken as 0…255",
            stacklevel=2,
        )
        largest = 255
    return values, largest


def _rgb(rows: np.ndarray, largest: int) -> torch.Tensor:
    """Samples [H, W] or [H, W, 1|3|4], white being `largest` → [3, H, W] in [-1, 1]."""
    if rows.dtype == np.uint8:
        unit = rows.astype(np.float32) / 255
    else:
        unit = (rows.astype(np.float64) / largest).astype(np.float32)
    if unit.ndim == 2 or unit.shape[2] == 1:
        unit = np.repeat(unit.reshape(*unit.shape[:2], 1), 3, axis=2)
    elif unit.shape[2] == 4:
        alpha = unit[..., 3:]
        unit = unit[..., :3] * alpha + (1 - alpha)
    return torch.from_numpy(np.ascontiguousarray(unit.transpose(2, 0, 1))) * 2 - 1


if not TYPE_CHECKING:
    __getattr__ = _deprecated.moved(__name__, grid="sdd_fast.grid", MIN_SIDE="sdd_fast.decoding")
