"""Labeled grids of pictures, as for before / after."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw

from .fonts import legible, pillow_font
from .images import to_pil

LONGEST_LABEL = 300
"""Characters of a label that are drawn: a prompt may be as long as its author likes."""

_INK, _FAINT, _PAPER = (32, 33, 36), (95, 99, 104), (255, 255, 255)


def grid(
    rows: Sequence[torch.Tensor] | torch.Tensor,
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
    cell: int | None = None,
    resample: str = "lanczos",
) -> Image.Image:
    """Draw a labeled grid of pictures, as for before / after.

    Args:
        rows: one [C, 3, H, W] tensor in [-1, 1] per row (or a tensor [R, C, 3, H, W]); rows may
            differ in length.
        row_labels: text left of each row, such as "before" and "white hair"; of this and the other
            texts the first `LONGEST_LABEL` characters are drawn.
        column_labels: text above each column.
        title: a line above everything.
        cell: width of a picture on the grid in pixels; default: the image's, enlarged to at least
            144 by a whole factor.
        resample: "lanczos" (smooth) or "nearest" (shows the pixels) when pictures are enlarged or
            reduced.

    Raises:
        ValueError: no picture, a wrong shape, or a number of labels other than that of rows or
            columns.
    """
    pictures = [[to_pil(image) for image in _check_row(row)] for row in rows]
    columns = max((len(row) for row in pictures), default=0)
    if columns == 0:
        raise ValueError("a grid needs at least one picture, got none")
    _check_labels("row", row_labels, len(pictures))
    _check_labels("column", column_labels, columns)
    if resample not in ("lanczos", "nearest"):
        raise ValueError(f'resample must be "lanczos" or "nearest", got {resample!r}')
    first = next(row for row in pictures if row)[0]
    side = cell or first.width * max(1, -(-144 // first.width))
    tall = round(side * first.height / first.width)
    kind = Image.Resampling.LANCZOS if resample == "lanczos" else Image.Resampling.NEAREST

    text_size = max(13, min(26, round(side / 9)))
    gap, margin = max(3, side // 36), max(12, side // 8)
    font = pillow_font("".join([*(row_labels or ()), *(column_labels or ())]), text_size)
    bold = pillow_font(title or "", round(text_size * 1.3), bold=True)
    row_text = [wrap(label, font, side * 1.3) for label in row_labels or []]
    column_text = [wrap(label, font, side - 4) for label in column_labels or []]
    sizes = [_text_size(text, font) for text in row_text]
    left = margin + (max(width for width, _ in sizes) + margin if sizes else 0)
    # A title wider than the pictures is wrapped to the width that the grid has anyway.
    body = columns * side + (columns - 1) * gap
    title_text = wrap(title, bold, left - margin + body) if title else ""
    top = margin + (_text_size(title_text, bold)[1] + margin if title else 0)
    if column_text:
        top += max(_text_size(text, font)[1] for text in column_text) + margin // 2

    height = top + len(pictures) * tall + (len(pictures) - 1) * gap + margin
    sheet = Image.new("RGB", (left + body + margin, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.multiline_text((margin, margin), title_text, fill=_INK, font=bold)
    for c, text in enumerate(column_text):
        center = left + c * (side + gap) + side / 2
        draw.multiline_text(
            (center, top - margin // 2), text, fill=_FAINT, font=font, anchor="md", align="center"
        )
    for r, row in enumerate(pictures):
        y = top + r * (tall + gap)
        if row_text:
            middle = (left - margin, y + tall / 2)
            draw.multiline_text(
                middle, row_text[r], fill=_INK, font=font, anchor="rm", align="right"
            )
        for c, picture in enumerate(row):
            sheet.paste(picture.resize((side, tall), kind), (left + c * (side + gap), y))
    return sheet


def _check_row(row: torch.Tensor) -> torch.Tensor:
    if not isinstance(row, torch.Tensor) or row.ndim != 4 or row.shape[1] != 3:
        shape = list(row.shape) if isinstance(row, torch.Tensor) else type(row).__name__
        raise ValueError(f"each row of a grid must be a tensor [C, 3, H, W], got {shape}")
    return row


def _check_labels(what: str, labels: Sequence[str] | None, count: int) -> None:
    if labels is not None and (isinstance(labels, str) or len(labels) != count):
        raise ValueError(f"expected {count} {what} labels, got {labels!r}")


def wrap(text: str, font: Any, width: float) -> str:
    """Break `text` at spaces (or within a long word) so that no line exceeds `width` pixels.

    Characters that `font` lacks are named.
    """
    if len(text) > LONGEST_LABEL:
        text = text[: LONGEST_LABEL - 1] + "…"
    text = legible(text, font)
    characters = len(text)
    while characters > 4:
        lines = textwrap.wrap(text, characters)
        if max((font.getlength(line) for line in lines), default=0) <= width:
            return "\n".join(lines)
        characters -= 1
    return text


def _text_size(text: str, font: Any) -> tuple[int, int]:
    left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox(
        (0, 0), text, font=font
    )
    return round(right - min(0, left)), round(bottom - min(0, top))
