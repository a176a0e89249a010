"""What an interrupted HQS curve keeps in a file, to go on from."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ..files import load_tensors, save_tensors
from ..interrupt import InterruptAfterStep

_KIND = "unfinished HQS curve"
_SAVE_AFTER = 1.0  # seconds between two writes of the file, which is small


class PartialCurve:
    """The statistics of a curve while they are computed; a context manager.

    The file is read at the beginning, written now and then and when the work ends early, and
    removed when it is complete. One of another request is replaced with a warning.

    Args:
        path: of the file; None: nothing is kept.
        shape: (N, T), images and timesteps.
        request: everything that determines the statistics, JSON values only.

    Attributes:
        statistics: [3, N, T] float64. done: [N, T] bool, where they are there.

    Raises:
        ValueError, FileExistsError: what stands at `path` is damaged, or something else.
    """

    def __init__(self, path: Path | None, shape: tuple[int, int], request: Any) -> None:
        self.path, self._request = path, json.dumps(request)
        self.statistics = torch.zeros(3, *shape, dtype=torch.float64)
        self.done = torch.zeros(shape, dtype=torch.bool)
        self._interrupt, self._saved = InterruptAfterStep(), time.monotonic()
        if path is not None and path.exists():
            self._resume(path)

    def _resume(self, path: Path) -> None:
        try:
            tensors, metadata = load_tensors(path)
        except ValueError as error:
            raise ValueError(f"{error}; delete it, or choose another folder") from error
        if metadata.get("kind") != _KIND:
            raise FileExistsError(
                f"{path} is in the place of an unfinished HQS curve, and is none; move it, or "
                "choose another folder"
            )
        if metadata.get("request") == self._request:
            self.statistics, self.done = tensors["statistics"], tensors["done"]
        else:
            warnings.warn(
                f"the unfinished curve {path} is of another request and starts over", stacklevel=4
            )

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
        save_tensors(path, tensors, {"kind": _KIND, "request": self._request})
        self._saved = time.monotonic()
