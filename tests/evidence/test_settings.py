"""Settings of other editors from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdd_fast.evidence.plan import QUICK_SETTINGS, Plan
from sdd_fast.evidence.settings import EditorSettings, read_settings


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_settings_are_read_and_lists_are_tuples(tmp_path: Path) -> None:
    settings = {"sdedit": {"level": 0.8}, "delta-denoising": {"timesteps": [400, 500]}}
    path = written(tmp_path / "s.json", {"note": "guessed", "settings": settings})
    found = read_settings(path)
    assert found.note == "guessed" and found.settings["sdedit"] == {"level": 0.8}
    assert found.settings["delta-denoising"] == {"timesteps": (400, 500)}


def test_a_quick_plan_keeps_its_few_steps_and_takes_the_rest() -> None:
    given = EditorSettings({"sdedit": {"level": 0.8, "steps": 50}, "few-step": {"steps": 2}}, "x")
    plan = Plan.quick().with_settings(given)
    quick = QUICK_SETTINGS["sdedit"]
    assert plan.settings["sdedit"] == {**quick, "level": 0.8} and quick["steps"] < 50
    assert plan.settings["few-step"] == {"steps": 2}
    assert plan.settings["ddib"] == QUICK_SETTINGS["ddib"]
    assert plan.settings_note == "x"
    assert Plan().with_settings(given).settings == given.settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no settings of editors; expected"),
        ({"settings": {}}, "holds no settings of editors; expected"),
        ({"note": 1, "settings": {}}, "holds no settings of editors; expected"),
        ({"note": "", "settings": {"sdedit": 3}}, "holds no settings of editors; expected"),
        ({"note": "", "settings": {"magic": {}}}, "unknown editor 'magic'; there are: sdedit"),
        (
            {"note": "", "settings": {"sdedit": {"path": "x"}}},
            "sdedit has no setting .path.; it has: .*steps, level, guidance_scale",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(written(tmp_path / "s.json", content))
