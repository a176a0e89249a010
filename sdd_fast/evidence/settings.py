"""Settings of other editors from a file, such as the search of a domain writes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..baselines import BASELINES, TRAINED, Baseline
from ..files import PathLike, read_json

_NOT_SETTINGS = ("domain", "path")


@dataclass(frozen=True)
class EditorSettings:
    """What editors are given in place of their defaults.

    Args:
        settings: name → argument → value. note: whence they are, as the rest of a sentence.
    """

    settings: dict[str, dict[str, Any]]
    note: str


def read_settings(path: PathLike) -> EditorSettings:
    """Read {"note": …, "settings": {editor: {argument: value}}}.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of this form, or an editor or an argument does not exist.
    """
    content = read_json(path)
    expected = '{"note": "whence they are", "settings": {"sdedit": {"level": 0.8}, …}}'
    wrong = ValueError(f"{path} holds no settings of editors; expected {expected}")
    if not isinstance(content, dict) or set(content) != {"note", "settings"}:
        raise wrong
    note, settings = content["note"], content["settings"]
    if not isinstance(note, str) or not isinstance(settings, dict):
        raise wrong
    if not note.strip() or not note.isprintable():
        raise ValueError(
            f'{path}: "note" says on the page whence the settings are: a line of text is expected, '
            f"got {note!r}"
        )
    known: dict[str, type[Baseline]] = {**BASELINES, **TRAINED}
    for name, its in settings.items():
        if not isinstance(its, dict):
            raise wrong
        if name not in known:
            raise ValueError(f"{path}: unknown editor {name!r}; there are: {', '.join(known)}")
        arguments = [x for x in inspect.signature(known[name]).parameters if x not in _NOT_SETTINGS]
        if unknown := [x for x in its if x not in arguments]:
            raise ValueError(
                f"{path}: {name} has no setting {unknown[0]!r}; it has: {', '.join(arguments)}"
            )
    return EditorSettings({name: with_tuples(its) for name, its in settings.items()}, note)


def with_tuples(its: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that were read from a file as constructors take them: tuples are no lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in its.items()}
