"""What objects show in a notebook: small pieces of HTML that need no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDEST = 512  # pixels of an image on the screen


def data_url(png: bytes | Path) -> str:
    """A PNG, or a file of one, as a URL that holds it."""
    content = png if isinstance(png, bytes) else png.read_bytes()
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def png_of(image: Image.Image | Figure) -> bytes:
    """A PIL image, or a figure of matplotlib, as a PNG file."""
    buffer = io.BytesIO()
    if isinstance(image, Image.Image):
        image.save(buffer, format="PNG")
    else:
        image.savefig(buffer, format="png")
    return buffer.getvalue()


def image_tag(image: Image.Image | Path, title: str) -> str:
    """An <img> that holds the image; small ones are shown at least 128 pixels wide."""
    if isinstance(image, Path):
        style, content = "max-width:100%", data_url(image)
    else:
        width = min(_WIDEST, max(image.width, 128))
        pixelated = ";image-rendering:pixelated" if width > image.width else ""
        style, content = f"width:{width}px{pixelated}", data_url(png_of(image))
    return f'<img style="{style}" alt="{escape(title, quote=True)}" src="{content}">'


def table(rows: Mapping[str, object]) -> str:
    """Names and values, one a row."""
    lines = [
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in rows.items()
    ]
    return f"<table>{''.join(lines)}</table>"
