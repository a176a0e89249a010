"""Confidence intervals by resampling: over images, and over prompts, seeds and images together.

Efron and Tibshirani 1993, "An Introduction to the Bootstrap"; BCa: their chapter 14. All draws come
from one seed, so that a table has the same intervals wherever it is made. scipy.stats has neither
the nested bootstrap nor the expanded interval, and would be 35 MB for what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from .. import draws
from ..checks import check_count
from ..shield import shielded
from .interval import CONFIDENCE, Interval, check_confidence, share_interval, student_t

RESAMPLES = 10_000
FEWEST = 5
"""Values that a bootstrap can learn a spread from; of fewer there is no interval."""
METHODS = ("bca", "percentile")
LEVELS = ("prompts", "seeds", "images")

_AT_ONCE = 2**22  # values that are resampled at once

Statistic = Callable[[Tensor], Tensor]
"""Resampled rows [B, N, …], float64 → their statistic [B]."""


@shielded(grad=False)
def bootstrap_interval(
    values: Tensor | Sequence[float],
    statistic: Statistic | None = None,
    *,
    confidence: float = CONFIDENCE,
    method: str = "bca",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Estimate a statistic and its confidence interval by resampling rows.

    Args:
        values: [N] or [N, …], one row an image. NaN, for what an image was not asked, is left out
            of a mean; of another statistic there may be none.
        statistic: of rows [B, N, …] → [B]; None: the mean of [N].
        method: "bca" (bias-corrected and accelerated) or "percentile".

    Returns:
        The interval. Of true-or-false values without a `statistic` it is that of a share, see
        `share_interval`.

    Raises:
        ValueError: fewer than `FEWEST` rows, values that are infinite, an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    check_confidence(confidence)
    check_count("resamples", resamples)
    rows = torch.as_tensor(values).detach().cpu()
    if rows.dtype == torch.bool and rows.ndim == 1 and statistic is None:
        _check_rows(rows.double())
        return share_interval(int(rows.sum()), len(rows), confidence)
    rows = rows.double()
    if statistic is None:
        if rows.ndim != 1:
            raise ValueError(
                f"the mean is that of values [N], got {list(rows.shape)}; give a statistic for more"
            )
        rows, statistic = rows[~rows.isnan()], _mean
    _check_rows(rows)
    estimate = float(statistic(rows[None])[0])
    drawn = _resampled(rows, statistic, resamples, seed)
    if method == "percentile":
        lower = (1 - confidence) / 2
        ends = (lower, 1 - lower)
    else:
        ends = _bca_ends(drawn, estimate, _jackknife(rows, statistic), confidence)
    low, high = (float(torch.quantile(drawn, end)) for end in ends)
    name = "BCa bootstrap" if method == "bca" else "percentile bootstrap"
    return Interval(estimate, low, high, confidence, name, len(rows))


@shielded(grad=False)
def hierarchical_interval(
    groups: Sequence[Sequence[Tensor]],
    *,
    over: Sequence[str] = LEVELS,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Estimate a mean over prompts, seeds and images, and its interval, by resampling each level.

    Prompts are drawn again, of each its seeds, and of each of those its images (Davison and Hinkley
    1997, Sec. 3.8), since images under one prompt and seed tell less than as many independent ones.
    Every prompt counts the same, and every seed of it. Images are drawn anew for each prompt and
    seed, also where all of them have the same ones.

    Of few prompts a percentile interval is too narrow; this one is the expanded one (Hesterberg
    2014, "What Teachers Should Know about the Bootstrap"). In simulated tables of 3 seeds and 16
    images, intervals of 95 % held the true mean in 78 % of those of 2 prompts, 90 % of 3, and 95 %
    of 6, 10 and 20.

    Args:
        groups: [prompt][seed] → values [N], true-or-false or numbers; NaN is left out. If all of
            the former agree, the interval is that of a share, see `share_interval`, of so many
            images as the smallest [prompt][seed] has: others may be the same images again, under
            another prompt or by another seed.
        over: the levels that are drawn again. Without "prompts" the interval speaks of these
            prompts only, not of others like them.

    Raises:
        ValueError: no groups, an empty one, infinite values, or an unknown level.
    """
    unknown = [level for level in over if level not in LEVELS]
    if unknown or not over:
        raise ValueError(f"over must name some of {', '.join(LEVELS)}, got {list(over)}")
    check_confidence(confidence)
    given = [[torch.as_tensor(v).detach().cpu() for v in seeds] for seeds in groups]
    cells = [[v[~v.isnan()].double() for v in seeds] for seeds in given]
    if not cells or any(not seeds or any(len(v) == 0 for v in seeds) for seeds in cells):
        raise ValueError(
            "expected values of at least one prompt, seed and image each, got "
            f"{[[len(v) for v in seeds] for seeds in cells]}"
        )
    check_count("resamples", resamples)
    values = torch.cat([v for seeds in cells for v in seeds])
    _check_finite(values)
    shares = all(v.dtype == torch.bool for seeds in given for v in seeds)
    if shares and (values == values[0]).all():
        fewest = min(len(v) for seeds in cells for v in seeds)
        return share_interval(fewest if values[0] else 0, fewest, confidence)
    drawn = _Nested(cells).means(resamples, over, draws.stream(seed, "hierarchical bootstrap"))
    means = [sum(float(v.mean()) for v in seeds) / len(seeds) for seeds in cells]
    lower = _expanded(cells, over, confidence)
    low, high = (float(torch.quantile(drawn, end)) for end in (lower, 1 - lower))
    return Interval(
        estimate=sum(means) / len(means),
        low=low,
        high=high,
        confidence=confidence,
        method=f"bootstrap over {', '.join(over)}",
        count=len(values),
    )


def _expanded(cells: Sequence[Sequence[Tensor]], over: Sequence[str], confidence: float) -> float:
    """The share of resamples below an interval that allows for few prompts (Hesterberg, Sec. 4.1).

    Of n values a resample varies less than they do, by √((n − 1) / n), and has lighter tails.
    """
    counts = {
        "prompts": [len(cells)],
        "seeds": [len(seeds) for seeds in cells],
        "images": [len(v) for seeds in cells for v in seeds],
    }
    # The first level of which there are several decides: it has the fewest.
    several = [counts[n] for n in LEVELS if n in over and max(counts[n]) > 1]
    if not several:
        return (1 - confidence) / 2
    total, freedom = sum(several[0]), sum(count - 1 for count in several[0])
    return NormalDist().cdf(-student_t(confidence, freedom) * math.sqrt(total / freedom))


class _Nested:
    """Values of [prompts][seeds][images], any number of each, as one tensor [P, S, N]."""

    def __init__(self, cells: Sequence[Sequence[Tensor]]) -> None:
        self.seeds = torch.tensor([len(seeds) for seeds in cells])  # [P]
        most = int(self.seeds.max())
        lengths = [[len(v) for v in seeds] + [0] * (most - len(seeds)) for seeds in cells]
        self.images = torch.tensor(lengths)  # [P, S]
        shape = (len(cells), most, int(self.images.max()))
        self.values = torch.zeros(shape, dtype=torch.float64)
        for prompt, seeds in enumerate(cells):
            for seed, values in enumerate(seeds):
                self.values[prompt, seed, : len(values)] = values

    def means(self, resamples: int, over: Sequence[str], rng: torch.Generator) -> Tensor:
        """Resampled means [resamples], some at once."""
        most = max(1, _AT_ONCE // self.values.numel())
        sizes = [min(most, resamples - begun) for begun in range(0, resamples, most)]
        return torch.cat([self._means(size, over, rng) for size in sizes])

    def _means(self, size: int, over: Sequence[str], rng: torch.Generator) -> Tensor:
        def places(shape: tuple[int, ...], counts: Tensor, again: bool) -> Tensor:
            """Of each row which of its `counts`: drawn with replacement, or in order."""
            if not again:
                return torch.arange(shape[-1]).expand(shape).minimum(counts - 1).clamp(min=0)
            drawn = torch.rand(shape, generator=rng, dtype=torch.float64)
            return (drawn * counts).long().minimum(counts - 1).clamp(min=0)

        prompts, seeds, images = self.values.shape
        p = places((size, prompts), torch.tensor(prompts), "prompts" in over)[..., None]
        s = places((size, prompts, seeds), self.seeds[p], "seeds" in over)
        there = self.images[p, s]  # [B, P, S]
        i = places((size, prompts, seeds, images), there[..., None], "images" in over)
        counted = torch.arange(images) < there[..., None]
        of_seeds = (self.values[p[..., None], s[..., None], i] * counted).sum(3) / there
        # A prompt of fewer seeds has places that do not count.
        valid = torch.arange(seeds) < self.seeds[p]
        of_prompts = torch.where(valid, of_seeds, 0.0).sum(2) / self.seeds[p[..., 0]]
        return of_prompts.mean(1)


def _check_rows(rows: Tensor) -> None:
    if rows.ndim < 1 or len(rows) < FEWEST:
        count = len(rows) if rows.ndim else 0
        raise ValueError(
            f"a bootstrap needs at least {FEWEST} values (not NaN), got {count}; measure more"
        )
    _check_finite(rows)


def _check_finite(values: Tensor) -> None:
    odd = values[~torch.isfinite(values)]
    if len(odd):
        told = ", ".join(sorted({f"{value:g}" for value in odd.tolist()}))
        raise ValueError(
            f"expected finite values to resample, got {told}: {len(odd)} of {values.numel()}; "
            "leave them out"
        )


def _mean(rows: Tensor) -> Tensor:
    return rows.mean(1)


def _resampled(rows: Tensor, statistic: Statistic, resamples: int, seed: int) -> Tensor:
    """Statistics [resamples] of rows drawn with replacement, some at once."""
    parts, rng = [], draws.stream(seed, "bootstrap")
    most = max(1, _AT_ONCE // rows.numel())
    for begun in range(0, resamples, most):
        shape = (min(most, resamples - begun), len(rows))
        parts.append(statistic(rows[torch.randint(len(rows), shape, generator=rng)]))
    return torch.cat(parts)


def _jackknife(rows: Tensor, statistic: Statistic) -> Tensor:
    """Statistics [N] without one row each."""
    count = len(rows)
    parts = []
    for left_out in torch.arange(count).split(max(1, _AT_ONCE // rows.numel())):
        index = torch.arange(count - 1).expand(len(left_out), -1)
        index = index + (index >= left_out[:, None])
        parts.append(statistic(rows[index]))
    return torch.cat(parts)


def _bca_ends(
    drawn: Tensor, estimate: float, without_one: Tensor, confidence: float
) -> tuple[float, float]:
    """The shares of `drawn` between which the BCa interval lies (Efron and Tibshirani, 14.9)."""
    normal = NormalDist()
    # Ties count half: of a share, many resamples equal the estimate.
    below = float((drawn < estimate).double().mean() + 0.5 * (drawn == estimate).double().mean())
    if not 0 < below < 1:  # all resamples are on one side: there is no bias to correct
        lower = (1 - confidence) / 2
        return lower, 1 - lower
    bias = normal.inv_cdf(below)
    centered = without_one.mean() - without_one
    spread = float(centered.square().sum())
    acceleration = float(centered.pow(3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    ends = []
    for share in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = bias + normal.inv_cdf(share)
        ends.append(normal.cdf(bias + z / (1 - acceleration * z)))
    low, high = ends
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        lower = (1 - confidence) / 2
        return lower, 1 - lower
    return low, high
