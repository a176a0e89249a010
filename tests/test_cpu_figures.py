"""benchmarks/cpu_figures.py: what is said of results, worked out by hand for made-up ones."""

from __future__ import annotations

import json
from pathlib import Path

import cpu_figures
import pytest


def row(case: str, moved: int, **median_ms: float) -> dict[str, object]:
    sides = {side: {"median_ms": time} for side, time in median_ms.items()}
    return {"case": case, "read": moved, "written": 0, "sides": sides}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    cases = [
        row("met", 100, ours=1, eager=12, compile=3, bandwidth=2),
        row("bare pass too slow", 300, ours=2, eager=6, bandwidth=1),
        row("ours too slow", 200, ours=2, eager=19.8, bandwidth=1),
        row("small", 0, ours=1, eager=0.9),
    ]
    text = json.dumps({"device": "a CPU", "cases": cases})
    (tmp_path / "bias_act.json").write_text(text, encoding="utf-8")
    return tmp_path


def test_rows_are_met_out_of_reach_or_missed(results: Path) -> None:
    ten, three, one = cpu_figures.reached(results)
    assert (ten.figure.side, ten.figure.least) == ("eager", 10)
    assert ten.met() == ["met"]
    assert ten.out_of_reach() == ["bare pass too slow"]  # 6 / 1 < 10
    assert ten.missed() == ["ours too slow", "small"]  # 9.9; most bytes first
    assert (three.figure.side, three.met(), three.missed()) == ("compile", ["met"], [])
    assert (one.figure.side, one.figure.least, one.missed()) == ("eager", 1, ["small"])


def test_the_table_names_what_is_missed(results: Path) -> None:
    head, _, ten, _, one = cpu_figures.table(results)
    assert head.count("|") == ten.count("|") == one.count("|")
    assert "| bias_act vs eager | ≥ 10× | 1 of 4 | 1 | ours too slow: 9.9×, small: 0.9× |" == ten
    assert one.endswith("| 3 of 4 | – | small: 0.90× |")


def test_suites_that_were_not_measured_are_left_out(tmp_path: Path) -> None:
    assert cpu_figures.reached(tmp_path) == []
