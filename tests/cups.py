"""Drawn cups with captions, sorted by color into sub-folders, as folders of pictures often are."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, ImageDraw

COLORS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (50, 70, 200)}
SOURCE_TEXT = "a photo of a cup"


def draw_cup(number: int, color: str, size: int) -> Image.Image:
    """Draw a cup whose place and height vary with its number."""
    picture = Image.new("RGB", (size, size), (235 - 9 * (number % 5), 230, 215))
    unit, left = size / 16, 3 + number % 3
    top = 4 + number % 4
    body = [left * unit, top * unit, (left + 7) * unit, 13 * unit]
    ear = [(left + 6) * unit, (top + 1) * unit, (left + 10) * unit, 11 * unit]
    pen = ImageDraw.Draw(picture)
    pen.ellipse(ear, outline=COLORS[color], width=max(1, size // 24))
    pen.rectangle(body, fill=COLORS[color])
    return picture


def write_cups(folder: Path, count: int = 24, size: int = 32) -> dict[str, str]:
    """Write pictures and metadata.jsonl; return {file name: caption}."""
    captions = {}
    for number in range(count):
        color = list(COLORS)[number * len(COLORS) // count]
        name = f"{color}/{number:03d}.png"
        (folder / color).mkdir(parents=True, exist_ok=True)
        draw_cup(number, color, size).save(folder / name)
        captions[name] = f"a {color} cup"
    write_listing(folder, captions)
    return captions


def write_listing(folder: Path, captions: dict[str, str]) -> None:
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in captions.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
