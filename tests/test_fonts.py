"""Texts of any script in pictures: drawn, or named, never boxes."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from sdd_fast import fonts
from sdd_fast.fonts import legible, pillow_font
from sdd_fast.grid import grid, wrap
from sdd_fast.report.showcase import training_figure
from sdd_fast.selection.plot import hqs_figure


@pytest.fixture(autouse=True)
def only_dejavu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "families", lambda: ("DejaVu Sans",))


def test_characters_without_a_glyph_are_named() -> None:
    assert legible("λ ≥ ξ − “a”…\nold") == "λ ≥ ξ − “a”…\nold"
    assert legible("a 🚀 face") == "a [rocket] face"
    assert legible("笑") == r"\u7b11"
    font = pillow_font("笑", 20)
    assert wrap("笑 old", font, 400) == r"\u7b11 old"


def test_an_installed_font_that_has_all_of_a_text_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the fonts that matplotlib carries, STIX has a letter that DejaVu has not.
    monkeypatch.setattr(fonts, "families", lambda: ("DejaVu Sans", "STIXGeneral"))
    assert "STIX" in pillow_font("an old \u1d8e", 20).path
    assert "DejaVu" in pillow_font("an old", 20).path
    assert legible("\u1d8e") == "\u1d8e"


@pytest.mark.parametrize(
    "prompt", ["笑顔の人 🚀 " * 9, "an old face with white hair " * 9, "x" * 280]
)
def test_titles_of_any_length_and_script(tmp_path: Path, prompt: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = hqs_figure(
            [100, 200],
            torch.rand(3, 2),
            [-1, 1],
            [0, 1],
            [1, 0],
            chosen=[200],
            prompt=prompt,
            note="signed",
        )
        figure.savefig(tmp_path / "curve.png")
        grid(torch.zeros(1, 2, 3, 8, 8), title=prompt, row_labels=[prompt])
    figure.draw_without_rendering()
    title = figure.axes[0]._left_title.get_window_extent()
    assert figure.bbox.x0 <= title.x0 and title.x1 <= figure.bbox.x1 and title.y1 <= figure.bbox.y1


def test_no_legend_lies_on_a_curve() -> None:
    history = [
        {"step": s, "residual": 1.0, "l2": 1.0, "edit_size": 0.1, "peak_change": 0.5,
         "direction": 0.5, "identity": 0.5}
        for s in (10, 20)
    ]  # fmt: skip
    scores = torch.rand(3, 2)
    curve = hqs_figure([1, 2], scores, [-1, 1], [0, 1], [1, 0], chosen=[2], prompt="p", note="n")
    for figure in (training_figure(history), curve):
        figure.draw_without_rendering()
        legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
        assert legends
        for legend in legends:
            box = legend.get_window_extent()
            assert not any(box.overlaps(axes.patch.get_window_extent()) for axes in figure.axes)
