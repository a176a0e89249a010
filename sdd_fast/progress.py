"""Progress of long work as events; a bar on a terminal, or a line now and then, is one listener.

A function that takes long has an argument `progress`: True shows it, False does not, and any
function of a `Progress` gets every event instead, for a page or a notebook of one's own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0
"""Where standard error is no terminal."""


@dataclass(frozen=True)
class Progress:
    """One event.

    Args:
        task: what is being done, such as "HQS".
        done, total: units of it, 0 ≤ done ≤ total; the first event has those of earlier sittings.
        unit: what is counted, such as "steps".
        text: the latest figures, for a person; "" if there are none.
        closed: the last event of the task, also when it ends early.
    """

    task: str
    done: int
    total: int
    unit: str
    text: str = ""
    closed: bool = False


Listener = Callable[[Progress], None]

_hidden: ContextVar[bool] = ContextVar("_hidden", default=False)


class Task:
    """Reports the progress of one task; a context manager.

    Args:
        progress: True, False or a listener, as the caller of the long function gave it.
        done: units that earlier sittings did.
    """

    def __init__(
        self,
        name: str,
        total: int,
        progress: bool | Listener,
        *,
        unit: str = "steps",
        done: int = 0,
    ) -> None:
        self.name, self.total, self.unit, self.done, self.text = name, total, unit, done, ""
        self._listener = show() if progress is True else progress or _ignore

    def __enter__(self) -> Task:
        self._tell()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._tell(closed=True)

    def advance(self, count: int = 1, text: str | None = None) -> None:
        """Say that `count` more units are done; `text` replaces the latest figures."""
        self.done += count
        self.text = self.text if text is None else text
        self._tell()

    def _tell(self, closed: bool = False) -> None:
        self._listener(Progress(self.name, self.done, self.total, self.unit, self.text, closed))


def _ignore(event: Progress) -> None:
    pass


def show() -> Listener:
    """A listener for people: a bar on a terminal, elsewhere a line on standard error every
    `SECONDS_BETWEEN_LINES`, so that short work stays quiet."""
    if _hidden.get():
        return _ignore
    return _Bar() if sys.stderr.isatty() else _Lines()


@contextmanager
def hidden() -> Iterator[None]:
    """Within it, progress that nobody listens to is not shown."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


class _Bar:
    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def __call__(self, event: Progress) -> None:
        with suppress(OSError):  # of a terminal that has closed: the work goes on
            self._show(event)

    def _show(self, event: Progress) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=event.total, initial=event.done, desc=event.task, unit=f" {event.unit}"
            )
        if event.text:
            self._bar.set_postfix_str(event.text, refresh=False)
        self._bar.update(event.done - self._bar.n)
        if event.closed:
            self._bar.close()


class _Lines:
    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, event: Progress) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = event.done
        if event.closed or now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        new = event.done - self._first
        left = "" if not new else _left((event.total - event.done) * (now - self._began) / new)
        figures = f"; {event.text}" if event.text else ""
        line = f"{event.task}: {event.done} of {event.total} {event.unit}{left}{figures}"
        with suppress(OSError):  # of a pipe that nobody reads any more
            print(line, file=sys.stderr, flush=True)


def _left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    shown = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    return f", about {shown} left"
