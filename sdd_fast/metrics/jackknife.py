"""Intervals of figures of whole sets, such as FID, which a bootstrap would make larger.

A resample holds images twice, so that its covariance is of fewer images, and FID grows with that.
Leaving images out, a group at a time, changes their number by little and repeats none.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .. import draws
from ..shield import shielded
from .interval import CONFIDENCE, Interval, check_confidence, student_t

GROUPS = 20


@shielded(grad=False)
def jackknife_interval(
    rows: Tensor,
    statistic: Callable[[Tensor], float],
    *,
    groups: int = GROUPS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Estimate a statistic of a set and its interval by leaving out a group at a time.

    Efron and Tibshirani 1993, Sec. 11.5 and 11.7: the delete-a-group jackknife, with Student's t.

    Args:
        rows: [N, …], one an image. statistic: of some of them.
        groups: into which the rows are drawn by `seed`.

    Raises:
        ValueError: fewer than 2 groups, or more than rows.
    """
    count = len(rows)
    if not 2 <= groups <= count:
        raise ValueError(f"expected 2 to {count} groups of {count} images, got {groups}")
    order = torch.randperm(count, generator=draws.stream(seed, "jackknife"))
    estimate = statistic(rows)
    without = []
    for left_out in order.tensor_split(groups):
        kept = torch.ones(count, dtype=torch.bool)
        kept[left_out] = False
        without.append(statistic(rows[kept]))
    mean = sum(without) / groups
    spread = sum((value - mean) ** 2 for value in without)
    half = student_t(check_confidence(confidence), groups - 1) * math.sqrt(
        (groups - 1) / groups * spread
    )
    method = f"jackknife of {groups} groups"
    return Interval(estimate, estimate - half, estimate + half, confidence, method, count)
