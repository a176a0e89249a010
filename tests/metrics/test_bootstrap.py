"""Intervals: closed forms, a textbook's example, and how often they hold the true value."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sdd_fast.metrics import (
    Interval,
    bootstrap,
    bootstrap_interval,
    hierarchical_interval,
    share_interval,
)

SPATIAL = [
    48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6, 0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30,
    41,
]  # fmt: skip
"""Efron and Tibshirani 1993, Table 14.1, test A of 26 children."""


def variance(rows: Tensor) -> Tensor:
    return rows.var(1, correction=0)


def normal(count: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (0, 10, 0.0, 0.2775),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_intervals_are_those_of_the_books(
    hits: int, count: int, low: float, high: float
) -> None:
    """The last: Newcombe 1998, Table I."""
    found = share_interval(hits, count)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    assert found.estimate == hits / count


def test_true_or_false_values_have_the_interval_of_a_share() -> None:
    values = torch.tensor([True] * 64)
    found = bootstrap_interval(values)
    assert found == share_interval(64, 64)
    assert found.low < 0.95 and found.high == 1.0  # a bootstrap would claim certainty


def test_percentile_interval_of_a_mean_is_the_normal_one() -> None:
    values = 3 + 2 * normal(200, 1)
    found = bootstrap_interval(values, method="percentile")
    half = 1.96 * float(values.std(correction=0)) / math.sqrt(200)
    assert found.estimate == pytest.approx(float(values.mean()))
    assert found.low == pytest.approx(found.estimate - half, abs=0.06 * half)
    assert found.high == pytest.approx(found.estimate + half, abs=0.06 * half)
    assert (found.confidence, found.count) == (0.95, 200)


@pytest.mark.parametrize(
    ("method", "low", "high"), [("percentile", 100.8, 233.9), ("bca", 115.8, 259.6)]
)
def test_intervals_of_a_variance_are_those_of_the_textbook(
    method: str, low: float, high: float
) -> None:
    """Efron and Tibshirani 1993, Table 14.2: of 2000 resamples, so that an end is sure to 2."""
    found = bootstrap_interval(SPATIAL, variance, confidence=0.9, method=method)
    assert found.estimate == pytest.approx(171.5, abs=0.05)
    assert (found.low, found.high) == pytest.approx((low, high), abs=6)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_intervals_hold_the_true_mean_as_often_as_they_say(confidence: float) -> None:
    """Of a skewed distribution, whose mean is 1."""
    rng = torch.Generator().manual_seed(2)
    samples = torch.empty(400, 40, dtype=torch.float64).exponential_(generator=rng)
    held = 0
    for seed, values in enumerate(samples):
        found = bootstrap_interval(values, confidence=confidence, resamples=400, seed=seed)
        held += found.low <= 1 <= found.high
    assert held / 400 == pytest.approx(confidence, abs=0.04 if confidence > 0.9 else 0.07)


def test_nan_is_left_out_of_a_mean() -> None:
    values = torch.cat([normal(30, 3), torch.full((10,), torch.nan, dtype=torch.float64)])
    assert bootstrap_interval(values) == bootstrap_interval(values[:30])


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = bootstrap_interval(torch.full((9,), 0.25))
    assert (found.low, found.estimate, found.high) == (0.25, 0.25, 0.25)


def test_a_seed_decides_and_the_size_of_pieces_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    values = normal(33, 4)
    before = torch.get_rng_state()
    first = bootstrap_interval(values, resamples=500, seed=5)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 33 * 7)
    assert bootstrap_interval(values, resamples=500, seed=5) == first
    assert bootstrap_interval(values, resamples=500, seed=6) != first
    assert torch.equal(torch.get_rng_state(), before)


def test_one_prompt_and_seed_is_a_bootstrap_over_images() -> None:
    values = normal(100, 5)
    found = hierarchical_interval([[values]])
    flat = bootstrap_interval(values, method="percentile")
    assert found.estimate == pytest.approx(flat.estimate)
    assert (found.low, found.high) == pytest.approx((flat.low, flat.high), abs=0.01)


def test_every_prompt_and_seed_counts_the_same_however_many_images_it_has() -> None:
    groups = [[torch.zeros(50), torch.zeros(1)], [torch.ones(3), torch.full((2,), 3.0)]]
    found = hierarchical_interval(groups, over=["images"], resamples=50)
    assert (found.estimate, found.low, found.high) == (1.0, 1.0, 1.0)
    over_prompts = hierarchical_interval(groups, over=["prompts"], resamples=2000)
    assert (over_prompts.low, over_prompts.high) == (0.0, 2.0)
    over_seeds = hierarchical_interval(groups, over=["seeds"], resamples=2000)
    assert (over_seeds.low, over_seeds.high) == (0.5, 1.5)


def test_successes_that_all_agree_are_not_certain() -> None:
    groups = [[torch.ones(8, dtype=torch.bool)] * 3, [torch.ones(6, dtype=torch.bool)] * 3]
    # Prompts and seeds share images: of how many different ones it is, 6 or 42, nobody said.
    assert hierarchical_interval(groups) == share_interval(6, 6)
    failures = [[~values for values in seeds] for seeds in groups]
    assert hierarchical_interval(failures) == share_interval(0, 6)


def table(prompts: int, rng: torch.Generator) -> list[list[Tensor]]:
    """Simulated figures of [prompts][3 seeds] → [8 images] around 0."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    values = draw(prompts, 1, 1) + 0.5 * draw(prompts, 3, 1) + draw(prompts, 3, 8)
    return [list(rows) for rows in values]


def test_intervals_over_prompts_hold_the_mean_of_all_prompts_and_those_over_images_do_not() -> None:
    rng = torch.Generator().manual_seed(6)
    held = {"prompts": 0, "images": 0}
    for _ in range(60):
        groups = table(10, rng)
        for over in held:
            found = hierarchical_interval(groups, over=[over, "images"], resamples=200)
            held[over] += found.low <= 0 <= found.high
    assert held["prompts"] / 60 > 0.88
    assert held["images"] / 60 < 0.6


def test_intervals_read_like_a_table_and_survive_json() -> None:
    found = share_interval(60, 64)
    assert str(found) == "0.938 [0.850, 0.975]"
    assert str(Interval(283.9, 279.0, 288.8, 0.95, "by hand", 9)) == "283.90 [279.00, 288.80]"
    assert str(Interval(4e-5, -1e-5, 9e-5, 0.95, "by hand", 9)) == "0.000040 [-0.000010, 0.000090]"
    assert str(Interval(0.25, 0.25, 0.25, 0.95, "by hand", 9)) == "0.250 [0.250, 0.250]"
    assert Interval.from_json(found.to_json()) == found
    assert found.apart(share_interval(10, 64)) and share_interval(10, 64).apart(found)
    assert not found.apart(share_interval(57, 64))


def test_an_interval_of_no_width_is_apart_from_none_and_that_of_a_share_may_be() -> None:
    same = hierarchical_interval([[torch.full((8,), 0.5)]] * 2, resamples=50)
    other = bootstrap_interval(torch.full((9,), 0.25))
    wide = bootstrap_interval(normal(20, 7), resamples=200)
    assert same.low == same.high and other.low == other.high and wide.high < 10
    far = Interval(20.0, 19.0, 21.0, 0.95, "by hand", 9)
    assert wide.apart(far) and far.apart(wide)
    for one in (other, wide, far):
        assert not same.apart(one) and not one.apart(same)
    assert share_interval(64, 64).apart(share_interval(0, 64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([1.0] * 4), "at least 5 values .*got 4"),
        (lambda: bootstrap_interval(torch.full((9,), torch.nan)), "at least 5 values .*got 0"),
        (lambda: bootstrap_interval(torch.tensor([True, False])), "at least 5 values .*got 2"),
        (lambda: bootstrap_interval([math.inf] * 9), "finite values to resample, got inf: 9 of 9"),
        (
            lambda: bootstrap_interval(
                torch.tensor([math.nan, 1, -math.inf] * 3), lambda x: x.sum(1)
            ),
            "got -inf, nan: 6 of 9",
        ),
        (lambda: hierarchical_interval([[torch.tensor([1.0, math.inf])]] * 2), "got inf: 2 of 4"),
        (lambda: bootstrap_interval(torch.zeros(9, 2)), r"\[N\], got \[9, 2\]"),
        (lambda: bootstrap_interval([1.0] * 9, method="t"), "bca, percentile"),
        (lambda: bootstrap_interval([1.0] * 9, confidence=95), "between 0 and 1"),
        (lambda: hierarchical_interval([]), "at least one prompt"),
        (lambda: hierarchical_interval([[torch.zeros(3), torch.zeros(0)]]), r"\[\[3, 0\]\]"),
        (lambda: hierarchical_interval([[torch.zeros(3)]], over=["faces"]), "prompts, seeds"),
        (lambda: share_interval(3, 2), "3 of 2"),
    ],
)
def test_what_cannot_be_estimated_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
