"""Tables 1 and 2 on made-up numbers: costs, and what is paired with what."""

from __future__ import annotations

import math

import pytest

from sdd_fast.evidence.table1 import Cost


def test_costs_are_means_over_prompts_and_sums_of_eq_13_to_15() -> None:
    units = {
        "a": {"seconds": {"selection": 4.0, "training": 20.0, "edits": 1.0}, "images": 100},
        "b": {"seconds": {"selection": 6.0, "training": 40.0, "edits": 3.0}, "images": 100},
    }
    cost = Cost.of(units)
    assert (cost.selection, cost.training, cost.edit) == (5.0, 30.0, 0.02)
    assert cost.total(m=100, n=10) == pytest.approx(10 * 35 + 1000 * 0.02)


def test_the_break_even_is_the_first_number_of_images_that_costs_less() -> None:
    ours, theirs = Cost(5.0, 30.0, 0.02), Cost(0.0, 0.0, 0.5)
    m = ours.cheaper_from(theirs)
    assert m == math.floor(35 / 0.48) + 1
    assert ours.total(m, 1) < theirs.total(m, 1) and ours.total(m - 1, 1) >= theirs.total(m - 1, 1)


def test_an_editor_that_is_trained_and_slower_is_beaten_at_once_and_a_faster_one_never() -> None:
    ours = Cost(5.0, 30.0, 0.02)
    assert ours.cheaper_from(Cost(0.0, 100.0, 0.02)) == 1
    assert ours.cheaper_from(Cost(0.0, 0.0, 0.01)) is None
