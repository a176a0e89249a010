"""Intervals of figures of whole sets, such as FID, which a bootstrap would make larger.

A resample holds images twice, so that its covariance is of fewer images, and FID grows with that.
Leaving images out, a group at a time, changes their number by little and repeats none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

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
    members: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Estimate a statistic of a set and its interval by leaving out a group at a time.

    Efron and Tibshirani 1993, Sec. 11.5 and 11.7: the delete-a-group jackknife, with Student's t.

    Args:
        rows: [N, …], one an image. statistic: of some of them.
        groups: into which the rows are drawn by `seed`.
        members: [N] of what each row is one of several; equal ones come into the same group, since
            they tell the same. None: each row stands for itself.

    Raises:
        ValueError: fewer than 2 groups, more than there are different members, or another number
            of members than rows.
    """
    count = len(rows)
    members = range(count) if members is None else members
    if len(members) != count:
        raise ValueError(f"expected a member for each of {count} images, got {len(members)}")
    left = groups_of(members, groups, seed)
    estimate = statistic(rows)
    without = []
    for left_out in left:
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


def groups_of(members: Sequence[Hashable], groups: int, seed: int = 0) -> list[Tensor]:
    """Return the indices of each group, see `jackknife_interval`."""
    different = list(dict.fromkeys(members))
    if not 2 <= groups <= len(different):
        raise ValueError(
            f"expected 2 to {len(different)} groups of {len(different)} images, got {groups}"
        )
    order = torch.randperm(len(different), generator=draws.stream(seed, "jackknife"))
    group_of = {
        different[i]: number
        for number, group in enumerate(order.tensor_split(groups))
        for i in group.tolist()
    }
    numbers = torch.tensor([group_of[member] for member in members])
    return [(numbers == number).nonzero().flatten() for number in range(groups)]
