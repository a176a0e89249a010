"""Files that are never half-written.

Every file the package writes goes through `atomic_path`: the bytes go to a temporary sibling which
is renamed over the target once complete.  A full disk, an exception or Ctrl-C therefore leaves the
old file (or none), never a broken one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from .paths import PathLike, make_folder, settled

TEMPORARY = ".sdd-*.tmp*"
"""What temporary files are called; between stand the machine, the process and a token."""

_HOST = hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()
_cleared: set[Path] = set()
"""Folders in which this process has removed what others left."""

_OUT_OF_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_LONGEST_SUFFIX = 16


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary sibling of `path`, renamed onto it on success, removed on any error.

    The parent folder is created, and temporary files are removed from it that processes of this
    machine left there when they were killed.  The temporary name keeps the suffix, so writers that
    choose a format by it work. "Any error" includes KeyboardInterrupt and SystemExit.

    Raises:
        OSError: naming `path`, not the temporary file; where the disk or quota is full, with the
            space left.
        IsADirectoryError: `path` is a folder.

    >>> with atomic_path("runs/hair/curve.png") as tmp:  # doctest: +SKIP
    ...     figure.savefig(tmp)
    """
    target = settled(path)
    if target.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "expected a file name to write to, but this is a folder", str(target)
        )
    # Short, so that whatever name the target may have, this one may be had.
    suffix = target.suffix if len(target.suffix) <= _LONGEST_SUFFIX else ""
    told = f"{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = target.with_name(TEMPORARY.replace("*", told, 1)[:-1] + suffix)
    made = [folder for folder in target.parents if not folder.exists()]  # innermost first
    try:
        _clear(make_folder(target.parent))
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        if error.errno in _OUT_OF_SPACE:
            raise _out_of_space(target) from error
        if error.errno == errno.EFBIG:
            limit = "larger than this process or file system may write (see ulimit -f)"
            raise OSError(
                error.errno, f"a file {limit}; nothing was written", str(target)
            ) from error
        if str(error.filename) == str(temporary):
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
    finally:
        # After a successful rename there is nothing left; else the first error is the one to tell.
        with contextlib.suppress(OSError):
            temporary.unlink()
        with contextlib.suppress(OSError):  # as long as they are empty
            for folder in made:
                folder.rmdir()


def _clear(folder: Path) -> None:
    """Remove what killed processes left in a folder, when this one first writes there."""
    place = folder.absolute()
    if place in _cleared:
        return
    _cleared.add(place)
    for path in place.glob(TEMPORARY.replace("*", f"{_HOST}-*", 1)):
        process = path.name.split("-")[2]
        if process.isdigit() and not _is_alive(int(process)):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's
        return True
    return True


def _out_of_space(target: Path) -> OSError:
    folder = target.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB free"
    except OSError:
        free = "free space unknown"
    message = (
        f"no space left while writing {target} ({free} in {folder}). Nothing was half-written; "
        "free some space or choose another output folder, then run the same command again"
    )
    return OSError(errno.ENOSPC, message)


def write_bytes(path: PathLike, data: bytes) -> None:
    """Write `data` to `path` atomically (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: PathLike, text: str) -> None:
    """Write `text` to `path` as UTF-8 with Unix line ends, atomically (see `atomic_path`)."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"cannot write {path}: {half_character(error)}") from error
    write_bytes(path, data)


def half_character(error: UnicodeEncodeError) -> str:
    """Say what is wrong with a text that UTF-8 does not have."""
    half = error.object[error.start]
    told = (
        f"the text holds {ascii(half)}, which is half a character (a lone surrogate) and cannot be "
        "written"
    )
    if "\udc80" <= half <= "\udcff":  # what Python makes of bytes that it cannot read
        told += ". Where a terminal's locale is not UTF-8, set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
    return told
