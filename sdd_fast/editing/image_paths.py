"""Which files are meant by paths, folders and patterns; where results of them go."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from ..decoding import besides, check_image, check_listed, files_below, list_images, suffixes

LATENTS_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".npy"})

OnError = Callable[[Path, Exception], None]
"""Is told which image cannot be edited and why; it is then left out."""


def find_images(
    paths: Sequence[Path],
    on_error: OnError | None,
    *,
    recursive: bool = False,
    without: Path | None = None,
) -> list[Path]:
    """Return image files and those of folders, in order, each once; files of latents as they are.

    What a glob finds besides, files of other kinds, is passed over as it is in folders. Without
    `on_error` it is an error, and so are folders without images.

    Args:
        recursive: take folders with all that is in them. without: a folder among these that is not
            meant, such as that of the results.
    """
    found, others = [], []
    endings = suffixes() | LATENTS_SUFFIXES
    for path in _matches(paths, on_error):
        try:
            if path.is_dir():
                found += images_below(path, without) if recursive else list_images(path)
                continue
            if path.suffix.lower() not in endings:
                check_image(path)
            found.append(path)
        except (ValueError, OSError) as error:
            if on_error is None:
                raise
            if path.is_file() and path.suffix:
                others.append(path)
            else:
                on_error(path, error)
    if others and found:
        warnings.warn(f"passed over: {besides(others)}", stacklevel=2)
    elif others and on_error is not None:
        for path in others:
            on_error(path, ValueError(f"{path} is not an image that can be read"))
    return list({os.path.abspath(path): path for path in found}.values())


def _matches(paths: Sequence[Path], on_error: OnError | None) -> list[Path]:
    """The paths, and in place of patterns what they match; a file may be called like a pattern."""
    found: list[Path] = []
    for path in paths:
        if not glob.has_magic(str(path)) or path.exists():
            found.append(path)
            continue
        matches = sorted(map(Path, glob.glob(str(path), recursive=True)))
        if matches:
            found += [match for match in matches if not match.is_dir()] or matches
            continue
        error = FileNotFoundError(f"nothing matches {path}: no such file, folder or pattern")
        if on_error is None:
            raise error
        on_error(path, error)
    return found


def images_below(folder: Path, without: Path | None = None) -> list[Path]:
    """List the image files in a folder and in those within, but for hidden and linked folders.

    Raises:
        ValueError: there is none.

    Warns:
        UserWarning: other files lie there and are passed over; how many.
    """
    images, others = files_below(folder, without)
    check_listed(str(folder) if images else f"{folder} or the folders in it", images, others)
    return images


def folder_below(path: Path, roots: Sequence[Path]) -> Path:
    """The folder of a file relative to the first of `roots` that it lies below; "." without one."""
    for root in roots:
        if root in path.parents:
            return path.parent.relative_to(root)
    return Path()
