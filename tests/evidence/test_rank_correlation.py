"""Spearman's ρ against its textbook formula, and against ranks counted one by one."""

from __future__ import annotations

import math
import random

import pytest

from sdd_fast.evidence.rank_correlation import rank_correlation


def reference(x: list[float], y: list[float]) -> float:
    """Pearson's correlation of ranks, each the mean place among all that are alike."""

    def ranks(values: list[float]) -> list[float]:
        return [
            sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2
            for value in values
        ]

    a, b = ranks(x), ranks(y)
    mean = (len(x) + 1) / 2
    up = math.fsum((p - mean) * (q - mean) for p, q in zip(a, b, strict=True))
    down = math.sqrt(math.fsum((p - mean) ** 2 for p in a) * math.fsum((q - mean) ** 2 for q in b))
    return up / down


@pytest.mark.parametrize("seed", range(5))
def test_with_and_without_ties(seed: int) -> None:
    draw = random.Random(seed)
    x = [draw.gauss(0, 1) for _ in range(9)]
    y = [draw.gauss(0, 1) for _ in range(9)]
    assert rank_correlation(x, y) == pytest.approx(reference(x, y))
    # Without ties it is 1 − 6 Σd² / n(n² − 1).
    places = [[sorted(s).index(v) for v in s] for s in (x, y)]
    squares = sum((a - b) ** 2 for a, b in zip(*places, strict=True))
    assert rank_correlation(x, y) == pytest.approx(1 - 6 * squares / (9 * 80))
    tied = [round(value) for value in x]
    assert rank_correlation(tied, y) == pytest.approx(reference(tied, y))


def test_monotone_series_and_constant_ones() -> None:
    assert rank_correlation([1, 2, 3, 50], [-1.0, 0.0, 0.1, 9.0]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3], [0, 0, 0]) is None
    with pytest.raises(ValueError, match="one length ≥ 2, got 1 and 1"):
        rank_correlation([1], [1])
