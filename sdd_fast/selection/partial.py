"""What interrupted HQS curves keep in files, to go on from."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ..files import load_tensors, save_tensors
from ..interrupt import InterruptAfterStep

_KIND = "unfinished HQS curve"
_SAVE_AFTER = 1.0  # seconds between two writes of the files, which are small


class PartialCurves:
    """The statistics of the curves of P prompts while they are computed; a context manager.

    The files are read at the beginning, written now and then, and when the work ends. They stay
    until whoever asked for the curves has saved these and deletes them, so that nothing is lost
    whenever the process is killed. A file of another request is replaced with a warning.

    Args:
        paths: of the file of each prompt; None: nothing is kept.
        shape: (N, T), images and timesteps.
        requests: of each prompt, everything that determines its statistics, JSON values only.

    Attributes:
        statistics: [P, 3, N, T] float64. done: [P, N, T] bool, where they are there.

    Raises:
        ValueError, FileExistsError: what stands at a path is damaged, or something else.
    """

    def __init__(
        self, paths: Sequence[Path] | None, shape: tuple[int, int], requests: Sequence[Any]
    ) -> None:
        self.paths, self._requests = paths or (), [json.dumps(request) for request in requests]
        self.statistics = torch.zeros(len(requests), 3, *shape, dtype=torch.float64)
        self.done = torch.zeros(len(requests), *shape, dtype=torch.bool)
        self._interrupt, self._saved = InterruptAfterStep(), time.monotonic()
        for p, path in enumerate(self.paths):
            if path.exists():
                self._resume(p, path)

    def _resume(self, p: int, path: Path) -> None:
        try:
            tensors, metadata = load_tensors(path)
        except ValueError as error:
            raise ValueError(f"{error}; delete it, or choose another folder") from error
        if metadata.get("kind") != _KIND:
            raise FileExistsError(
                f"{path} is in the place of an unfinished HQS curve, and is none; move it, or "
                "choose another folder"
            )
        if metadata.get("request") == self._requests[p]:
            self.statistics[p], self.done[p] = tensors["statistics"], tensors["done"]
        else:
            warnings.warn(
                f"the unfinished curve {path} is of another request and starts over", stacklevel=3
            )

    def __enter__(self) -> PartialCurves:
        if self.paths:
            self._interrupt.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.paths:
            return
        try:
            self._save()
        finally:
            self._interrupt.__exit__()

    def add(self, prompt: int, images: range, timestep: int, statistics: Tensor) -> None:
        """Take the statistics [3, b] of some images for one prompt and timestep, by index."""
        some = slice(images.start, images.stop)
        self.statistics[prompt, :, some, timestep] = statistics
        self.done[prompt, some, timestep] = True

    def keep(self) -> None:
        """Write the files, if it is time to.

        Raises:
            KeyboardInterrupt: a signal asked for the end.
        """
        if not self.paths:
            return
        if time.monotonic() - self._saved > _SAVE_AFTER:
            self._save()
        if self._interrupt.requested and not bool(self.done.all()):
            where = str(self.paths[0])
            if len(self.paths) > 1:
                where += f" and {len(self.paths) - 1} more files like it"
            raise KeyboardInterrupt(
                f"stopped after {int(self.done.sum())} of {self.done.numel()} pairs of image and "
                f"timestep; they are kept in {where}. Run the same again to go on"
            )

    def _save(self) -> None:
        for p, path in enumerate(self.paths):
            if bool(self.done[p].any()):
                tensors = {"statistics": self.statistics[p], "done": self.done[p]}
                save_tensors(path, tensors, {"kind": _KIND, "request": self._requests[p]})
        self._saved = time.monotonic()
