"""Settings of other editors from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdd_fast.domains import Domain
from sdd_fast.evidence.paper import checked
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
        ({"note": " ", "settings": {}}, "a line of text is expected, got ' '"),
        ({"note": "a\nb", "settings": {}}, "a line of text is expected"),
        ({"note": "x", "settings": {"sdedit": 3}}, "holds no settings of editors; expected"),
        ({"note": "x", "settings": {"magic": {}}}, "unknown editor 'magic'; there are: sdedit"),
        (
            {"note": "x", "settings": {"sdedit": {"path": "x"}}},
            "sdedit has no setting .path.; it has: .*steps, level, guidance_scale",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(written(tmp_path / "s.json", content))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sdedit", {"level": 7}, "settings of sdedit cannot be used: level must be 0 to 1"),
        ("styleclip-direction", {"threshold": None}, "styleclip-direction cannot be used: thresh"),
        ("delta-denoising", {"timesteps": (5000,)}, "settings of delta-denoising cannot be used: "),
        (
            "delta-denoising",
            {"timesteps": ("late",)},
            "settings of delta-denoising cannot be used: ",
        ),
    ],
)
def test_values_that_an_editor_refuses_are_told_before_any_work(
    tiny: Domain, tmp_path: Path, name: str, settings: dict[str, Any], message: str
) -> None:
    plan = Plan.quick(settings={name: settings}, methods=(name,))
    with pytest.raises(ValueError, match=message):
        checked(tiny, tmp_path / "out", plan)
    assert not (tmp_path / "out").exists()


def test_an_editor_that_the_domain_cannot_have_is_no_fault_of_its_settings(
    tiny: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny), "encoder", None)
    plan = Plan.quick(settings={"delta-denoising": {"steps": 2}}, methods=("delta-denoising",))
    checked(tiny, tmp_path / "out", plan)
