"""A step of a training as one CUDA graph: recorded once, then launched as a whole.

What is recorded are kernels and the addresses of their tensors. Whatever else a step depended on,
a number of Python or a tensor made on the host, would stay as it was in the step that was recorded:
all that differs from one step to the next must come in through the inputs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .teacher.prior import DiffusionPrior

Measured = dict[str, Tensor]
Step = Callable[[Any], Measured]
"""Inputs → what was measured; adds gradients to those of the weights."""

_EAGER = 3
"""Steps of a kind that are made before it is recorded: libraries allocate and choose at first."""


class _Recorded(NamedTuple):
    step: Step  # what it reads has to stay where it is
    replay: Callable[[], None]
    measured: Measured
    gradients: list[Tensor | None]
    calls: int  # of the U-Net
    rows: int


@dataclass
class _Counts:
    """What a teacher counts where Python makes the calls, which a replay does not."""

    unet_calls: int = 0
    unet_rows: int = 0


class CapturedStep:
    """Makes the steps of one training on a GPU.

    One graph is kept. Steps of another kind are recorded anew, after a few that are made as if
    there were no graph: each of them counts, to the same result.

    Args:
        device: of the weights and all that a step computes.
        counted: counts the calls of replayed steps, too.
        asked: whether somebody wants it so, and is to be warned where it cannot be.
    """

    def __init__(
        self, device: torch.device, counted: DiffusionPrior | None = None, asked: bool = True
    ) -> None:
        self.device, self.asked = device, asked
        self._counted: DiffusionPrior | _Counts = counted or _Counts()
        self._kind: Hashable = None
        self._eager = 0
        self._inputs: Any = None
        self._recorded: _Recorded | None = None
        self._why_not = ""

    def __call__(
        self, kind: Hashable, step: Step, inputs: Any, weights: Sequence[nn.Parameter]
    ) -> Measured:
        """Make a step; what it measured is overwritten by the next one.

        Args:
            kind: equal for steps that differ in their inputs alone.
            inputs: a named tuple of tensors, and None for what there is not.
            weights: without gradients; afterwards with those of the step.
        """
        if self._why_not:
            return step(inputs)
        if kind != self._kind:
            self._kind, self._eager, self._recorded = kind, 0, None
            self._inputs = type(inputs)(*(x if x is None else x.clone() for x in inputs))
        for there, given in zip(self._inputs, inputs, strict=True):
            if given is not None:
                there.copy_(given)
        if self._eager < _EAGER:
            self._eager += 1
            with beside(self.device):
                return step(self._inputs)
        if self._recorded is None:
            self._record(step, weights)
        if self._recorded is None:
            return step(inputs)
        self._recorded.replay()
        self._counted.unet_calls += self._recorded.calls
        self._counted.unet_rows += self._recorded.rows
        for weight, gradient in zip(weights, self._recorded.gradients, strict=True):
            weight.grad = gradient
        return self._recorded.measured

    def _record(self, step: Step, weights: Sequence[nn.Parameter]) -> None:
        """Record a step, which is not executed, or give up; what was recorded in vain is let go."""
        before, why = self._counts, ""
        try:
            replay, measured = record(lambda: step(self._inputs), self.device)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[0]
        else:
            if not self.asked and little_left(self.device):
                why = "it would leave little memory for anything else"
        if why:
            self.give_up(why)
            for weight in weights:
                weight.grad = None
        else:
            gradients = [weight.grad for weight in weights]
            calls, rows = (now - then for now, then in zip(self._counts, before, strict=True))
            self._recorded = _Recorded(step, replay, measured, gradients, calls, rows)
        self._counts = before  # recording it has called nothing

    @property
    def _counts(self) -> tuple[int, int]:
        return self._counted.unet_calls, self._counted.unet_rows

    @_counts.setter
    def _counts(self, counts: tuple[int, int]) -> None:
        self._counted.unet_calls, self._counted.unet_rows = counts

    def forget(self) -> None:
        """Begin anew, as if nothing had been recorded, or could not have been."""
        self._kind, self._eager, self._inputs = None, 0, None
        self._recorded, self._why_not = None, ""

    def give_up(self, why: str) -> None:
        """Record nothing from now on, and say so once."""
        if not self._why_not:
            self._why_not, self._recorded, self._inputs = why, None, None
            told = f"a step is not launched as one CUDA graph, but kernel by kernel: {why}"
            if self.asked:
                warnings.warn(told, stacklevel=2)
            else:
                logging.getLogger(__name__).info(told)


def recorder(prior: DiffusionPrior, wanted: bool | None, compiled: bool) -> CapturedStep | None:
    """Return what records the steps of a training; None: they are made one kernel after another.

    Args:
        wanted: None: on a GPU, unless the teacher is `compiled`; what is recorded stays if it
            leaves enough memory for measurements and pictures.
    """
    by_default = prior.device.type == "cuda" and not compiled
    if not (by_default if wanted is None else wanted):
        return None
    return CapturedStep(prior.device, prior, asked=bool(wanted))


def little_left(device: torch.device) -> bool:
    """Return whether less than a quarter of a GPU's memory is free."""
    free, total = torch.cuda.mem_get_info(device)
    return free < total / 4


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """Within it another stream is used, as before a recording it has to be."""
    usual, other = torch.cuda.current_stream(device), _other_stream(device)
    other.wait_stream(usual)
    with torch.cuda.stream(other):
        yield
    usual.wait_stream(other)


@cache
def _other_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # always the same, for what it frees is kept for it


def check_graphs(device: torch.device) -> None:
    """Raise ValueError unless the device has CUDA graphs."""
    if device.type != "cuda":
        raise ValueError(
            f"cuda_graph (--cuda-graph) needs a GPU, but the teacher is on {device}; leave it out"
        )


def record(
    step: Callable[[], Measured], device: torch.device
) -> tuple[Callable[[], None], Measured]:
    """Record a step, which is not executed; return what replays it, and where its results lie."""
    graph = torch.cuda.CUDAGraph()
    # Other threads may allocate meanwhile.
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        measured = step()
    return graph.replay, measured
