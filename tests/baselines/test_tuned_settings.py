"""The defaults are what the search of settings in faces64 found; the file of another domain is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import choose_guidance
import pytest
from tune_baselines import PROMPTS, best_of, results_of, search_of, settings_of

from sdd_fast.baselines import BASELINES, TRAINED
from sdd_fast.domains import load_domain
from sdd_fast.evidence.settings import with_tuples

ENDS = {
    ("skip", 0.0), ("level", 1.0), ("steps", 1), ("prior_weight", 0.0), ("identity_weight", 0.0),
    ("threshold", 0.0),  # there is no further
    ("guidance_scale", 1.0),  # the prompt alone
    ("guidance_scale", None),  # balanced: another kind of scale
}  # fmt: skip
"""Settings that may be best at the end of their grid."""


def recorded(domain: str = "faces64") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(results_of(domain).read_text(encoding="utf-8"))
    return content


def as_json(settings: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(settings))


def test_the_best_settings_of_the_search_are_the_defaults() -> None:
    searched = recorded()["baselines"]
    assert "sdedit-solver" in searched
    for name, found in searched.items():
        assert as_json(search_of(name).start) == found["best"]


def test_the_settings_of_every_editor_were_searched_to_the_end() -> None:
    searched = recorded()["baselines"]
    assert set(searched) == {*BASELINES, *TRAINED}
    assert all(found["finished"] for found in searched.values())


@pytest.mark.parametrize("domain", PROMPTS)
def test_no_value_next_to_the_best_of_a_finished_search_is_better(domain: str) -> None:
    for name, found in recorded(domain)["baselines"].items():
        best = max(found["trials"], key=lambda trial: float(trial["score"]))
        assert found["best"] == best["settings"]
        tried = [trial["settings"] for trial in found["trials"]]
        best_known = with_tuples(found["best"])
        around = [as_json(other) in tried for other in search_of(name).neighbors(best_known)]
        assert all(around) or not found["finished"]


def test_no_strength_of_our_guidance_is_better_than_that_of_fashion32() -> None:
    trials = json.loads(choose_guidance.RESULTS.read_text(encoding="utf-8"))["prompts"]
    domain = load_domain("fashion32")
    assert list(trials) == list(domain.guidance_rms)
    for prompt, its in trials.items():
        scores = {trial["guidance_rms"]: trial["score"] for trial in its}
        assert list(scores) == list(choose_guidance.VALUES)
        assert scores[domain.guidance_rms[prompt]] == max(scores.values())


@pytest.mark.parametrize("domain", PROMPTS)
def test_a_finished_search_did_not_stop_at_the_end_of_a_grid(domain: str) -> None:
    for name, found in recorded(domain)["baselines"].items():
        for setting, value in with_tuples(found["best"]).items() if found["finished"] else ():
            values = {**BASELINES, **TRAINED}[name].GRID[setting]
            at_end = value in (values[0], values[-1]) and len(values) > 2
            assert not at_end or (setting, value) in ENDS, (name, setting, value)


def test_the_settings_of_another_domain_are_the_best_that_were_found_in_it() -> None:
    path = settings_of("fashion32")
    assert json.loads(path.read_text(encoding="utf-8")) == best_of(results_of("fashion32"))


@pytest.mark.parametrize("name", ["sdedit", "sdedit-solver", "ddib", "edit-friendly", "ledits"])
def test_a_search_can_start_from_the_defaults(name: str) -> None:
    search = search_of(name)
    assert len(list(search.neighbors(search.start))) >= len(search.start)


@pytest.mark.parametrize("domain", PROMPTS)
def test_scores_follow_from_success_and_others_kept(domain: str) -> None:
    for found in recorded(domain)["baselines"].values():
        for trial in found["trials"]:
            products = [one["success"] * one["kept"] for one in trial["prompts"].values()]
            assert trial["score"] == pytest.approx(sum(products) / len(products), abs=1e-5)
            assert list(trial["prompts"]) == list(PROMPTS[domain])
