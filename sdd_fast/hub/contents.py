"""What a repository of an edit holds: its files, and config.json, which says what they are.

mapper.safetensors    one edit, for who has the generator of its domain; or instead
editor.safetensors    the whole editor: generator, encoder and edits
config.json           which of the two, and its edits
README.md             the model card
before-after.png, curve.png    of the run, if there was one
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..files import parse_json

MAPPER_FILE, EDITOR_FILE = "mapper.safetensors", "editor.safetensors"
WEIGHTS = {"mapper": MAPPER_FILE, "editor": EDITOR_FILE}
CONFIG_FILE, CARD_FILE = "config.json", "README.md"
BEFORE_AFTER, CURVE = "before-after.png", "curve.png"

BUILT_IN = ("faces64", "fashion32")
"""Domains that come with the package, of which everybody who has it has the weights."""

_FORMAT, _VERSION = "sdd_fast.hub", 1


def described(part: str, edits: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of config.json; `edits` are the fields of each `MapperInfo`."""
    from .. import __version__

    told = {
        "format": _FORMAT,
        "version": _VERSION,
        "library_name": "sdd_fast",
        "library_version": __version__,
        "part": part,
        "weights": WEIGHTS[part],
        "edits": [dict(edit) for edit in edits],
    }
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def edits_in(text: str) -> list[tuple[str, str]] | None:
    """Return (prompt, domain) of the edits in a config.json; None if it is of something else."""
    try:
        told = parse_json(text)
        if told["format"] != _FORMAT:
            return None
        return [(str(edit["prompt"]), str(edit["domain"])) for edit in told["edits"]]
    except (ValueError, TypeError, LookupError):
        return None


def numbered(name: str, index: int) -> str:
    """Return what a picture of the edit of that index is called, such as before-after-2.png."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{index + 1}{dot}{suffix}" if index else name


def weights_among(files: Collection[str], name: str) -> str:
    """Return which of a repository's files holds its edit.

    Raises:
        ValueError: none; says what there is instead.
    """
    for file in (EDITOR_FILE, MAPPER_FILE):
        if file in files:
            return file
    others = sorted(file for file in files if file != ".gitattributes")
    if not others:
        told = "it is empty; an upload to it may not be finished"
    else:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        told = f"it has {', '.join(others[:5])}{more}"
    raise ValueError(
        f"{name} on the hub holds no edit of sdd_fast: {told}. Expected {MAPPER_FILE} or "
        f"{EDITOR_FILE}, as `sdd push` writes them; nothing but safetensors is read"
    )
