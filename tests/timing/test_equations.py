"""The cost of edits against figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from sdd_fast.timing.equations import Plan, UnitSeconds, break_even, diffusion_total, of_steps


def test_totals_by_hand() -> None:
    units = UnitSeconds(evaluation=0.25, setup=3.0, step=0.5, edit=0.125)
    plan = Plan(images=8, prompts=3, steps=20, timesteps=5, searched=4)
    assert units.selection(plan) == 5.0  # 0.25 · 5 · 4
    assert units.training(plan) == 13.0  # 3 + 0.5 · 20
    assert units.beforehand(plan) == 18.0
    assert units.total(plan) == 57.0  # 3 · (18 + 8 · 0.125)
    assert diffusion_total(2.0, plan) == 48.0  # 8 · 3 · 2


def test_known_timesteps_cost_no_selection() -> None:
    units = UnitSeconds(evaluation=0.25, setup=0.0, step=1.0, edit=0.0)
    assert units.beforehand(Plan(steps=7, searched=0)) == 7.0


def test_break_even_is_the_first_number_at_which_the_totals_cross() -> None:
    assert break_even(18.0, 0.125, 2.0) == 10  # 18 / 1.875 = 9.6
    assert break_even(10.0, 1.0, 2.0) == 11  # at 10 both take 20
    for beforehand, ours, theirs in ((18.0, 0.125, 2.0), (10.0, 1.0, 2.0), (0.3, 0.01, 7.0)):
        even = break_even(beforehand, ours, theirs)
        assert even is not None
        assert beforehand + even * ours < even * theirs
        assert not beforehand + (even - 1) * ours < (even - 1) * theirs


@pytest.mark.parametrize("theirs", [1.0, 0.5, 0.0])
def test_an_editor_that_is_no_slower_is_never_dearer(theirs: float) -> None:
    assert break_even(10.0, 1.0, theirs) is None
    assert break_even(0.0, 1.0, theirs) is None


def test_without_training_the_first_image_is_cheaper() -> None:
    assert break_even(0.0, 1.0, 2.0) == 1


def test_steps_are_added_to_what_is_done_once() -> None:
    assert of_steps((1, 3.0), (3, 4.0), 50) == 27.5  # 2.5 once, 0.5 a step
    assert of_steps((2, 3.0), (6, 5.0), 6) == 5.0
    assert of_steps((1, 3.0), (3, 2.9), 50) == 3.0  # noise makes no step cheaper than nothing


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: break_even(-1.0, 1.0, 2.0),
        lambda: break_even(1.0, math.nan, 2.0),
        lambda: UnitSeconds(1.0, 1.0, math.inf, 1.0),
        lambda: diffusion_total(-1.0, Plan()),
        lambda: Plan(images=0),
        lambda: Plan(searched=-1),
        lambda: of_steps((3, 1.0), (3, 2.0), 50),
    ],
)
def test_bad_figures(wrong: object) -> None:
    with pytest.raises(ValueError, match="must be|ascending"):
        wrong()  # type: ignore[operator]
