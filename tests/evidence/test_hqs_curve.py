"""The figure of HQS over timesteps, on made-up units: which prompt it shows, and what of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdd_fast.domains import Domain
from sdd_fast.evidence import hqs_study
from sdd_fast.evidence.case import Case
from sdd_fast.evidence.figures import hqs_curve
from sdd_fast.evidence.plan import Plan
from sdd_fast.evidence.store import Outcome, Store

STEPS = 3
ALIKE, RISING, FALLING = [0.5, 0.5, 0.5], [0.0, 0.5, 1.0], [0.75, 0.5, 0.25]
BLACK, WHITE = -torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)


@pytest.fixture
def case(tiny: Domain, tmp_path: Path) -> Case:
    """Two prompts and two seeds; HQS is measured, at 0.1 and 0.2 everywhere."""
    case = Case(tiny, Plan.quick(study_timesteps=STEPS, study_seeds=2), Store(tmp_path))
    curves = [{"entropy and L1": [score] * STEPS} for score in (0.1, 0.2)]
    outcome = Outcome({"curves": curves, "spread": [[[0.0] * STEPS, [0.3] * STEPS]] * 2})
    case.store.keep(hqs_study.curves(case, hqs_study.variants(case)[0]), outcome)
    return case


def train(case: Case, seed: int, *success: list[float]) -> None:
    """Make up what training at each timestep alone achieved, of each prompt."""
    for i, t in enumerate(hqs_study.timesteps_of(case)):
        # of four images, those that show the target
        shares = [[float(image < 4 * its[i]) for image in range(4)] for its in success]
        values = {"prompts": [{"success": share} for share in shares]}
        strips = {"prompt-0": BLACK, "prompt-1": WHITE}
        unit = hqs_study.training(case, t, "as they are", seed)
        case.store.keep(unit, Outcome(values, strips))


def test_the_prompt_whose_success_differs_most_between_timesteps_is_shown(case: Case) -> None:
    train(case, 0, FALLING, RISING)
    for p, colors in enumerate((BLACK, WHITE)):
        case.store.keep(hqs_curve.maps(case, p), Outcome({}, {"maps": colors.expand(3, 3, 4, 4)}))
    figure = hqs_curve.draw(case)
    assert figure is not None
    hqs, *pictures, success = figure.axes[:1] + figure.axes[2:] + figure.axes[1:2]
    assert hqs.get_title(loc="left") == f"“{case.ablation_prompts[1]}”"
    assert hqs.lines[0].get_ydata() == pytest.approx([0.2] * STEPS)
    assert success.lines[0].get_ydata() == pytest.approx(RISING)
    assert len(pictures) == 2 * STEPS  # maps and edits
    assert all(axes.images[0].get_array().min() == 1 for axes in pictures)


def test_both_measures_and_the_timesteps_are_named_at_their_axes(case: Case) -> None:
    train(case, 0, RISING, ALIKE)
    figure = hqs_curve.draw(case)
    assert figure is not None
    hqs, success = figure.axes[:2]
    assert hqs.get_xlabel() == "timestep t" and hqs.get_ylabel() == "HQS"
    assert "success" in success.get_ylabel()
    assert hqs.get_xticks().tolist() == hqs_study.timesteps_of(case)


def test_of_equal_prompts_and_of_unmeasured_ones_the_first_is_shown(case: Case) -> None:
    assert hqs_curve.shown_prompt(case) == 0
    train(case, 0, RISING, RISING[::-1])
    assert hqs_curve.shown_prompt(case) == 0


def test_the_first_seed_that_is_measured_decides(case: Case) -> None:
    train(case, 1, RISING, ALIKE)
    assert hqs_curve.shown_prompt(case) == 0
    train(case, 0, ALIKE, FALLING)
    assert hqs_curve.shown_prompt(case) == 1


def test_gradients_of_any_prompt_that_may_be_shown_are_measured(case: Case) -> None:
    units = hqs_curve.units(case)
    assert len({unit.digest for unit in units}) == len(case.ablation_prompts)
    outcome = units[1].run()
    assert outcome.strips["maps"].shape[:2] == (STEPS, 3)
