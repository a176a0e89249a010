"""Tables: one content as Markdown, CSV and JSON; what is not there is said to be not measured."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from sdd_fast.evidence.table import Column, Table
from sdd_fast.metrics.interval import Interval


def interval(estimate: float, low: float, high: float) -> Interval:
    return Interval(estimate, low, high, 0.95, "by hand", 10)


TABLE = Table(
    "t",
    "A table",
    [
        Column("name", "editor"),
        Column("success", "success", ".2f", best="high"),
        Column("error", "error", ".2f", best="low"),
        Column("images", "images"),
    ],
    [
        {"name": "a", "success": interval(0.5, 0.4, 0.6), "error": 0.25, "images": 1200},
        {"name": "b", "success": interval(0.75, 0.7, 0.8), "error": None},
        {"name": "c", "success": 0.9, "error": 0.125, "images": "none"},
    ],
    notes=["Of ten images."],
    ranked=[0, 1],
)


def test_markdown_shows_intervals_the_best_and_what_is_not_measured() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[0] == "| editor | success | error | images |"
    assert lines[2] == "| a | 0.50 [0.40, 0.60] | 0.25 | 1,200 |"
    assert lines[3] == "| b | **0.75 [0.70, 0.80]** | not measured | not measured |"
    assert lines[4] == "| c | 0.90 | 0.12 | none |"  # not ranked
    assert lines[-1] == "Of ten images."


def test_csv_and_json_keep_all_digits_and_the_ends_of_intervals(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert rows[0] == {
        "name": "a", "success": "0.5", "success_low": "0.4", "success_high": "0.6",
        "error": "0.25", "images": "1200",
    }  # fmt: skip
    assert rows[1]["error"] == "" and rows[2]["success"] == "0.9"
    TABLE.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.json", "t.md"]
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["rows"][0]["success"]["low"] == 0.4 and content["rows"][1]["error"] is None
