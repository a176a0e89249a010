"""The runs that a page knows: those it was given, and those in its folder. No other path is opened.

Visitors name a run by its name here, never by a path.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.load import load_mapper
from ..editing.editor import mapper_file
from ..files import PathLike, parse_json, read_bytes, read_metadata, settled
from ..manipulator import MapperInfo
from ..run_folder import MAPPER_FILE, REPORT_FILE, RUN_FILE, is_of_a_run

MOST_LISTED = 500
"""Runs of a folder; more would only fill a list that nobody reads."""

_MOST_REPORT = 2**26  # bytes of a report


@dataclass(frozen=True)
class KnownRun:
    """A run folder, or a mapper's file, by the name that a page shows."""

    name: str
    path: Path

    @property
    def prompt(self) -> str:
        """What the mapper's file says of it; the name if that cannot be read."""
        with suppress(OSError, ValueError):
            path = self.path / MAPPER_FILE if self.path.is_dir() else self.path
            told = parse_json(read_metadata(path).get("prompt", '""'))
            return told if isinstance(told, str) and told else self.name
        return self.name

    @property
    def title(self) -> str:
        """Name and prompt, for a list."""
        prompt = self.prompt
        return self.name if prompt == self.name else f"{prompt} ({self.name})"


class Library:
    """Finds runs by name.

    Args:
        given: run folders and mapper files, as the command line has them.
        folder: where further runs lie, each a folder in it, and where new ones go.
    """

    def __init__(self, given: Sequence[PathLike], folder: PathLike) -> None:
        self.folder = settled(folder)
        paths = [settled(path) for path in given]
        names = _short_names(paths)
        self.given = [KnownRun(name, path) for name, path in zip(names, paths, strict=True)]

    def runs(self) -> list[KnownRun]:
        """The runs that were given, then the finished ones of the folder."""
        there = {run.path for run in self.given}
        return [*self.given, *(run for run in self._listed(MAPPER_FILE) if run.path not in there)]

    def reported(self) -> list[KnownRun]:
        """Those of them that have a report."""
        return [run for run in self.runs() if (run.path / REPORT_FILE).is_file()]

    def find(self, name: str) -> KnownRun:
        """The run of a name.

        Raises:
            ValueError: there is none.
        """
        for run in self.runs():
            if run.name == name:
                return run
        raise ValueError(f"there is no run {name!r:.100} here (any more); reload the list")

    def report(self, name: str) -> str:
        """The HTML of a run's report.

        Raises:
            ValueError: no such run, or no report of a usual size.
        """
        run = self.find(name)
        path = run.path / REPORT_FILE
        if not path.is_file() or run.path.resolve() not in path.resolve().parents:
            raise ValueError(
                f"{run.name} has no {REPORT_FILE}: it is not finished, or a file alone"
            )
        return read_bytes(path, _MOST_REPORT).decode("utf-8", errors="replace")

    def _listed(self, needed: str) -> list[KnownRun]:
        """Folders in the folder that hold a run and the file `needed`, newest first."""
        found = []
        with suppress(OSError):
            for entry in os.scandir(self.folder):
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False) and (path / needed).is_file():
                    if is_of_a_run(path / RUN_FILE):
                        found.append(((path / needed).stat().st_mtime, entry.name, path))
        taken = {run.name for run in self.given}
        newest = sorted(found, reverse=True)[:MOST_LISTED]
        return [
            KnownRun(name if name not in taken else f"{path.parent.name}/{name}", path)
            for _, name, path in newest
        ]


def read_edit(run: KnownRun) -> tuple[object, MapperInfo]:
    """The mapper of a run, and what its file says.

    Raises:
        OSError, ValueError: it is not there, damaged, or not that of its run.
    """
    return load_mapper(mapper_file(run.path))


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, with the one before where that tells two apart."""
    last = [path.name for path in paths]
    names = [
        name if last.count(name) == 1 else f"{path.parent.name}/{name}"
        for name, path in zip(last, paths, strict=True)
    ]
    repeated = {name for name in names if names.count(name) > 1}
    return [f"{i}: {n}" if n in repeated else n for i, n in enumerate(names, 1)]
