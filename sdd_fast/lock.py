"""One process at a time works in a folder; another one is refused and told who works there."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from .files import PathLike

LOCK_FILE = ".lock"
"""Stays in the folder, without content, when the lock is released."""

_locked: ContextVar[frozenset[Path]] = ContextVar("_locked", default=frozenset())


@contextmanager
def locked(folder: PathLike) -> Iterator[None]:
    """Hold the lock of `folder`, which is made if need be; within it, locking it again is free.

    Raises:
        BlockingIOError: another process, or thread, works there; says which and since when.
    """
    place = Path(folder).resolve()
    mine = _locked.get()
    if place in mine:
        yield
        return
    path = place / LOCK_FILE
    lock = FileLock(path)
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except PermissionError as error:
        raise PermissionError(error.errno, error.strerror, str(folder)) from error
    except Timeout:
        raise BlockingIOError(
            errno.EAGAIN,
            f"{_holder(path)} is at work in this folder; wait until it is done, or choose another "
            "folder",
            str(folder),
        ) from None
    token = _locked.set(mine | {place})
    try:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        path.write_text(
            json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now})
        )
        yield
    finally:
        _locked.reset(token)
        with suppress(OSError):
            path.write_text("")
        lock.release()


def _holder(path: Path) -> str:
    try:
        told = json.loads(path.read_text())
        return f"process {told['pid']} on {told['host']} (since {told['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
