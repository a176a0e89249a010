"""Comparing two editors on the same images."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sdd_fast.metrics import PairedDifference, holm, paired_difference, sign_flip_test


def draws(count: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=rng, dtype=torch.float64)


def enumerated(differences: list[float], alternative: str) -> float:
    observed, hits, total = sum(differences), 0, 0
    for signs in itertools.product((-1, 1), repeat=len(differences)):
        value = sum(s * abs(d) for s, d in zip(signs, differences, strict=True))
        total += 1
        hits += {
            "two-sided": abs(value) >= abs(observed) - 1e-12,
            "greater": value >= observed - 1e-12,
            "less": value <= observed + 1e-12,
        }[alternative]
    return hits / total


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_differences_are_tested_exactly(alternative: str, count: int) -> None:
    d = draws(count, 1) + 0.3
    d = torch.cat([d, torch.zeros(40, dtype=torch.float64)])  # pairs that are equal tell nothing
    found = sign_flip_test(d, alternative=alternative)
    assert found == pytest.approx(enumerated(d[:count].tolist(), alternative), abs=1e-12)


def test_sums_that_tie_but_for_rounding_count_in_lists_too() -> None:
    tenths = [x / 20 for x in (2, -1, 4, 3, -2, 5)]  # no float32 holds them
    assert sign_flip_test(tenths, alternative="greater") == 7 / 64


def test_true_or_false_values_are_tested_as_by_mcnemar() -> None:
    better, worse = 30, 12
    d = torch.tensor([1.0] * better + [-1.0] * worse + [0.0] * 100)
    trials = better + worse
    tail = sum(math.comb(trials, k) for k in range(better, trials + 1)) / 2**trials
    assert sign_flip_test(d) == pytest.approx(2 * tail, abs=0.001)
    assert sign_flip_test(d, alternative="greater") == pytest.approx(tail, abs=0.001)


def test_without_a_difference_small_p_values_are_as_rare_as_they_should_be() -> None:
    values = torch.stack([draws(30, seed) for seed in range(400)])
    p = torch.tensor([sign_flip_test(v, flips=500, seed=i) for i, v in enumerate(values)])
    assert (p < 0.05).double().mean() == pytest.approx(0.05, abs=0.03)
    assert (p < 0.5).double().mean() == pytest.approx(0.5, abs=0.08)


def test_pairs_find_what_two_intervals_do_not() -> None:
    """Hard images are hard for both editors, which differ by little and always the same way."""
    hard = 5 * draws(60, 2)
    a, b = hard + 0.2 + 0.1 * draws(60, 3), hard
    found = paired_difference(a, b)
    assert found.difference.low > 0.15 and found.difference.high < 0.25
    assert found.difference.estimate == pytest.approx(float((a - b).mean()))
    assert found.p_value == 1 / 100_001  # none of the random flips comes near
    assert paired_difference(b, a, alternative="greater").p_value > 0.999


def test_an_image_that_one_of_them_lacks_is_left_out() -> None:
    a, b = draws(20, 4), draws(20, 5)
    a[3], b[7] = torch.nan, torch.nan
    kept = [i for i in range(20) if i not in (3, 7)]
    assert paired_difference(a, b) == paired_difference(a[kept], b[kept])


def test_successes_of_two_editors_on_the_same_images() -> None:
    a = torch.tensor([True] * 50 + [False] * 14)
    b = torch.tensor([True] * 35 + [False] * 29)
    found = paired_difference(a, b)
    assert found.difference.estimate == pytest.approx(15 / 64)
    assert found.p_value < 0.001


def test_equal_editors_do_not_differ() -> None:
    found = paired_difference(torch.ones(9), torch.ones(9))
    assert found.p_value == 1.0 and found.difference.low == found.difference.high == 0.0


def test_a_comparison_survives_json() -> None:
    found = paired_difference(draws(9, 6), draws(9, 7))
    assert PairedDifference.from_json(found.to_json()) == found
    assert "p = " in str(found)


def test_holm_corrects_for_several_comparisons() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_difference(torch.zeros(9), torch.zeros(8)), r"\[9\] and \[8\]"),
        (lambda: paired_difference(torch.zeros(3), torch.zeros(3)), "at least 5"),
        (lambda: sign_flip_test([]), "finite differences"),
        (lambda: sign_flip_test([1.0, torch.nan]), "finite differences"),
        (lambda: sign_flip_test([1.0], alternative="larger"), "two-sided, greater, less"),
        (lambda: holm({"a": 0.01, "b": math.nan}), "between 0 and 1, got nan of 'b'"),
        (lambda: holm({"a": 1.5}), "got 1.5 of 'a'"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
