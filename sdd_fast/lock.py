"""One process at a time works at a place; another one is refused and told who works there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from .files import PathLike, expanded, make_folder

LOCK_FILE = ".lock"
"""Stays in the folder, without content, when the lock is released."""

_BEGINNING = b'{"pid"'
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)

_locked: ContextVar[frozenset[Path]] = ContextVar("_locked", default=frozenset())


@contextmanager
def locked(place: PathLike, *, file: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, which is made if need be; within it, locking it again is free.

    A folder that was made for this, and in which no file was written, is removed again.

    Args:
        file: `place` is a file to write; others may work beside it.

    Raises:
        BlockingIOError: another process, or thread, works there; says which and since when.
        FileExistsError: the lock's name is that of somebody's file, which would be emptied.
        NotADirectoryError, PermissionError: there cannot be such a folder, or nothing be written.
    """
    whole = expanded(place).resolve()
    path = whole.with_name(f".{whole.stem}.lock") if file else whole / LOCK_FILE
    mine = _locked.get()
    if path in mine:
        yield
        return
    made = [folder for folder in path.parents if not folder.exists()]  # innermost first
    make_folder(path.parent)
    lock = _acquired(path, str(place))
    token = _locked.set(mine | {path})
    try:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
        with suppress(OSError):  # of a full disk the work itself will tell
            path.write_text(json.dumps(holder))
        yield
    finally:
        _locked.reset(token)
        with suppress(OSError):
            path.write_text("")
            if file:
                path.unlink()
            _remove_unused(made)
        lock.release()


def _acquired(path: Path, place: str) -> FileLock:
    lock = FileLock(path)
    try:
        if path.is_file():
            with path.open("rb") as there:
                if not _BEGINNING.startswith(there.read(len(_BEGINNING))):
                    told = "this is no lock of ours, and is kept; choose another place, or move it"
                    raise FileExistsError(errno.EEXIST, told, str(path))
        lock.acquire(blocking=False)
        while not path.exists():  # its last holder removed it meanwhile
            lock.release()
            lock.acquire(blocking=False)
    except Timeout:
        raise BlockingIOError(
            errno.EAGAIN,
            f"{_holder(path)} is at work here; wait until it is done, or choose another place",
            place,
        ) from None
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        told = f"{error.strerror}: nothing can be written here; choose another place"
        raise PermissionError(error.errno, told, place) from error
    return lock


def _remove_unused(made: list[Path]) -> None:
    """Remove folders, innermost first, that were made in vain: no file but the lock's is there."""
    if made and all(found.is_dir() or found.name == LOCK_FILE for found in made[0].rglob("*")):
        shutil.rmtree(made[0])
        for folder in made[1:]:
            folder.rmdir()


def _holder(path: Path) -> str:
    try:
        told = json.loads(path.read_text())
        return f"process {told['pid']} on {told['host']} (since {told['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
