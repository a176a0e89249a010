"""A folder as the repository of an edit will be: weights, config.json, card and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..files import PathLike, make_folder, settled, write_bytes, write_text
from ..outputs import check_free
from .card import Card, is_replaceable
from .contents import CARD_FILE, CONFIG_FILE, WEIGHTS, described, edits_in

_OTHERWISE = "choose another folder, or delete it first"


def write_folder(
    folder: PathLike,
    card: Card,
    save: Callable[[Path], Any],
    pictures: Mapping[str, Path | bytes] | None = None,
) -> Path:
    """Write everything of a repository into a folder, each file atomically; return the folder.

    An earlier edit there is replaced by one of the same part, what is not of such an edit never. A
    card that somebody has edited stays as it is.

    Args:
        save: writes the weights to a path.
        pictures: what a picture is called in the repository → where it is, or its content.

    Raises:
        FileExistsError: the folder has the config.json of something else, such as of a run, weights
            of the other part, or without a config.json a file that would be replaced.
    """
    target = settled(folder)
    config, readme = target / CONFIG_FILE, target / CARD_FILE
    weights = target / WEIGHTS[card.part]
    _check_free(target, [weights, *(target / name for name in pictures or {})])
    edited = readme.exists() and not is_replaceable(
        readme.read_text(encoding="utf-8", errors="replace")
    )
    make_folder(target)
    save(weights)
    write_text(config, described(card.part, [edit.info for edit in card.edits]))
    for name, one in (pictures or {}).items():
        write_bytes(target / name, one if isinstance(one, bytes) else one.read_bytes())
    if not edited:
        files = [weights, *(target / name for name in pictures or {})]
        sizes = [(path.name, path.stat().st_size) for path in files]
        write_text(readme, replace(card, files=sizes).render())
    return target


def _check_free(target: Path, files: Sequence[Path]) -> None:
    """Raise FileExistsError where something other than an edit of the same part would be lost."""
    config = target / CONFIG_FILE
    if not config.exists():
        check_free(files, otherwise=_OTHERWISE)
    elif edits_in(config.read_text(encoding="utf-8", errors="replace")) is None:
        raise FileExistsError(
            f"the {CONFIG_FILE} in {target} is of something else, such as a run; choose another "
            "folder"
        )
    for file in WEIGHTS.values():  # a folder holds one part: of two, readers would choose
        if (target / file).exists() and target / file not in files:
            raise FileExistsError(
                f"{target} holds the {file} of an earlier edit, and this one is written as "
                f"{files[0].name}; {_OTHERWISE}"
            )
