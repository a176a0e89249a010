"""Names on the hub: "owner/name", and "owner/name@revision" for a branch, tag or commit of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..files import PathLike, expanded

_WORD = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_WORD}/{_WORD}", re.ASCII)
_LONGEST = 96
_PREFIX = re.compile(r"hf:/{1,2}(?=[^/])")  # as a `Path` it has one slash
_SUFFIXES = frozenset(
    ".safetensors .pt .pth .pkl .ckpt .bin .onnx .pt2 .npy .json .zip .gz .txt .csv .md .html .svg "
    ".png .jpg .jpeg .webp .bmp .gif .tif .tiff .ppm .jp2 .avif .heic .heif .mp4".split()
)
"""Endings of files that people mean: a name that has one is a path."""


@dataclass(frozen=True)
class HubName:
    """A repository on the hub, at a revision (a branch, a tag or a commit; None: its main branch).

    `str()` gives "owner/name" or "owner/name@revision".
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")


def is_hub_id(source: PathLike) -> bool:
    """Tell whether `source` is no path but a name "owner/name" on the hub."""
    hub_id = isinstance(source, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", source)
    # "runs/model" below an existing folder "runs" is a mistyped path, not a request to download.
    return bool(hub_id) and not Path(source).exists() and not Path(source).parent.exists()


def hub_name(source: PathLike) -> HubName | None:
    """Return the name on the hub that `source` is; None if it is a path.

    A path that exists always wins, and so does what could only be a mistyped one: a name below a
    folder that exists, or with the ending of a file. "hf://owner/name" is never a path.
    """
    text = _text(source)
    if _PREFIX.match(text):
        return _name(_PREFIX.sub("", text))
    name = _name(text)
    if name is None or expanded(text).exists() or not is_hub_id(name.repository):
        return None
    return name


def could_be_name(source: PathLike) -> bool:
    """Tell whether a path would be a name on the hub if there were no folder like its owner."""
    return _name(_text(source)) is not None


def _text(source: PathLike) -> str:
    return source.as_posix() if isinstance(source, PurePath) else os.fspath(source)


def _name(text: str) -> HubName | None:
    repository, at, revision = text.partition("@")
    if (at and not revision) or _problem(repository):
        return None
    if PurePath(repository).suffix.lower() in _SUFFIXES:
        return None
    return HubName(repository, revision or None)


def check_name(name: str) -> str:
    """Return a repository's name to write to.

    Raises:
        ValueError: it is not as the hub has them; says how it is to be.
    """
    if problem := _problem(name):
        raise ValueError(
            f"{ascii(name)[:200]} is no name of a repository on the hub: {problem}. Expected "
            "owner/name, your user name or that of an organization first, as in me/white-hair; "
            "of letters, digits, '-', '_' and '.'"
        )
    return name


def _problem(name: str) -> str:
    """What keeps a name from being one on the hub; "" if nothing does."""
    if "://" in name:
        return "it is an address; leave away what stands before owner/name"
    if name.count("/") != 1:
        return f"it has {name.count('/')} slashes in place of one"
    if "--" in name or ".." in name:
        return "'--' and '..' are not allowed"
    if name.endswith(".git"):
        return "it must not end in .git"
    if not _REPOSITORY.fullmatch(name):
        return "a character that is not allowed, or '-' or '.' at an end"
    if max(map(len, name.split("/"))) > _LONGEST:
        return f"more than {_LONGEST} characters"
    return ""
