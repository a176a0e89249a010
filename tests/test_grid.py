"""Labeled grids of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdd_fast.grid import LONGEST_LABEL, grid
from sdd_fast.images import to_pil


def test_grid_places_every_picture_enlarged() -> None:
    torch.manual_seed(0)
    before, after = torch.rand(2, 3, 3, 64, 64) * 2 - 1
    plain = grid([before, after], resample="nearest")
    labeled = grid(
        [before, after],
        row_labels=["before", "a face with white hair and a rather long description"],
        column_labels=["one", "two", "three"],
        title="White hair, λ = 0.1",
        resample="nearest",
    )
    assert labeled.width > plain.width and labeled.height > plain.height
    for sheet in (plain, labeled):
        pixels = np.asarray(sheet)
        for row in (before, after):
            for image in row:
                big = np.asarray(to_pil(image)).repeat(3, 0).repeat(3, 1)
                assert _contains(pixels, big)
    # The labels are ink on white paper, left of and above the pictures.
    assert (np.asarray(labeled)[:, :20] < 128).sum() == 0
    assert (np.asarray(labeled)[:, 20 : labeled.width - plain.width] < 128).sum() > 100


def _contains(sheet: np.ndarray, part: np.ndarray) -> bool:
    rows, columns = np.nonzero((sheet == part[0, 0]).all(axis=2))
    for y, x in zip(rows, columns, strict=True):
        if np.array_equal(sheet[y : y + part.shape[0], x : x + part.shape[1]], part):
            return True
    return False


def test_grid_of_unequal_rows_and_its_errors() -> None:
    sheet = grid([torch.zeros(1, 3, 16, 16), torch.zeros(3, 3, 16, 16)], cell=32)
    assert sheet.width > 3 * 32
    for rows in ([], torch.zeros(1, 0, 3, 8, 8)):
        with pytest.raises(ValueError, match="at least one picture"):
            grid(rows)
    with pytest.raises(ValueError, match=r"\[C, 3, H, W\], got \[3, 8, 8\]"):
        grid([torch.zeros(3, 8, 8)])
    one = [torch.zeros(2, 3, 8, 8)]
    with pytest.raises(ValueError, match="1 row labels"):
        grid(one, row_labels=["a", "b"])
    with pytest.raises(ValueError, match="2 column labels"):
        grid(one, column_labels="ab")
    with pytest.raises(ValueError, match="lanczos"):
        grid(one, resample="cubic")


def test_of_long_labels_the_beginning_is_drawn() -> None:
    one = torch.zeros(1, 1, 3, 64, 64)
    for text in ("a red car " * 10_000, "x" * 100_000):
        begins = text[: LONGEST_LABEL - 1] + "…"
        for where in ("row_labels", "column_labels"):
            drawn = grid(one, title=text, **{where: [text]})  # type: ignore[arg-type]
            same = grid(one, title=begins, **{where: [begins]})  # type: ignore[arg-type]
            assert np.array_equal(np.asarray(drawn), np.asarray(same))
            assert drawn.height < 5000
