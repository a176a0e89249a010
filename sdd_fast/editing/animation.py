"""Animated pictures of an edit at growing strength: GIF, WebP, or MP4."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from ..checks import check_count
from ..files import PathLike, atomic_path
from ..images import to_pil

SUFFIXES = (".gif", ".webp", ".mp4")
MOST_FRAMES = 1000
_LOWEST, _WIDEST = 256, 1920  # pixels of a frame


class Edits(Protocol):
    """What is needed of an `Editor`."""

    def encode(self, images: Any, /, *, aligned: bool) -> Tensor: ...

    def edit(self, images: Tensor, strength: Any, levels: Sequence[str] | None, /) -> Any: ...


def sweep(
    editor: Edits,
    images: Any,
    strengths: Sequence[float],
    levels: Sequence[str] | None = None,
    *,
    aligned: bool = False,
) -> list[Image.Image]:
    """Edit images, encoded once, at each of several strengths.

    Args:
        editor: an `Editor`; every strength is that of all its edits.
        images, levels, aligned: see `Editor.edit`.

    Returns:
        A frame for each strength, in which the images stand side by side.
    """
    w_plus = editor.encode(images, aligned=aligned)
    return [_frame(editor.edit(w_plus, strength, levels).cpu()) for strength in strengths]


def _frame(images: Tensor) -> Image.Image:
    """[N, 3, H, W] side by side, enlarged if they are small and reduced if they are large."""
    frame = to_pil(torch.cat(list(images), 2))
    scale = max(1, _LOWEST // frame.height) if frame.height < _LOWEST else 1
    if frame.width * scale > _WIDEST:
        size = (_WIDEST, max(1, round(frame.height * _WIDEST / frame.width)))
    else:
        size = (frame.width * scale, frame.height * scale)
    return frame if size == frame.size else frame.resize(size, Image.Resampling.BICUBIC)


def strengths_between(first: float, last: float, count: int) -> list[float]:
    """Return `count` strengths from `first` to `last`, at equal distances.

    Raises:
        ValueError: fewer than two, or more than `MOST_FRAMES`.
    """
    if not 2 <= check_count("the number of strengths", count) <= MOST_FRAMES:
        raise ValueError(f"a sweep has 2 to {MOST_FRAMES} strengths, got {count}")
    return [first + (last - first) * i / (count - 1) for i in range(count)]


def check_animation(path: PathLike, fps: float) -> None:
    """Raise before any work where `save_animation` cannot write such a file.

    Raises:
        ValueError: another ending, or an fps out of range. ModuleNotFoundError: MP4, and PyAV is
            not installed.
    """
    if not 0.1 <= fps <= 100:
        raise ValueError(f"fps must be 0.1 to 100, got {fps}")
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES)}: animations are these")
    if suffix == ".mp4":
        video_library()


def save_animation(
    path: PathLike,
    frames: Sequence[Image.Image],
    fps: float = 12.0,
    *,
    bounce: bool = True,
    quality: int = 90,
) -> Path:
    """Write frames of one size as the ending of `path` says, atomically.

    Args:
        path: ends in .gif, .webp or .mp4 (for which PyAV is needed: the extra `video`).
        fps: frames a second.
        bounce: go forth and back, so that it can be repeated without a jump.
        quality: of WebP, 1 to 100.

    Raises:
        ValueError: no frames, frames of several sizes, an fps out of range, or another ending.
    """
    check_animation(path, fps)
    if len({frame.size for frame in frames}) != 1:
        raise ValueError(f"expected frames of one size, got {len(frames)}, of several or none")
    shown = [*frames, *frames[-2:0:-1]] if bounce else list(frames)
    suffix = Path(path).suffix.lower()
    with atomic_path(path) as temporary:
        if suffix == ".mp4":
            _save_mp4(temporary, shown, fps)
        else:
            settings: dict[str, Any] = {} if suffix == ".gif" else {"quality": quality}
            shown[0].save(
                temporary, format=suffix[1:].upper(), save_all=True, append_images=shown[1:],
                duration=round(1000 / fps), loop=0, **settings,
            )  # fmt: skip
    return Path(path)


def _save_mp4(path: Path, frames: Sequence[Image.Image], fps: float) -> None:
    av = video_library()
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    width, height = (side - side % 2 for side in frames[0].size)  # as 4:2:0 needs it
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            cut = frame.convert("RGB").crop((0, 0, width, height))
            container.mux(stream.encode(av.VideoFrame.from_image(cut)))
        container.mux(stream.encode())


def video_library() -> Any:
    """Return PyAV.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ModuleNotFoundError(
            "videos need PyAV: pip install 'sdd_fast[video]'. Animations as GIF and WebP need "
            "nothing: end the name in .webp"
        ) from error
    return av
