"""The search of settings: it climbs, and one that was stopped goes on."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from tune_baselines import PROMPTS, Search, judge, measure, search_of, tune

import sdd_fast as sdd
from sdd_fast.baselines import BASELINES
from sdd_fast.domains import Domain
from sdd_fast.domains.faces64.edits import EDITS
from sdd_fast.domains.faces64.held_out import faces_without
from sdd_fast.domains.faces64.renderer import render


def test_neighbors_differ_in_one_setting_by_one_value() -> None:
    search = Search({"level": (0.0, 0.5, 1.0), "steps": (2, 4)}, {})
    assert list(search.neighbors({"level": 0.5, "steps": 2})) == [
        {"level": 0.0, "steps": 2}, {"level": 1.0, "steps": 2}, {"level": 0.5, "steps": 4},
    ]  # fmt: skip


def test_every_search_begins_at_the_defaults_or_beside_them() -> None:
    for name, kind in BASELINES.items():
        search = search_of(name)
        for setting, value in search.start.items():
            default = inspect.signature(kind).parameters[setting].default
            assert value == default or default not in kind.GRID[setting]
        assert len(list(search.neighbors(search.start))) >= len(search.values) > 0, name


def test_a_search_climbs_and_one_that_was_stopped_goes_on(
    tiny: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, prompts = tmp_path / "found.json", ["a bald face"]
    search = Search({"level": (0.0, 0.2, 0.4, 0.6, 0.8)}, {"level": 0.2}, {"steps": 5})
    asked: list[float] = []

    def measured(domain: Domain, name: str, settings: Any, shown: Any) -> dict[str, Any]:
        assert settings["steps"] == 5 and len(shown["a bald face"]) == 2
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(settings["level"])
        return {"score": -abs(settings["level"] - 0.55)}

    monkeypatch.setattr("tune_baselines.measure", measured)
    with pytest.raises(KeyboardInterrupt):
        tune(tiny, "sdedit", search, path, prompts, faces=2)
    assert asked == [0.2, 0.0, 0.4]
    asked.clear()
    assert tune(tiny, "sdedit", search, path, prompts, faces=2) == {"level": 0.6}
    assert asked == [0.6, 0.8]
    found = json.loads(path.read_text(encoding="utf-8"))["baselines"]["sdedit"]
    assert found["best"] == {"level": 0.6} and found["fixed"] == {"steps": 5}
    assert [trial["settings"]["level"] for trial in found["trials"]] == [0.2, 0.0, 0.4, 0.6, 0.8]
    with pytest.raises(ValueError, match=r"is of other trials \(faces\); delete it"):
        tune(tiny, "sdedit", search, path, prompts, faces=3)
    finer = Search(search.values, search.start, {"steps": 50})
    with pytest.raises(ValueError, match=r"trials of sdedit with {'steps': 5}, not with .*50"):
        tune(tiny, "sdedit", finer, path, prompts, faces=2)


def test_a_trial_edits_the_faces_of_every_prompt(tiny: Domain) -> None:
    shown = {prompt: faces_without(*EDITS[prompt], 2, seed=1) for prompt in PROMPTS}
    settings = {"steps": 4, "level": 0.5, "guidance_scale": 3.0}
    trial = measure(tiny, "sdedit", settings, shown)
    assert trial["unet_rows"] == 4 and list(trial["prompts"]) == list(PROMPTS)


def test_drawing_the_target_scores_and_drawing_another_face_does_not() -> None:
    """By the classifier of faces64, whose own errors are a few percent."""
    domain = sdd.load_domain("faces64")
    people = faces_without("beard", ("yes",), 32, seed=7)
    wanted = render(people.with_labels(beard="yes"), 64)
    images = render(people, 64)
    success, kept = judge(domain, images, wanted, people, "a face with a beard")
    assert success > 0.95 and kept > 0.93
    success, kept = judge(domain, images, images, people, "a face with a beard")
    assert success < 0.05 and kept > 0.93
    success, kept = judge(domain, images, wanted.roll(1, 0), people, "a face with a beard")
    assert success > 0.95 and kept < 0.7
