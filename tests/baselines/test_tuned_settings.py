"""The defaults are what the search of settings found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tune_baselines import PROMPTS, RESULTS, search_of


def recorded() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return content


def test_the_best_settings_of_the_search_are_the_defaults() -> None:
    """Of a search that is finished, no value next to the best is better."""
    searched = recorded()["baselines"]
    assert "sdedit-solver" in searched
    for name, found in searched.items():
        best = max(found["trials"], key=lambda trial: float(trial["score"]))
        search = search_of(name)
        assert search.start == found["best"] == best["settings"]
        assert search.fixed == found["fixed"]
        tried = [trial["settings"] for trial in found["trials"]]
        around = [other in tried for other in search.neighbors(found["best"])]
        assert all(around) or not found["finished"]


@pytest.mark.parametrize("name", ["sdedit", "sdedit-solver", "ddib", "edit-friendly", "ledits"])
def test_a_search_can_start_from_the_defaults(name: str) -> None:
    search = search_of(name)
    assert len(list(search.neighbors(search.start))) >= len(search.start)


def test_scores_follow_from_success_and_others_kept() -> None:
    for found in recorded()["baselines"].values():
        for trial in found["trials"]:
            products = [one["success"] * one["kept"] for one in trial["prompts"].values()]
            assert trial["score"] == pytest.approx(sum(products) / len(products), abs=1e-5)
            assert list(trial["prompts"]) == list(PROMPTS)
