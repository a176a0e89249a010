"""The tables in docs/benchmarks.md and README.md are those of the committed results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import op_tables
import tables
import turn_tables
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FIX = "run: python benchmarks/tables.py"


def test_the_page_is_that_of_the_results() -> None:
    assert (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8") == tables.page(), FIX


def test_the_pictures_are_those_of_the_results() -> None:
    drawn = tables.pictures(tables.results())
    assert drawn
    for one in drawn:
        there = Image.open(tables.IMAGES / one.file)
        assert there.info["Description"] == one.digest, FIX
        assert f"(images/{one.file})" in tables.page()


def test_the_readme_shows_the_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = tables.readme_table(ROOT / "benchmarks" / "results")
    assert tables.with_table(readme, table) == readme, FIX


def test_only_what_is_between_the_marks_is_replaced() -> None:
    old = f"before\n{tables.BEGIN}old\n{tables.END}\nafter\n"
    assert tables.with_table(old, "new\n") == f"before\n{tables.BEGIN}new\n{tables.END}\nafter\n"


def row_of_a_gpu(case: str) -> dict[str, Any]:
    sides = {side: dict.fromkeys(("median_ms", "p20_ms", "p80_ms"), ms)
             for side, ms in (("ours", 2.0), ("eager", 3.0))}  # fmt: skip
    return {"case": case, "sides": sides, "missing": {}, "peak_mib": {}, "limit": "bandwidth",
            "roofline_ms": 1.0}  # fmt: skip


def test_what_a_later_run_took_stands_beside_the_first() -> None:
    result = {"cases": [row_of_a_gpu("large"), row_of_a_gpu("small")]}
    later = {"share": 0.8, "share_of": "bandwidth", "ratios": {"eager": 4.0}}
    again = [{"case": "large", "ours_ms": 1.25, **later}, {"case": "new", "ours_ms": 7.5, **later}]
    head, _, large, small, new = op_tables.gpu_table(result, again)
    assert head.endswith("| memory | again |")
    assert large == "| large | 2 [2, 2] | 50%, bandwidth | 1.5× | 0 | 1.25, 80% |"
    assert small.endswith("| 0 | – |")
    assert new == "| new | – | – | 4.0× | – | 7.5, 80% |"
    assert "again" not in op_tables.gpu_table(result)[0]


def test_the_page_tells_every_row_that_was_run_again() -> None:
    folder = ROOT / "benchmarks" / "results" / tables.README_GPU
    page = tables.page()
    rows = op_tables.beside(folder, "again")["rows"]
    assert rows
    for row in rows:
        lines = [line for line in page.splitlines() if line.startswith(f"| {row['case']} |")]
        assert any(line.endswith(f"| {op_tables.printed(row)} |") for line in lines), row


def test_ratios_refer_to_the_first_side_of_ours_that_was_measured() -> None:
    def head_and_first(**ms: float) -> tuple[str, str]:
        sides = {side: dict.fromkeys(("median_ms", "p20_ms", "p80_ms"), value)
                 for side, value in ms.items()}  # fmt: skip
        row = {"case": "a step", "sides": sides, "samples_s": {side: [1.0] for side in ms},
               "peak_gb": {}}  # fmt: skip
        head, _, first, *_ = turn_tables.selection_table(row)
        return head, first

    by_kernel = {"ours, default settings, kernel by kernel": 20.0}
    head, first = head_and_first(tuned=30.0, **by_kernel)
    assert "| vs ours, default settings, kernel by kernel |" in head and "| 1.50× |" in first
    head, first = head_and_first(tuned=30.0, **by_kernel, **{"ours, default settings": 10.0})
    assert "| vs ours, default settings |" in head and "| 3.00× |" in first
