from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_domain import W_DIM, write_tiny_domain

from sdd_fast.domains import Domain, load_domain
from sdd_fast.models import LevelsMapper
from sdd_fast.report.showcase import (
    before_after,
    milliseconds_per_edit,
    training_figure,
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Domain:
    return load_domain(write_tiny_domain(tmp_path_factory.mktemp("domain") / "d", tiny_sd))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Domain:
    folder = tmp_path_factory.mktemp("domain") / "d"
    return load_domain(write_tiny_domain(folder, tiny_sd, faces=False))


def mapper() -> LevelsMapper:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return LevelsMapper(8, W_DIM, ["coarse", "medium"], zero_init=False).requires_grad_(False)


def test_grid_rows(faces: Domain, plain: Domain) -> None:
    assert faces.reader is not None
    pictures = faces.reader.sample_images(faces, 3)
    full, fidelity = before_after(
        faces, mapper(), 1.0, title="t", pictures=pictures, strengths=(-1.0, 1.0)
    )
    with torch.no_grad():
        drawn = faces.generator.synthesis(faces.encoder(pictures)).clamp(-1, 1)
    error = ((drawn - pictures).double() ** 2).flatten(1).mean(1)
    want = float((10 * torch.log10(4 / error)).mean())
    assert fidelity == pytest.approx(want, abs=1e-3)
    bare, nothing = before_after(
        plain, mapper(), 1.0, title="t", pictures=None, strengths=(-1.0, 1.0), count=3
    )
    assert nothing is None
    # One row less: there is no input picture. Cells are 4 × 32 pixels.
    assert full.height - bare.height > 100
    assert milliseconds_per_edit(faces, mapper(), 1.0, batch=2) > 0


def test_training_figure_copes_with_what_is_there() -> None:
    assert training_figure([{"step": 1, "residual": 1.0}]) is None
    history = [
        {"step": 10, "residual": 2.0, "l2": 0.0},
        {"step": 20, "residual": 1.0, "l2": 0.0, "edit_size": 0.1, "peak_change": 0.2},
    ]
    figure = training_figure(history)
    left, right = figure.axes
    (line,) = left.lines  # l2 was zero all along: there is nothing to show of it
    assert line.get_xdata().tolist() == [10, 20] and line.get_ydata().tolist() == [1.0, 0.5]
    (line,) = right.lines
    assert line.get_ydata().tolist() == [0.2]


def test_an_entry_of_few_steps_is_joined_to_the_next() -> None:
    history = [
        {"step": 10, "residual": 4.0},
        {"step": 20, "residual": 2.0},
        {"step": 21, "residual": 1.0, "edit_size": 0.1},  # one step, logged for the monitor
        {"step": 30, "residual": 2.0},
    ]
    (line,) = training_figure(history).axes[0].lines
    assert line.get_xdata().tolist() == [10, 20, 30]
    assert line.get_ydata().tolist() == pytest.approx([1.0, 0.5, (1 * 1 + 9 * 2) / 10 / 4])
