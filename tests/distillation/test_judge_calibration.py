"""The judge of edits that were distilled to calibrate it, see tools/calibrate_judge.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdd_fast.distillation.judge import judge
from sdd_fast.domains import load_domain

ROOT = Path(__file__).resolve().parents[2]
CALIBRATION = json.loads((ROOT / "benchmarks" / "judge-faces64.json").read_text("utf-8"))


@pytest.mark.parametrize("edit", CALIBRATION["edits"], ids=lambda edit: edit["prompt"])
def test_edits_that_work_are_good_and_others_are_not(edit: dict[str, Any]) -> None:
    limit = load_domain("faces64").spec.direction_above
    assert limit == CALIBRATION["direction_above"]
    measured = {"edit_size": 0.1, **edit, "direction_above": limit}  # no judgment is by the size
    verdict = judge(measured, None, edit["unknown_words"])
    assert verdict.code == edit["verdict"]
    assert (verdict.level == "good") == (edit["kind"] == "good")


def test_the_limit_is_of_the_domain_as_it_was_measured(tmp_path: Path) -> None:
    """With another CLIP, generator or teacher nothing is known of directions."""
    domain = load_domain("faces64")
    assert load_domain(domain.spec.to_json()).spec.direction_above == domain.spec.direction_above
    other = load_domain("faces64", clip=domain.path("clip"))
    assert other.spec.direction_above is None
