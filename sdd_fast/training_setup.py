"""What a training is made of: how it is made, what stands where it is kept, what it measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from .training_state import TrainingState

Entry = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A part of one step, whose gradients have been added to those of the weights.

    Args:
        of: the trainings that it belongs to, by their numbers.
        measured: values to log, [len(of)] each; of several parts, their mean.
    """

    of: Sequence[int]
    measured: dict[str, Tensor]


Parts = Callable[[int, Sequence[int]], Iterable[Part]]
"""Step from 0, and the trainings that take it → its parts, which it makes one after another."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a module learns.

    Args:
        lr_at: (step 0 … steps − 1, number of steps after which the training ends) → learning rate.
        ema: decay of the moving average of the weights that is kept; 0: none.
        clip_grad: largest norm of the gradient; infinity: not clipped.
        log_every, measure_every, save_every: steps between history entries, between measurements
            and between saved states. All of them happen after the last step, too; a state is also
            saved `training_loop.SAVE_AFTER` seconds after the one before.
        stop: asked with the history after each measurement, until it answers with the number of
            steps after which the training ends, and why. Both join the entry, the former as
            "ends_at".
    """

    steps: int
    lr_at: Callable[[int, int], float]
    ema: float = 0.0
    clip_grad: float = math.inf
    log_every: int = 10
    measure_every: int = 50
    save_every: int = 50
    stop: Callable[[Sequence[Entry]], tuple[int, Entry] | None] | None = None


class Store(Protocol):
    """Where a training is saved: a `StateFile`, or what keeps more than that."""

    @property
    def path(self) -> Path: ...

    def save(self, state: TrainingState) -> None: ...


@dataclass
class Training:
    """One of the trainings that go through the loop together.

    Args:
        name: of what is trained, for people.
        measure: what is measured now and then besides, as part of a history entry.
        advice: what to try when the loss becomes NaN.
        explain: step from 0 → why it did; "" if that is not known, for the advice to stand.
        listen: gets every history entry when it is made.
        failure: why it stopped; "" if it did not.
    """

    state: TrainingState
    name: str
    store: Store | None = None
    measure: Callable[[], Entry] | None = None
    advice: str = ""
    explain: Callable[[int], str] | None = None
    listen: Callable[[Entry], None] | None = None
    failure: str = ""


def told_when_stopped(
    trainings: Sequence[Training], saved: Sequence[int], done: int, steps: int
) -> str:
    """Say where what was saved of interrupted trainings lies, and which had failed before.

    Args:
        saved: step of the last checkpoint of each, 0 if there is none. done: of `steps`.
    """
    name = trainings[0].name if len(trainings) == 1 else f"{len(trainings)} prompts"
    places: dict[int, list[str]] = {}  # step → where it is saved
    for training, step in zip(trainings, saved, strict=True):
        if training.store and not training.failure:  # a failure tells what is kept
            places.setdefault(step, []).append(str(training.store.path))
    kept = [
        f"A checkpoint of step {step} is in {', '.join(paths)}; run the same again to resume"
        if step
        else f"No checkpoint had been written to {', '.join(paths)}"
        for step, paths in sorted(places.items(), reverse=True)
    ]
    if not any(training.store for training in trainings):
        kept = ["Nothing is saved, because no run_dir was given"]
    failures = [training.failure for training in trainings if training.failure]
    return f"stopped after step {done} of {steps} of {name}. " + ". ".join([*kept, *failures])
