"""The captions of a folder of images, in the forms in which people keep them.

    metadata.jsonl      {"file_name": "red/1.png", "text": "a red cup"} on each line
    metadata.csv        the same in columns; metadata.parquet too, where pyarrow is installed
    1.png and 1.txt     or 1.caption or 1.png.txt, side by side, also in sub-folders: a caption on
                        each line

The first two are the imagefolder convention of Hugging Face's datasets, the last that of kohya's
trainers. An image may have several captions: on several lines, or as a list of texts.
"""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from .. import decoding
from ..files import parse_json, read_bytes

LISTINGS = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SIDE_FILES = ("txt", "caption")
_LARGEST = 2**30  # bytes
_LONGEST_EXAMPLE = 80  # characters

Captions = Mapping[str, Sequence[str]]
"""Name of an image, relative to its folder → what it shows; names and texts in sorted order."""


def read_captions(folder: Path, column: str | None = None) -> Captions:
    """Read the captions of all images in a folder; the images themselves are not opened.

    Names must stay within the folder; links in it are followed.

    Args:
        column: which column of a listing, or which suffix of files beside the images, has the
            captions. Default: "text"; "txt" or "caption".

    Raises:
        FileNotFoundError: no folder, no captions, or a named image is missing.
        ValueError: something in the captions is not what it should be; says where.
        ModuleNotFoundError: metadata.parquet needs pyarrow.
    """
    if not folder.is_dir():
        what = "is a file, not a folder of pictures" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"the folder of pictures {folder} {what}")
    listed = [name for name in LISTINGS if (folder / name).is_file()]
    if len(listed) > 1:
        raise ValueError(f"{folder} has {' and '.join(listed)}; keep the one that is to be read")
    pictures = pictures_in(folder)
    suffixes = (column.removeprefix("."),) if column else SIDE_FILES
    rows = _listed(folder / listed[0], column) if listed else _beside(folder, pictures, suffixes)
    found: dict[str, set[str]] = {}
    repeated = Counter[str]()
    for name, texts in rows:
        repeated[name] += name in found
        found.setdefault(name, set()).update(texts)
    if not found:
        raise FileNotFoundError(_no_captions(folder, pictures, listed, suffixes))
    if again := sum(map(bool, repeated.values())):
        warnings.warn(
            f"{again:,} of {len(found):,} pictures are listed more than once in "
            f"{folder / listed[0]}: each of their captions is used",
            stacklevel=2,
        )
    if silent := len({path.as_posix() for path in pictures} - set(found)):
        warnings.warn(
            f"{silent:,} of {len(pictures):,} pictures in {folder} have no caption: left out",
            stacklevel=2,
        )
    return {name: sorted(found[name]) for name in sorted(found)}


def example_prompts(captions: Captions, source_text: str, count: int = 5) -> list[str]:
    """Return the commonest short captions that say something else than `source_text`."""
    counts = Counter(text for texts in captions.values() for text in texts)
    short = [
        text
        for text in counts
        if len(text) <= _LONGEST_EXAMPLE and text.casefold() != source_text.strip().casefold()
    ]
    return sorted(short, key=lambda text: (-counts[text], len(text), text))[:count]


def _listed(listing: Path, column: str | None) -> Iterator[tuple[str, list[str]]]:
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    for place, row in readers[listing.suffix](listing):
        wanted = column or "text"
        if not isinstance(row, dict) or "file_name" not in row:
            raise ValueError(
                f"{place}: expected an object with file_name and text, such as "
                f'{{"file_name": "1.png", "text": "a red cup"}}, got {_columns(row)}'
            )
        if wanted not in row:
            raise ValueError(
                f"{place}: there is no {wanted!r}, but {_columns(row)}; name what holds the "
                "captions with --caption-column (in Python: caption_column)"
            )
        name, value = row["file_name"], row[wanted]
        texts = value if isinstance(value, list) else [value]
        if not texts or not all(isinstance(t, str) and t.strip() for t in [name, *texts]):
            raise ValueError(
                f"{place}: file_name and {wanted} must be non-empty text, got {name!r:.80} and "
                f"{value!r:.80}"
            )
        yield _inside(listing.parent, name, place), [text.strip() for text in texts]


def _inside(folder: Path, name: str, place: str) -> str:
    """The name of an existing file in the folder, in one spelling."""
    path = PureWindowsPath(name)  # which takes / and \ alike, and knows drives
    inside = posixpath.normpath(path.as_posix())
    home = name.startswith("~") and len(path.parts) > 1
    if path.anchor or home or inside.split("/")[0] == "..":
        raise ValueError(
            f"{place}: file_name {name!r} leaves the folder; expected the name of a picture in "
            f"{folder}"
        )
    if _is_file(folder / inside):
        return inside
    parent, _, rest = inside.partition("/")
    hint = ""
    if parent == folder.absolute().name and _is_file(folder / rest):
        hint = f"; names are relative to the folder that the file of captions is in: write {rest!r}"
    elif other := _alike(folder / inside):
        hint = f"; there is {ascii(other)}, which differs in case or in how its accents are coded"
    raise FileNotFoundError(f"{place}: there is no picture {folder / inside}{hint}")


def _alike(path: Path) -> str | None:
    """A file whose name some systems take for that of `path`."""

    def folded(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    names = os.listdir(path.parent) if os.path.isdir(path.parent) else ()
    return next((name for name in names if folded(name) == folded(path.name)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or that no system takes
        return False


def _jsonl(listing: Path) -> Iterator[tuple[str, Any]]:
    # Not splitlines: JSON texts may hold U+2028 and U+0085, which end no line of this format.
    for number, line in enumerate(_decoded(listing).split("\n"), 1):
        place = f"{listing}, line {number}"
        if not line.strip():
            continue
        try:
            yield place, parse_json(line)
        except ValueError as error:
            problem = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise ValueError(
                f"{place}: expected an object with file_name and text ({problem})"
            ) from error


def _csv(listing: Path) -> Iterator[tuple[str, Any]]:
    lines = io.StringIO(_decoded(listing), newline="")
    reader = csv.DictReader(lines, strict=True, skipinitialspace=True)
    try:
        for row in reader:
            place = f"{listing}, line {reader.line_num}"
            if None in row:
                raise ValueError(
                    f"{place}: there are more fields than the {len(row) - 1} of the first line; a "
                    'text with commas is put in quotes: "a cup, seen from above"'
                )
            yield place, row
    except csv.Error as error:
        raise ValueError(f"{listing}, line {reader.line_num}: {error}") from error


def _parquet(listing: Path) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{listing} needs pyarrow (pip install pyarrow); or write the captions as "
            "metadata.jsonl or metadata.csv"
        ) from None
    try:
        rows = read_table(listing).to_pylist()
    except ArrowException as error:
        raise ValueError(f"{listing} is no parquet file that pyarrow reads: {error}") from error
    for number, row in enumerate(rows, 1):
        yield f"{listing}, row {number}", row


def _beside(
    folder: Path, pictures: Sequence[Path], suffixes: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    for picture, files in side_files(folder, pictures, suffixes).items():
        if len(files) > 1:
            raise ValueError(
                f"{folder / picture} has captions in {' and '.join(file.name for file in files)}; "
                "keep one, or say which with --caption-column txt or caption (in Python: "
                "caption_column)"
            )
        texts = [line.strip() for line in _decoded(files[0]).split("\n") if line.strip()]
        if not texts:
            raise ValueError(f"{files[0]} is empty; expected a caption of {picture.name}")
        yield picture.as_posix(), texts


def side_files(
    folder: Path, pictures: Sequence[Path], suffixes: Sequence[str] = SIDE_FILES
) -> dict[Path, list[Path]]:
    """List the files of captions beside each image that has any: 1.txt or 1.png.txt for 1.png."""
    there = defaultdict(list)  # by the name of an image, with or without its suffix
    endings = [f".{suffix.lower()}" for suffix in suffixes]
    for parent in sorted({picture.parent for picture in pictures}):
        for path in sorted((folder / parent).iterdir()):
            for ending in endings:
                if path.name.lower().endswith(ending) and path.is_file():
                    there[parent / path.name[: -len(ending)]].append(path)
    found = {p: there.get(p, []) + there.get(p.with_suffix(""), []) for p in pictures}
    return {picture: files for picture, files in found.items() if files}


def pictures_in(folder: Path) -> list[Path]:
    """The images in a folder and those below it, but hidden ones, by name."""
    return sorted(path.relative_to(folder) for path in decoding.files_below(folder)[0])


def _decoded(path: Path) -> str:
    """The text of a file in UTF-8, with or without the mark that Windows' editors put before it."""
    data = read_bytes(path, _LARGEST)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8 (byte {data[error.start]:#x}); save the file as UTF-8"
        ) from error


def _columns(row: Any) -> str:
    if not isinstance(row, dict):
        return f"{row!r:.80}"
    return "only " + (", ".join(map(str, row)) or "an empty object")


def _no_captions(
    folder: Path, pictures: Sequence[Path], listed: Sequence[str], suffixes: Sequence[str]
) -> str:
    if listed:
        return f"{folder / listed[0]} names no picture"
    others = [*sorted(path for path in folder.glob("*") if path.is_dir()), folder.absolute().parent]
    found = [other for other in others if any((other / name).is_file() for name in LISTINGS)]
    if found:
        return f"{folder} has no file of captions, but {found[0]} has one: give that folder"
    return (
        f"{folder} has {len(pictures):,} pictures, but no metadata.jsonl (with one object a line, "
        'such as {"file_name": "1.png", "text": "a red cup"}), no metadata.csv or '
        f"metadata.parquet, and no {' or '.join(f'1.{suffix}' for suffix in suffixes)} beside a "
        "1.png"
    )
