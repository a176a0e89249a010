"""Table 3: which timesteps each strategy takes, and its tests, on made-up numbers."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest

from sdd_fast.evidence import table3
from sdd_fast.evidence.judge import figures_of
from sdd_fast.metrics.bootstrap import hierarchical_interval

interval = partial(hierarchical_interval, resamples=200)

TIMESTEPS = [100, 300, 500, 700, 900]
SCORES = [-1.0, 0.1, 0.96, 1.0, -0.2]  # half way: 0; nine tenths: 0.8


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("random", TIMESTEPS),
        ("small ξ", [300, 500, 700]),
        ("large ξ", [500, 700]),
        ("largest HQS", [700]),
        ("lowest HQS", [100]),
    ],
)
def test_timesteps_of_strategies(strategy: str, expected: list[int]) -> None:
    assert table3.timesteps_of(strategy, TIMESTEPS, SCORES) == expected


def test_a_flat_curve_still_has_timesteps() -> None:
    for strategy in table3.STRATEGIES:
        assert table3.timesteps_of(strategy, TIMESTEPS, [0.0] * 5)


def rows(shares: list[list[int]]) -> list[list[dict[str, Any]]]:
    """[seed][prompt] → 20 images of which so many show the target."""
    return [[{"success": [i < n for i in range(20)]} for n in seed] for seed in shares]


def test_figures_are_grouped_by_prompt_then_seed() -> None:
    found = figures_of(rows([[5, 10], [6, 12]]), "success")
    assert found is not None
    assert [[float(v.double().mean()) for v in seeds] for seeds in found] == [
        [0.25, 0.3],
        [0.5, 0.6],
    ]
    assert figures_of(rows([[5, 10]]), "kept") is None
    assert figures_of([], "success") is None


def test_the_paired_test_is_the_share_of_signs_that_give_as_much() -> None:
    ours, theirs = [[12, 9, 14], [13, 8, 15]], [[10, 10, 10], [10, 10, 10]]
    groups = {"largest HQS": dict(enumerate(rows(ours))), "random": dict(enumerate(rows(theirs)))}
    (told,) = table3._tests(groups, interval)
    d = [(a - b) / 20 for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
    signs = list(itertools.product((1, -1), repeat=6))
    p = sum(
        sum(s * x for s, x in zip(sign, d, strict=True)) >= sum(d) - 1e-9 for sign in signs
    ) / len(signs)
    assert f"Success of {table3.COMPARED}: {sum(d) / 6:+.3f} [" in told
    assert f"p = {p:.2g} over 6 pairs of trainings" in told
    assert "of 3 prompts p cannot be below 0.12" in told


def test_trainings_are_paired_by_their_seeds_and_those_of_one_side_are_left_out() -> None:
    first, second, third = rows([[4, 4], [10, 10], [20, 20]])
    groups = {"largest HQS": {0: second, 1: third}, "random": {0: first, 2: third}}
    (told,) = table3._tests(groups, interval)
    assert "timesteps: +0.300" in told and "over 2 pairs of trainings" in told
    assert table3._tests({"largest HQS": {1: third}, "random": {2: third}}, interval) == []
