"""What an interrupted HQS curve keeps in a file, to go on from."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ..files import load_tensors, save_tensors
from ..interrupt import InterruptAfterStep

_SAVE_AFTER = 1.0  # seconds between two writes of the file, which is small


class PartialCurve:
    """The statistics of a curve while they are computed; a context manager.

    The file is read at the beginning, unless it is damaged or of another request, written now and
    then and when the work ends early, and removed when it is complete.

    Args:
        path: of the file; None: nothing is kept.
        shape: (N, T), images and timesteps.
        request: everything that determines the statistics, JSON values only.

    Attributes:
        statistics: [3, N, T] float64. done: [N, T] bool, where they are there.
    """

    def __init__(self, path: Path | None, shape: tuple[int, int], request: Any) -> None:
        self.path, self._request = path, json.dumps(request)
        self.statistics = torch.zeros(3, *shape, dtype=torch.float64)
        self.done = torch.zeros(shape, dtype=torch.bool)
        self._interrupt, self._saved = InterruptAfterStep(), time.monotonic()
        if path is not None:
            with suppress(FileNotFoundError, ValueError):
                tensors, metadata = load_tensors(path)
                if metadata.get("request") == self._request:
                    self.statistics, self.done = tensors["statistics"], tensors["done"]

    def __enter__(self) -> PartialCurve:
        if self.path is not None:
            self._interrupt.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.path is None:
            return
        try:
            if error is None:
                self.path.unlink(missing_ok=True)
            elif bool(self.done.any()):
                self._save(self.path)
        finally:
            self._interrupt.__exit__()

    def add(self, images: slice, timesteps: slice, statistics: Tensor) -> None:
        """Take the statistics [3, b, t] of some images at some timesteps.

        Raises:
            KeyboardInterrupt: a signal asked for the end.
        """
        self.statistics[:, images, timesteps] = statistics
        self.done[images, timesteps] = True
        if self.path is None:
            return
        if time.monotonic() - self._saved > _SAVE_AFTER:
            self._save(self.path)
        if self._interrupt.requested and not bool(self.done.all()):
            raise KeyboardInterrupt(
                f"stopped after {int(self.done.sum())} of {self.done.numel()} pairs of image and "
                f"timestep; they are kept in {self.path}. Run the same again to go on"
            )

    def _save(self, path: Path) -> None:
        tensors = {"statistics": self.statistics, "done": self.done}
        save_tensors(path, tensors, {"kind": "unfinished HQS curve", "request": self._request})
        self._saved = time.monotonic()
