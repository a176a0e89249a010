"""The search of settings: it climbs, and one that was stopped goes on."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from tune_baselines import (
    PROMPTS,
    Search,
    Shown,
    best_of,
    judge,
    measure,
    search_of,
    shown_in,
    tune,
)

import sdd_fast as sdd
from sdd_fast.baselines import BASELINES
from sdd_fast.baselines.trained import TrainedFolder
from sdd_fast.domains import Domain
from sdd_fast.domains.embedded import find_weights
from sdd_fast.domains.faces64.held_out import faces_without
from sdd_fast.domains.faces64.renderer import render
from sdd_fast.evidence.settings import read_settings
from sdd_fast.evidence.subject import subject_of
from sdd_fast.files import write_json


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
    search = Search({"level": (0.0, 0.2, 0.4, 0.6, 0.8)}, {"level": 0.2})
    asked: list[float] = []

    def measured(domain: Domain, name: str, settings: Any, shown: Any) -> dict[str, Any]:
        assert len(shown["a bald face"].images) == 2
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(settings["level"])
        return {"score": -abs(settings["level"] - 0.55)}

    monkeypatch.setattr("tune_baselines.measure", measured)
    with pytest.raises(KeyboardInterrupt):
        tune(tiny, "sdedit", search, path, prompts, images=2)
    assert asked == [0.2, 0.0, 0.4]
    asked.clear()
    assert tune(tiny, "sdedit", search, path, prompts, images=2) == {"level": 0.6}
    assert asked == [0.6, 0.8]
    found = json.loads(path.read_text(encoding="utf-8"))["baselines"]["sdedit"]
    assert found["best"] == {"level": 0.6}
    assert [trial["settings"]["level"] for trial in found["trials"]] == [0.2, 0.0, 0.4, 0.6, 0.8]
    with pytest.raises(ValueError, match=r"is of other trials \(images\); delete it"):
        tune(tiny, "sdedit", search, path, prompts, images=3)
    write_json(tmp_path / "settings.json", best_of(path))
    given = read_settings(tmp_path / "settings.json")
    assert given.settings == {"sdedit": {"level": 0.6}}
    assert "2 validation images of tiny for each of “a bald face” (`benchmarks/found" in given.note


def test_trials_with_another_network_or_other_fixed_settings_are_dropped(
    tiny: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, prompts, asked = tmp_path / "found.json", ["a bald face"], list[Any]()
    search = Search({"level": (0.5, 0.6)}, {"level": 0.5})

    def measured(domain: Domain, name: str, settings: Any, shown: Any) -> dict[str, Any]:
        asked.append(settings["level"])
        assert settings["path"] == tmp_path
        return {"score": settings["level"]}

    def trials(digest: str) -> list[Any]:
        asked.clear()
        network = TrainedFolder(tmp_path, {}, digest)
        tune(tiny, "few-step", search, path, prompts, images=2, network=network)
        return list(asked)

    monkeypatch.setattr("tune_baselines.measure", measured)
    assert (trials("a"), trials("a"), trials("b")) == ([0.5, 0.6], [], [0.5, 0.6])
    monkeypatch.setattr("tune_baselines.fixed_of", lambda name: {"steps": 7})
    assert trials("b") == [0.5, 0.6]
    found = json.loads(path.read_text(encoding="utf-8"))["baselines"]["few-step"]
    assert (found["network"], found["fixed"], len(found["trials"])) == ("b", {"steps": 7}, 2)


def test_settings_that_are_tuples_are_found_again_in_the_file(
    tiny: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, prompts, asked = tmp_path / "found.json", ["a bald face"], list[Any]()
    search = Search({"timesteps": ((1, 2), (3, 4))}, {"timesteps": (1, 2)})

    def measured(domain: Domain, name: str, settings: Any, shown: Any) -> dict[str, Any]:
        asked.append(settings["timesteps"])
        return {"score": float(settings["timesteps"][0])}

    monkeypatch.setattr("tune_baselines.measure", measured)
    for _ in range(2):
        assert tune(tiny, "sdedit", search, path, prompts, images=2) == {"timesteps": (3, 4)}
    assert asked == [(1, 2), (3, 4)]


def test_a_trial_edits_the_faces_of_every_prompt(tiny: Domain) -> None:
    prompts = PROMPTS["faces64"]
    shown = {prompt: shown_in(tiny, prompt, 2) for prompt in prompts}
    settings = {"steps": 4, "level": 0.5, "guidance_scale": 3.0}
    trial = measure(tiny, "sdedit", settings, shown)
    assert trial["unet_rows"] == 4 and list(trial["prompts"]) == list(prompts)


def test_drawing_the_target_scores_and_drawing_another_face_does_not() -> None:
    """By the classifier of faces64, whose own errors are a few percent."""
    domain = sdd.load_domain("faces64")
    people = faces_without("beard", ("yes",), 32, seed=7)
    wanted = render(people.with_labels(beard="yes"), 64)
    shown = Shown(("beard", ("yes",)), render(people, 64), people.labels)
    success, kept = judge(domain, shown, wanted)
    assert success > 0.95 and kept > 0.93
    success, kept = judge(domain, shown, shown.images)
    assert success < 0.05 and kept > 0.93
    success, kept = judge(domain, shown, wanted.roll(1, 0))
    assert success > 0.95 and kept < 0.7


@pytest.mark.skipif(not find_weights("fashion32").is_dir(), reason="fashion32 is not installed")
@pytest.mark.parametrize("prompt", PROMPTS["fashion32"])
def test_photographs_to_search_on_are_none_that_tables_show(prompt: str) -> None:
    domain = sdd.load_domain("fashion32")
    shown, measured = shown_in(domain, prompt, 32), subject_of(domain, prompt, 300)
    assert shown.target == measured.target and len(shown.images) == 32
    same = (shown.images[:, None] == measured.before[None]).flatten(2).all(2)
    assert not same.any()
    values = domain.reader.ATTRIBUTES[shown.target[0]]  # type: ignore[union-attr]
    (number,) = (values.index(value) for value in shown.target[1])
    assert not (shown.labels[shown.target[0]] == number).any()
