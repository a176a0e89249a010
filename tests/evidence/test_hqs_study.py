"""The study of HQS on made-up figures: which prompts have a rank correlation."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdd_fast.domains import Domain
from sdd_fast.evidence import hqs_study
from sdd_fast.evidence.case import Case
from sdd_fast.evidence.hqs_study import Measured
from sdd_fast.evidence.plan import Plan
from sdd_fast.evidence.store import Outcome, Store


def test_a_prompt_whose_success_is_the_same_everywhere_has_no_rank_and_is_named(
    tiny: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tiny, Plan.quick(resamples=50), Store(tmp_path))
    there = Measured([100, 500, 900], [[[0.1, 0.5, 0.2], [0.0, 0.0, 0.0]]])

    def measured(case: Case, gradients: str, measure: str) -> Measured | None:
        return there if gradients == "as they are" else None

    monkeypatch.setattr(hqs_study, "measured", measured)
    ranks = hqs_study._ranks(case, [[0.0, 1.0, 0.5]] * 2, there)
    assert not isinstance(ranks, str) and ranks.estimate == pytest.approx(1.0) and ranks.count == 1
    (told,) = hqs_study._without_rank(case)
    constant = case.ablation_prompts[1]
    assert f"all timesteps of “{constant}”" in told and case.ablation_prompts[0] not in told
    assert told in hqs_study.correlations(case).notes


def test_scores_are_tested_against_hqs_prompt_by_prompt(
    tiny: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tiny, Plan.quick(resamples=50), Store(tmp_path))
    hqs, entropy, l1 = hqs_study.variants(case)[:3]
    assert (hqs.name, entropy.score, l1.score) == ("HQS", "entropy alone", "L1 alone")
    rising, falling = [0.0, 0.5, 1.0], [1.0, 0.5, 0.0]
    scores = {"entropy and L1": rising, "entropy alone": falling, "L1 alone": rising}
    monkeypatch.setattr(hqs_study, "variants", lambda case: [hqs, entropy, l1])
    case.store.keep(hqs_study.curves(case, hqs), Outcome({"curves": [scores] * 8}))
    there = Measured([100, 500, 900], [[[0.1, 0.2, 0.3]] * 8, [[0.0, 0.4, 0.9]] * 8])
    p_values = hqs_study._against_hqs(case, there)
    assert p_values["L1 alone"] == 1.0  # the same order
    assert p_values["entropy alone"] == pytest.approx(2 * 2 * 0.5**8)  # all eight alike, of two
    eight = Case(tiny, case.plan, case.store)
    monkeypatch.setattr(type(eight), "ablation_prompts", tuple("abcdefgh"))
    (told,) = hqs_study._tested(eight, {"success": p_values})
    assert "as they are: “entropy alone” (p = 0.016) (" in told and "L1" not in told
    (told,) = hqs_study._tested(eight, {"success": {"L1 alone": 1.0}})
    assert "as they are: none (" in told
    many = {str(i): 1.0 for i in range(11)}
    (told,) = hqs_study._tested(eight, {"success_unit_rms": many})
    assert told.startswith("8 prompts are too few to tell any of 11 scores from HQS")
    assert "no p can be below 0.086" in told
