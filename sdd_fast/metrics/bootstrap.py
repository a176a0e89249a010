"""Confidence intervals by resampling: over images, and over prompts, seeds and images together.

Efron and Tibshirani 1993, "An Introduction to the Bootstrap"; BCa: their chapter 14. All draws come
from one seed, so that a table has the same intervals wherever it is made.
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
from .interval import CONFIDENCE, Interval, check_confidence, share_interval

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
    Percentile interval; every prompt counts the same, and every seed of it.

    Of few prompts it is too narrow, as any bootstrap is of few values: of 6 prompts the interval
    of 95 % held the true mean in 87 % of simulated tables, of 20 in 93 %.

    Args:
        groups: [prompt][seed] → values [N], true-or-false or numbers; NaN is left out. If all of
            the former agree, the interval is that of a share of all images, see `share_interval`.
        over: the levels that are drawn again. Without "prompts" the interval speaks of these
            prompts only, not of others like them.

    Raises:
        ValueError: no groups, an empty one, or an unknown level.
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
    shares = all(v.dtype == torch.bool for seeds in given for v in seeds)
    if shares and (values == values[0]).all():
        return share_interval(int(values.sum()), len(values), confidence)
    rng = draws.stream(seed, "hierarchical bootstrap")
    chosen = _drawn(len(cells), resamples, rng, "prompts" in over)  # [B, P]
    total = torch.zeros(resamples, dtype=torch.float64)
    for place in range(len(cells)):
        for prompt, seeds in enumerate(cells):
            here = (chosen[:, place] == prompt).nonzero()[:, 0]
            if len(here):
                total[here] += _means_of_seeds(seeds, len(here), rng, over)
    drawn = total / len(cells)
    means = [sum(float(v.mean()) for v in seeds) / len(seeds) for seeds in cells]
    lower = (1 - confidence) / 2
    low, high = (float(torch.quantile(drawn, end)) for end in (lower, 1 - lower))
    return Interval(
        estimate=sum(means) / len(means),
        low=low,
        high=high,
        confidence=confidence,
        method=f"percentile bootstrap over {', '.join(over)}",
        count=len(values),
    )


def _means_of_seeds(
    seeds: Sequence[Tensor], resamples: int, rng: torch.Generator, over: Sequence[str]
) -> Tensor:
    """Resampled means of one prompt [resamples]."""
    chosen = _drawn(len(seeds), resamples, rng, "seeds" in over)
    total = torch.zeros(resamples, dtype=torch.float64)
    for place in range(len(seeds)):
        for index, values in enumerate(seeds):
            here = (chosen[:, place] == index).nonzero()[:, 0]
            if "images" not in over:
                total[here] += values.mean()
            elif len(here):
                total[here] += _resampled_with(values, _mean, len(here), rng)
    return total / len(seeds)


def _drawn(count: int, resamples: int, rng: torch.Generator, again: bool) -> Tensor:
    """Indices [resamples, count]: drawn with replacement, or all in order."""
    if again:
        return torch.randint(count, (resamples, count), generator=rng)
    return torch.arange(count).expand(resamples, count)


def _check_rows(rows: Tensor) -> None:
    if rows.ndim < 1 or len(rows) < FEWEST:
        count = len(rows) if rows.ndim else 0
        raise ValueError(
            f"a bootstrap needs at least {FEWEST} values (not NaN), got {count}; measure more"
        )
    if not torch.isfinite(rows).all():
        raise ValueError("expected finite values to resample, got NaN or infinity")


def _mean(rows: Tensor) -> Tensor:
    return rows.mean(1)


def _resampled(rows: Tensor, statistic: Statistic, resamples: int, seed: int) -> Tensor:
    return _resampled_with(rows, statistic, resamples, draws.stream(seed, "bootstrap"))


def _resampled_with(
    rows: Tensor, statistic: Statistic, resamples: int, rng: torch.Generator
) -> Tensor:
    """Statistics [resamples] of rows drawn with replacement, some at once."""
    parts = []
    left, most = resamples, max(1, _AT_ONCE // rows.numel())
    while left:
        now = min(left, most)
        index = torch.randint(len(rows), (now, len(rows)), generator=rng)
        parts.append(statistic(rows[index]))
        left -= now
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
