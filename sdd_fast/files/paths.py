"""Names of files and folders as users give them."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

PathLike = str | os.PathLike[str]


def expanded(path: PathLike) -> Path:
    """Return a path of a user's, with ~ as the home folder.

    Raises:
        ValueError: an empty name, or the home of a user that does not exist.
    """
    if not os.fspath(path):  # for `Path` the current folder, which nobody means by it
        raise ValueError("the name of a file or folder is empty; '.' is the current folder")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{os.fspath(path)!r} names no home folder: {error}") from error


def settled(path: PathLike) -> Path:
    """Return a path of a user's that a later change of directory does not move; ~ as above.

    For places that are written to, or read from, after other work.
    """
    return expanded(path).absolute()


def shown(path: Path) -> Path:
    """Return a path as people would type it here: relative if it lies below the current folder."""
    here = Path.cwd()
    return Path(readable(str(path.relative_to(here) if here in path.parents else path)))


def readable(name: str) -> str:
    """Return a name as text; one that came as bytes which the locale does not know is UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def unused(path: Path) -> Path:
    """Return `path`, or where that exists the first free one of name-2, name-3, …."""
    names = (path.with_stem(f"{path.stem}-{i}") for i in itertools.count(2))
    return next(p for p in itertools.chain([path], names) if not p.exists())


def make_folder(path: PathLike) -> Path:
    """Make a folder with those above it, unless it is there; ~ is the home folder.

    Raises:
        NotADirectoryError: it, or one above it, is a file; which one is named.
        OSError: it cannot be made, such as below a folder that is read-only; `path` is named.
    """
    folder = expanded(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = next((p for p in (folder, *folder.parents) if os.path.lexists(p)), folder)
        if not found.is_dir():
            problem = "expected a folder, but this is a file; move it, or choose another folder"
            raise NotADirectoryError(errno.ENOTDIR, problem, str(found)) from error
        raise OSError(error.errno, error.strerror, str(folder)) from error
    return folder


def regular_file(path: PathLike) -> Path:
    """Return the path of a file that can be read from beginning to end; ~ is the home folder.

    Raises:
        FileNotFoundError, IsADirectoryError: there is none, or a folder.
        ValueError: a device, pipe or socket, of which reading might never end.
    """
    source = expanded(path)
    if source.is_dir():
        raise IsADirectoryError(errno.EISDIR, "expected a file, but this is a folder", str(source))
    if not source.exists():
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(source))
    if not source.is_file():
        raise ValueError(f"{source} is a device or pipe, not a file")
    return source


def read_bytes(path: PathLike, most: int) -> bytes:
    """Read a file of at most `most` bytes.

    Raises:
        OSError: as of `regular_file`.
        ValueError: it is larger, or not a regular file.
    """
    source = regular_file(path)
    with open(source, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{source} is larger than {most / 2**20:g} MiB, the most that is read")
    return data
