"""Ctrl-C that waits for the end of a training step, so that a consistent state can be saved."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any


class InterruptAfterStep:
    """While active, the first Ctrl-C only sets `requested`; a second one interrupts at once.

    Python delivers signals to the main thread alone, and another program's own handler is not
    replaced; in both cases this does nothing and a KeyboardInterrupt arrives in the usual way.
    """

    def __init__(self) -> None:
        self.requested = False
        self.insisted = False
        self._previous: Any = None

    def __enter__(self) -> InterruptAfterStep:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            self.insisted = True
            raise KeyboardInterrupt
        self.requested = True
        print(
            "\nCtrl-C: finishing this step and saving; press it again to stop at once, unsaved",
            file=sys.stderr,
            flush=True,
        )
