"""Which images and timesteps are evaluated, in which order: all, or as many as settle the choice.

An adaptive search goes from coarse to fine on its first images, `PILOTS`: every `STRIDE`-th
timestep, then those around the best. These are its candidates. Round after round of as many further
images is evaluated at the candidates that are left, and at the timesteps where most pilots have
their lowest N and their highest H, which Eq. 11 needs. Common random numbers make differences
between candidates paired: after each round, `BOOTSTRAPS` resamples of the images tell how often
each candidate is the best. Those below `DROPPED` are dropped, and the search of a prompt ends when
one is above `SETTLED`. Rounds are the same whatever goes through the networks at once.

Eq. 11 then takes the extremes of an image over the timesteps at which it was evaluated. Where an
image's highest N or lowest H lies at a timestep that was dropped, it counts with a larger weight
than in an exhaustive search; the choice can differ for that reason too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .. import draws
from .._deprecated import moved
from ..out_of_memory import release
from .curve import scores
from .evaluate import Evaluator
from .partial import PartialCurves

__getattr__ = moved(__name__, compute_curve="sdd_fast.selection.in_domain")

Search = Literal["exhaustive", "adaptive"]
PILOTS, STRIDE = 8, 3
BOOTSTRAPS, DROPPED, SETTLED = 1000, 0.02, 0.95


@dataclass
class Found:
    """What was searched for one prompt, [N, T] bool, and the confidence of its choice.

    It is None of an exhaustive search, and of a single image, whose bootstraps are all alike.
    """

    wanted: Tensor
    confidence: float | None = None


def exhaustive(evaluator: Evaluator, kept: PartialCurves) -> list[Found]:
    """Evaluate every image at every timestep for every prompt."""
    everything = torch.ones(kept.done.shape[0], kept.done.shape[2], dtype=torch.bool)
    for images in evaluator.batches():
        complete(evaluator, kept, images, everything)
    return [Found(torch.ones_like(done)) for done in kept.done]


def adaptive(evaluator: Evaluator, kept: PartialCurves, normalize: str) -> list[Found]:
    """Evaluate what settles which timestep has the largest HQS; see the module.

    Args:
        normalize: of the curve that is to be chosen from.
    """
    prompts, count, steps = kept.done.shape
    rounds = [range(first, min(first + PILOTS, count)) for first in range(0, count, PILOTS)]
    pilots, *others = rounds
    wanted = torch.zeros(prompts, count, steps, dtype=torch.bool)

    def evaluate(images: range) -> None:
        for some in evaluator.batches(images):
            complete(evaluator, kept, some, wanted[:, images.start])

    wanted[:, : pilots.stop, ::STRIDE] = True
    wanted[:, : pilots.stop, -1] = True
    evaluate(pilots)
    for p in range(prompts):
        coarse = wanted[p, 0].nonzero().flatten()
        found = _scores(kept, p, wanted[p], pilots.stop, normalize)[:, coarse]
        best = int(coarse[found.mean(0).argmax()])
        wanted[p, : pilots.stop, max(0, best - STRIDE) : best + STRIDE + 1] = True
    evaluate(pilots)  # encoded again, unless one batch holds all of them
    races = [_Race(p, wanted[p], pilots.stop) for p in range(prompts)]
    for images in others:
        for race in races:
            race.judge(kept, images.start, normalize)
            wanted[race.prompt, images.start : images.stop] = race.next()
        if all(race.settled for race in races):
            break
        evaluate(images)
    for race in races:
        race.judge(kept, count, normalize)
    return [Found(wanted[race.prompt], race.confidence) for race in races]


class _Race:
    """The candidates of one prompt that are left."""

    def __init__(self, prompt: int, wanted: Tensor, pilots: int) -> None:
        self.prompt, self.wanted, self.pilots = prompt, wanted, pilots
        self.left = wanted[0].nonzero().flatten()  # indices of timesteps
        self.lowest: Tensor | None = None
        self.images, self.settled = pilots, False
        self.confidence: float | None = None

    def judge(self, kept: PartialCurves, images: int, normalize: str) -> None:
        """Drop candidates by the images evaluated so far, and see whether one has won."""
        if self.settled:
            return
        if self.lowest is None:
            pilots = kept.statistics[self.prompt, 1:, : self.pilots][:, :, self.left]
            self.lowest = self.left[pilots.argmin(2).mode(1).values]  # of N, and of D: highest H
        self.images = images
        complete = self.wanted[:images].all(0).nonzero().flatten()
        found = _scores(kept, self.prompt, self.wanted, images, normalize)[:, complete]
        shares = _shares(found)
        # Of the largest mean, which is what the curve's `largest()` is.
        confidence = float(shares[found.mean(0).argmax()])
        self.confidence = confidence if images > 1 else None
        self.settled = confidence >= SETTLED
        stays = complete[shares >= min(DROPPED, confidence)]
        self.left = self.left[torch.isin(self.left, stays)]

    def next(self) -> Tensor:
        """Return the timesteps to evaluate more images at, [T] bool."""
        result = torch.zeros(self.wanted.shape[1], dtype=torch.bool)
        if not self.settled and self.lowest is not None:
            result[self.left] = True
            result[self.lowest] = True
        return result


def _scores(
    kept: PartialCurves, prompt: int, wanted: Tensor, images: int, normalize: str
) -> Tensor:
    """Return the scores of the first images, [images, T]; NaN where they were not `wanted`."""
    _, l1, deficit = kept.statistics[prompt, :, :images].masked_fill(~wanted[:images], torch.nan)
    return scores(deficit, l1, normalize)


def _shares(found: Tensor) -> Tensor:
    """Return the share of bootstraps over images in which a column of [N, C] is the largest."""
    rng = draws.generator(0)
    weights = torch.zeros(BOOTSTRAPS, len(found), dtype=found.dtype)
    picked = torch.randint(len(found), weights.shape, generator=rng)
    weights.scatter_add_(1, picked, torch.ones_like(weights))
    best = (weights @ found).argmax(1)
    return best.bincount(minlength=found.shape[1]) / BOOTSTRAPS


def complete(evaluator: Evaluator, kept: PartialCurves, images: range, wanted: Tensor) -> None:
    """Evaluate what `kept` lacks of some images; wanted: [P, T] bool.

    Raises:
        FloatingPointError: a gradient is not finite; names prompt, timestep and image.
        KeyboardInterrupt: a signal asked for the end.
        MemoryError: not even the smallest pieces fit.
    """
    while images:
        some = evaluator.batches(images)[0]
        try:
            _complete(evaluator, kept, some, wanted)
            images = images[len(some) :]
            continue
        except (RuntimeError, MemoryError) as error:
            evaluator.take_less(error)
        release()  # and go on with what is still lacking


def _complete(evaluator: Evaluator, kept: PartialCurves, images: range, wanted: Tensor) -> None:
    lacking = wanted & ~kept.done[:, images.start : images.stop].all(1)
    if not bool(lacking.any()):
        return
    for pairs, statistics in evaluator.evaluate(images, lacking):
        _check_finite(evaluator, pairs, images, statistics)
        for (p, j), found in zip(pairs, statistics.unbind(1), strict=True):
            kept.add(p, images, j, found)
        kept.keep()


def _check_finite(
    evaluator: Evaluator, pairs: list[tuple[int, int]], images: range, statistics: Tensor
) -> None:
    bad = (~statistics.isfinite().all(0)).nonzero()  # [pairs, images]
    if len(bad):
        p, j = pairs[int(bad[0, 0])]
        image = images[int(bad[0, 1])]
        why = evaluator.explain(p, j, image) or "Lower guidance_scale"
        prompt = ", ".join(map(repr, evaluator.prompts[p].prompts))
        raise FloatingPointError(
            f"the gradient for {prompt} is NaN or infinite at timestep {evaluator.timesteps[j]} "
            f"for image {image} ({len(bad)} such pairs in this batch). {why}"
        )
