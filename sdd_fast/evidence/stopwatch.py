"""Seconds of what is done, which other work on the machine changes little where that can be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..timing.clock import wait

PROCESSOR, WALL = "processor time", "wall time"


class Stopwatch:
    """Adds up seconds by name.

    On a CPU with one thread they are the processor's time in this process, which leaves out what
    else the machine does, but grows where that takes caches or the other half of a core; else wall
    time, until the device has finished. `clock` says which.
    """

    def __init__(self, device: str | torch.device) -> None:
        alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
        self.device, self.clock = device, PROCESSOR if alone else WALL
        self._now = time.process_time if alone else time.perf_counter
        self.seconds: dict[str, float] = {}

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Add what is within it to the seconds of `name`."""
        wait(self.device)
        began = self._now()
        yield
        wait(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - began
