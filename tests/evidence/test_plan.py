"""How much is measured, and by which settings of other editors."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

from sdd_fast.baselines import BASELINES
from sdd_fast.domains import Domain
from sdd_fast.evidence import case
from sdd_fast.evidence.case import Case
from sdd_fast.evidence.editing import editing, settings_of
from sdd_fast.evidence.plan import AMOUNTS, QUICK_SETTINGS, Plan
from sdd_fast.evidence.store import Store


@pytest.mark.parametrize("name", QUICK_SETTINGS)
def test_a_quick_plan_takes_less_of_editors_than_their_defaults(name: str) -> None:
    arguments = inspect.signature(BASELINES[name]).parameters
    amounts = {key: value for key, value in QUICK_SETTINGS[name].items() if key in AMOUNTS}
    assert amounts
    for setting, value in amounts.items():
        assert value < arguments[setting].default


def test_settings_of_a_plan_make_other_units_and_those_of_none_the_same(
    tiny: Domain, tmp_path: Path
) -> None:
    plain, quick, changed = (
        Case(tiny, Plan(name=name, settings=settings), Store(tmp_path))
        for name, settings in (
            ("full", {}), ("other", {"ddib": {"steps": 3}}), ("full", {"sdedit": {"level": 0.5}}),
        )
    )  # fmt: skip
    prompt = plain.prompts[0]
    assert settings_of(changed, "sdedit") == settings_of(plain, "sdedit") | {"level": "0.5"}
    digests = [editing(case, "sdedit", prompt).digest for case in (plain, quick, changed)]
    assert digests[0] == digests[1] != digests[2]


def test_units_are_of_the_texts_latents_defaults_and_threads_that_they_depend_on(
    tiny: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = Case(tiny, Plan(), Store(tmp_path)).prompts[0]

    def digest() -> str:
        return editing(Case(tiny, Plan(), Store(tmp_path)), "ours", prompt).digest

    found = [digest()]
    with monkeypatch.context() as changed:
        changed.setattr(case, "DistillConfig", lambda: "another default")
        found.append(digest())
    with monkeypatch.context() as changed:
        changed.setattr(torch, "get_num_threads", lambda: 77)
        found.append(digest())
    for owner, name, value in (
        (tiny, "guidance_rms", {prompt: 0.5}), (type(tiny), "w_plus", tiny.w_plus + 1),
    ):  # fmt: skip
        with monkeypatch.context() as changed:
            changed.setattr(owner, name, value)
            found.append(digest())
    assert len(set(found)) == len(found) == 5 and digest() == found[0]
