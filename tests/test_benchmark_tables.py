"""The tables in docs/benchmarks.md and README.md are those of the committed results."""

from __future__ import annotations

from pathlib import Path

import tables
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
    table = tables.readme_table(ROOT / "benchmarks" / "results" / tables.README_DEVICE)
    assert tables.with_table(readme, table) == readme, FIX


def test_only_what_is_between_the_marks_is_replaced() -> None:
    old = f"before\n{tables.BEGIN}old\n{tables.END}\nafter\n"
    assert tables.with_table(old, "new\n") == f"before\n{tables.BEGIN}new\n{tables.END}\nafter\n"
