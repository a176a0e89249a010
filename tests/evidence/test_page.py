"""What the page says of settings: which are searched, where, and which SDD has for a prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdd_fast.domains import Domain
from sdd_fast.evidence.case import Case
from sdd_fast.evidence.page import command_of, described, write_page
from sdd_fast.evidence.paper import origin_of, tables_of
from sdd_fast.evidence.plan import Plan
from sdd_fast.evidence.store import Store


def page_of(case: Case, path: Path) -> str:
    write_page(path, case, tables_of(case), [], [(origin_of(case.domain), 3)], {})
    return " ".join(path.read_text().split())


def test_a_page_tells_by_which_command_and_where_its_figures_were_measured(
    tiny: Domain, tmp_path: Path
) -> None:
    plan = Plan(images=50, prompts=2, ablation_seeds=1, methods=("sdedit", "ddib"))
    case = Case(tiny, plan, Store(tmp_path / "units"))
    words = "-m 50 --prompts 2 --seeds 1 --methods sdedit,ddib"
    assert command_of(case) == f"sdd bench paper --domain tiny {words}"
    now, old = origin_of(tiny), {**origin_of(tiny), "torch": "2.0"}
    path = tmp_path / "results.md"
    write_page(path, case, tables_of(case), [], [(now, 3)], {})
    text = path.read_text()
    assert f"--methods sdedit,ddib`\non {now['device']}; sdd_fast {now['sdd_fast']}, torch " in text
    assert "different origin" not in text
    write_page(path, case, tables_of(case), [], [(now, 3), (old, 2), ({}, 1)], {})
    text = " ".join(path.read_text().split())
    assert "measurements of different origin: 3 on cpu" in text and "; 2 on cpu" in text
    assert "torch 2.0" in text and "1 on what and by which versions is not told." in text
    write_page(path, case, tables_of(case), [], [], {})
    assert "different origin" not in path.read_text()


def test_a_page_tells_whether_settings_were_searched_in_its_domain(
    tiny: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tiny, Plan.quick(methods=("sdedit",)), Store(tmp_path / "units"))
    ours, sdedit = described(case)
    assert ours["searched"] == "none" and sdedit["searched"] == "level, guidance_scale"
    page = page_of(case, tmp_path / "results.md")
    assert "in this domain they were not searched" in page and "of its own" not in page
    searched = replace(case.plan, settings_note="the best of a search")
    page = page_of(replace(case, plan=searched), tmp_path / "results.md")
    assert "--settings FILE" in page and "with `--settings`: the best of a search." in page
    assert "not searched" not in page and "trained by `sdd bench train`" not in page
    named: dict[str, Any] = {case.prompts[0]: 1.6, "an old dog": 9.0}
    monkeypatch.setattr(tiny, "guidance_rms", named)
    monkeypatch.setattr(tiny, "name", "faces64")
    page = page_of(case, tmp_path / "results.md")
    assert "not searched" not in page
    assert f"(`guidance_rms`): “{case.prompts[0]}” 1.6. Other" in page and "old dog" not in page
