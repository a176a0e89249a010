"""Ctrl-C, SIGTERM and SIGHUP that wait for the end of a step, so that its result can be saved."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that ask a program to end: from a person, a batch system, a terminal that closes."""


class InterruptAfterStep:
    """While active, the first signal of `STOPPING` only sets `requested`; a second interrupts.

    Python delivers signals to the main thread alone, and another program's own handler is not
    replaced, nor is a signal heard that is ignored (as SIGHUP is under nohup); in these cases this
    does nothing and a KeyboardInterrupt arrives in the usual way.
    """

    def __init__(self) -> None:
        self.requested = False
        self.insisted = False
        self._since = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> InterruptAfterStep:
        if _stopped:  # and a library that was being imported caught the exception
            raise KeyboardInterrupt(_stopped[-1])
        self._previous = _replace_handlers(self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        _restore_handlers(self._previous)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            if signum != signal.SIGINT and time.monotonic() - self._since < _ONE_REQUEST:
                return
            self.insisted = True
            raise KeyboardInterrupt
        self.requested, self._since = True, time.monotonic()
        again = "press it again" if signum == signal.SIGINT else "a second signal is"
        # A terminal that has closed takes no messages.
        with contextlib.suppress(OSError, ValueError):
            print(
                f"\n{_name(signum)}: finishing this step and saving; {again} to stop at once, "
                "unsaved",
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does: clean-up code then runs."""
    previous = _replace_handlers(_interrupt)
    try:
        yield
    finally:
        _stopped.clear()
        _restore_handlers(previous)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    global _stopped_at
    again = bool(_stopped) and time.monotonic() - _stopped_at < _ONE_REQUEST
    _stopped.append(f"stopped by {_name(signum)}")
    if not again:
        _stopped_at = time.monotonic()
        raise KeyboardInterrupt(_stopped[-1])


_stopped: list[str] = []
"""What `_interrupt` has said, within `stopped_by_signals`."""
_stopped_at = 0.0
_ONE_REQUEST = 1.0
"""Seconds in which several signals are one request: batch systems send them to a whole group."""


def ignore_signals() -> None:
    """Let a process that was stopped end in peace, with the exit status that says so."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _name(signum: int) -> str:
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


def _replace_handlers(handler: Any) -> dict[signal.Signals, Any]:
    """Set `handler` where nobody has set one; return what was there."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in STOPPING}
    usual = (signal.default_int_handler, signal.SIG_DFL, _interrupt)
    return {
        number: signal.signal(number, handler)
        for number, current in before.items()
        if current in usual
    }


def _restore_handlers(previous: dict[signal.Signals, Any]) -> None:
    for number, handler in previous.items():
        signal.signal(number, handler)
