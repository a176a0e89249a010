"""Spearman's rank correlation, of a score and what it is to predict."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return Spearman's ρ, ties at their mean rank; None if one of the two is constant.

    Raises:
        ValueError: they differ in length, or are shorter than 2.
    """
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"expected two series of one length ≥ 2, got {len(x)} and {len(y)}")
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = float((a @ a * (b @ b)).sqrt())
    return None if norm == 0 else float(a @ b) / norm


def _ranks(values: Sequence[float]) -> Tensor:
    given = torch.tensor(list(values), dtype=torch.float64)
    _, inverse, counts = given.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[inverse]
