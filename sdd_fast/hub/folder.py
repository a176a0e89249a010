"""A folder as the repository of an edit will be: weights, config.json, card and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..files import PathLike, make_folder, settled, write_bytes, write_text
from .card import Card, is_replaceable
from .contents import CARD_FILE, CONFIG_FILE, WEIGHTS, described, edits_in


def write_folder(
    folder: PathLike,
    card: Card,
    save: Callable[[Path], Any],
    pictures: Mapping[str, Path | bytes] | None = None,
) -> Path:
    """Write everything of a repository into a folder, each file atomically; return the folder.

    A card that somebody has edited stays as it is.

    Args:
        save: writes the weights to a path.
        pictures: what a picture is called in the repository → where it is, or its content.

    Raises:
        FileExistsError: the folder has the config.json of something else, such as of a run.
    """
    target = settled(folder)
    config, readme = target / CONFIG_FILE, target / CARD_FILE
    if config.exists() and edits_in(config.read_text(encoding="utf-8", errors="replace")) is None:
        raise FileExistsError(
            f"{target} has a {CONFIG_FILE} of something else, such as a run; choose another folder"
        )
    edited = readme.exists() and not is_replaceable(
        readme.read_text(encoding="utf-8", errors="replace")
    )
    make_folder(target)
    weights = target / WEIGHTS[card.part]
    save(weights)
    for part, file in WEIGHTS.items():  # of what is replaced
        if part != card.part and config.exists():
            (target / file).unlink(missing_ok=True)
    write_text(config, described(card.part, [edit.info for edit in card.edits]))
    for name, one in (pictures or {}).items():
        write_bytes(target / name, one if isinstance(one, bytes) else one.read_bytes())
    if not edited:
        files = [weights, *(target / name for name in pictures or {})]
        sizes = [(path.name, path.stat().st_size) for path in files]
        write_text(readme, replace(card, files=sizes).render())
    return target
