"""Text in pictures: a font that has its characters, and names for those that none has."""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "IPAGothic", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic",
    "PingFang SC", "Hiragino Sans", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Emoji",
    "Symbola", "Segoe UI Symbol",
)  # fmt: skip
"""Families of other scripts, of which those that the system has are used after DejaVu Sans."""


@functools.cache
def families() -> tuple[str, ...]:
    """Return DejaVu Sans, which matplotlib carries, and the installed ones of `FALLBACKS`."""
    from matplotlib.font_manager import fontManager

    installed = {entry.name for entry in fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in FALLBACKS if name in installed))


def pillow_font(text: str, size: int, bold: bool = False) -> Any:
    """Return the first of `families` that has all of `text` as a font of Pillow, else DejaVu Sans;
    without matplotlib Pillow's own."""
    from PIL import ImageFont

    try:
        has_all = (name for name in families() if not _missing(text, _characters(_file(name))))
        return ImageFont.truetype(_file(next(has_all, families()[0]), bold), size)
    except (ImportError, OSError):
        return ImageFont.load_default(size)


def legible(text: str, font: Any = None) -> str:
    r"""Return `text` with names or numbers for characters that a font of Pillow lacks.

    Without `font`: for those that all `families` lack. Emoji become `[grinning face]`, other
    characters `\u7b11`.
    """
    if font is None:
        known = frozenset[int]().union(*(_characters(_file(name)) for name in families()))
    elif isinstance(path := getattr(font, "path", None), str):
        known = _characters(path)
    else:
        return text
    return text.translate({ord(c): _name(c) for c in _missing(text, known)})


def _missing(text: str, known: frozenset[int]) -> set[str]:
    return {c for c in text if not c.isspace() and ord(c) not in known}


def _name(character: str) -> str:
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category == "Cf" or name.startswith("VARIATION SELECTOR"):  # nothing to see
        return ""
    return f"[{name.lower()}]" if category == "So" and name else f"\\u{ord(character):04x}"


@functools.cache
def _file(family: str, bold: bool = False) -> str:
    from matplotlib.font_manager import FontProperties, findfont

    return str(findfont(FontProperties(family=family, weight="bold" if bold else "normal")))


@functools.cache
def _characters(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(file).get_charmap())
