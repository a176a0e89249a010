"""Many pictures on one sheet: bands of columns, each picture above what was made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor

from ..grid import grid

ACROSS = 8  # pictures in a band
CELL = 192  # side of a picture on the sheet in pixels


def contact_sheet(rows: Mapping[str, Tensor], captions: Sequence[str], title: str) -> Image.Image:
    """A sheet of N pictures in bands of eight.

    Args:
        rows: label → [N, 3, H, W] in [-1, 1]: what is shown of each picture, one above the other.
        captions: N texts above the pictures.
        title: a line above everything.

    Raises:
        ValueError: no picture, or as many captions or pictures in a row as there are not.
    """
    counts = {len(captions), *(len(row) for row in rows.values())}
    if len(counts) != 1 or not captions:
        raise ValueError(f"expected rows of N pictures and N captions, N ≥ 1, got {sorted(counts)}")
    bands = []
    for start in range(0, len(captions), ACROSS):
        part = slice(start, start + ACROSS)
        band = grid(
            [row[part] for row in rows.values()],
            row_labels=list(rows),
            column_labels=captions[part],
            title=title if start == 0 else None,
            cell=CELL,
        )
        bands.append(band)
    size = (max(band.width for band in bands), sum(band.height for band in bands))
    sheet, top = Image.new("RGB", size, "white"), 0
    for band in bands:
        sheet.paste(band, (0, top))
        top += band.height
    return sheet
