"""Pictures in and out: any common image file ↔ float32 tensors [3, H, W] in [-1, 1], and labelled
grids.

Pillow's guard against decompression bombs stays on.  Every problem with a file is a ValueError (or
FileNotFoundError) that names the file and says what to do.
"""

from __future__ import annotations

import os
import struct
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .files import PathLike, atomic_path

ImageSource = PathLike | Image.Image | np.ndarray | torch.Tensor
Size = int | tuple[int, int]
"""Of a picture in pixels: the side of a square, or (height, width)."""

MIN_SIDE = 16  # pixels; below this nothing recognisable is left to edit
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})


def load_image(source: ImageSource, size: Size | None = None) -> torch.Tensor:
    """Any picture → float32 [3, H, W] in [-1, 1].

    Args:
        source: one of
            - a file: EXIF rotation is applied; alpha is composited on white; CMYK, palette,
              greyscale, 1-bit and 16-bit are converted; of an animation the first frame is taken;
            - a PIL image: likewise;
            - an array [H, W], [H, W, 1|3|4]: uint8 (0…255), uint16 (0…65535) or float in [0, 1];
            - a tensor [3, H, W]: uint8 (0…255), or float in [-1, 1] (beyond that is clamped, as
              generators overshoot).
        size: if given, the picture is centre-cropped and resized to [3, size, size], or to
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
        image = _from_file(Path(source))
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
    """The image files directly in `folder`, sorted by name, without hidden ones.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
        ValueError: it holds no image.
    """
    root = Path(folder)
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
    """Every image of a folder, cropped and resized: (float32 [N, 3, H, W] in [-1, 1], their
    paths).

    `limit` takes the first so many by name.  Errors are those of `list_images` and `load_image`.
    """
    paths = list_images(folder)[:limit]
    return torch.stack([load_image(path, size) for path in paths]), paths


def fit(image: torch.Tensor, size: Size) -> torch.Tensor:
    """Centre-crop [..., 3, H, W] to the shape of `size` and resize it to that.

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
    """[3, H, W] float in [-1, 1] (clamped) → an 8-bit RGB picture.  NaN raises ValueError."""
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


# What Pillow's decoders raise on broken files; SyntaxError is its PNG decoder's.
_BROKEN = (OSError, SyntaxError, EOFError, ValueError, TypeError, LookupError, struct.error)


# --- readers --------------------------------------------------------------------------------------


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the peak signal-to-noise ratio in dB of images in [-1, 1]: [B, …] → [B]."""
    error = (a.double() - b.double()).square().flatten(1).mean(1)
    return 10.0 * torch.log10(4.0 / error.clamp(min=1e-12))


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
        return _grey_to_rgb(_unit_range(np.asarray(picture), name))
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
        return _grey_to_rgb(unit.reshape(unit.shape[:2]))
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


def _grey_to_rgb(unit: np.ndarray) -> torch.Tensor:
    return _hwc(np.repeat(unit[..., None], 3, axis=2))


# --- grids ----------------------------------------------------------------------------------------

_INK, _FAINT, _PAPER = (32, 33, 36), (95, 99, 104), (255, 255, 255)


def grid(
    rows: Sequence[torch.Tensor] | torch.Tensor,
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
    cell: int | None = None,
    resample: str = "lanczos",
) -> Image.Image:
    """A labelled grid of pictures, as for before / after.

    Args:
        rows: one [C, 3, H, W] tensor in [-1, 1] per row (or a tensor [R, C, 3, H, W]); rows may
            differ in length.
        row_labels: text left of each row, such as "before" and "white hair".
        column_labels: text above each column.
        title: a line above everything.
        cell: width of a picture on the grid in pixels; default: the image's, enlarged to at least
            144 by a whole factor.
        resample: "lanczos" (smooth) or "nearest" (shows the pixels) when pictures are enlarged or
            reduced.

    Raises:
        ValueError: no picture, a wrong shape, or a number of labels other than that of rows or
            columns.
    """
    pictures = [[to_pil(image) for image in _check_row(row)] for row in rows]
    columns = max((len(row) for row in pictures), default=0)
    if columns == 0:
        raise ValueError("a grid needs at least one picture, got none")
    _check_labels("row", row_labels, len(pictures))
    _check_labels("column", column_labels, columns)
    if resample not in ("lanczos", "nearest"):
        raise ValueError(f'resample must be "lanczos" or "nearest", got {resample!r}')
    first = next(row for row in pictures if row)[0]
    side = cell or first.width * max(1, -(-144 // first.width))
    tall = round(side * first.height / first.width)
    kind = Image.Resampling.LANCZOS if resample == "lanczos" else Image.Resampling.NEAREST

    text_size = max(13, min(26, round(side / 9)))
    gap, margin = max(3, side // 36), max(12, side // 8)
    font, bold = _font(text_size), _font(round(text_size * 1.3), bold=True)
    row_text = [_wrap(label, font, side * 1.3) for label in row_labels or []]
    column_text = [_wrap(label, font, side - 4) for label in column_labels or []]
    sizes = [_text_size(text, font) for text in row_text]
    left = margin + (max(width for width, _ in sizes) + margin if sizes else 0)
    # A title wider than the pictures is wrapped to the width that the grid has anyway.
    body = columns * side + (columns - 1) * gap
    title_text = _wrap(title, bold, left - margin + body) if title else ""
    top = margin + (_text_size(title_text, bold)[1] + margin if title else 0)
    if column_text:
        top += max(_text_size(text, font)[1] for text in column_text) + margin // 2

    height = top + len(pictures) * tall + (len(pictures) - 1) * gap + margin
    sheet = Image.new("RGB", (left + body + margin, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.multiline_text((margin, margin), title_text, fill=_INK, font=bold)
    for c, text in enumerate(column_text):
        center = left + c * (side + gap) + side / 2
        draw.multiline_text(
            (center, top - margin // 2), text, fill=_FAINT, font=font, anchor="md", align="center"
        )
    for r, row in enumerate(pictures):
        y = top + r * (tall + gap)
        if row_text:
            middle = (left - margin, y + tall / 2)
            draw.multiline_text(
                middle, row_text[r], fill=_INK, font=font, anchor="rm", align="right"
            )
        for c, picture in enumerate(row):
            sheet.paste(picture.resize((side, tall), kind), (left + c * (side + gap), y))
    return sheet


def _check_row(row: torch.Tensor) -> torch.Tensor:
    if not isinstance(row, torch.Tensor) or row.ndim != 4 or row.shape[1] != 3:
        shape = list(row.shape) if isinstance(row, torch.Tensor) else type(row).__name__
        raise ValueError(f"each row of a grid must be a tensor [C, 3, H, W], got {shape}")
    return row


def _check_labels(what: str, labels: Sequence[str] | None, count: int) -> None:
    if labels is not None and (isinstance(labels, str) or len(labels) != count):
        raise ValueError(f"expected {count} {what} labels, got {labels!r}")


def _font(size: int, bold: bool = False) -> Any:
    """DejaVu Sans, which matplotlib carries (it has λ, ξ, −, ×, →); else Pillow's own."""
    try:
        import matplotlib

        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)
    except (ImportError, OSError):
        return ImageFont.load_default(size)


def _wrap(text: str, font: Any, width: float) -> str:
    """Break `text` at spaces (or within a long word) so that no line exceeds `width` pixels."""
    characters = len(text)
    while characters > 4:
        lines = textwrap.wrap(text, characters)
        if max((font.getlength(line) for line in lines), default=0) <= width:
            return "\n".join(lines)
        characters -= 1
    return text


def _text_size(text: str, font: Any) -> tuple[int, int]:
    left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox(
        (0, 0), text, font=font
    )
    return round(right - min(0, left)), round(bottom - min(0, top))
