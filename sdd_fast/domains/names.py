"""Domains that files name: built-in ones, and what lies beside the file that names them.

A mapper may come from a stranger. What it names must neither be opened wherever it pleases nor be
looked for in the folder that a command happens to run in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from ..run_folder import remembered_domain
from .embedded import EMBEDDED
from .spec import PRESETS

_SAY = "name the domain yourself (domain=…, --domain on the command line)"


def domain_of_edits(
    sources: Sequence[Path], names: Sequence[str]
) -> str | Mapping[str, Any] | None:
    """Return the one domain that edits were distilled in, for `load_domain`; None if none is named.

    Args:
        sources: run folders and mapper files. names: what each mapper's file calls its domain, ""
            if it has none.

    Raises:
        ValueError: they belong to different domains, or one names a domain that it may not.
    """
    homes: list[str | Mapping[str, Any]] = []
    for source, name in zip(sources, names, strict=True):
        folder = source if source.is_dir() else source.parent
        home: str | Mapping[str, Any] | None = remembered_domain(folder)
        if home:
            home = domain_of_run(home, folder)
        elif name:
            home = domain_of_mapper(name, folder)
        if home and home not in homes:
            homes.append(home)
    if len(homes) > 1:
        told = [home if isinstance(home, str) else str(home.get("name")) for home in homes]
        raise ValueError(
            f"these edits belong to different domains: {', '.join(told)}; load them in separate "
            "Editors, or say which domain to use"
        )
    return homes[0] if homes else None


def domain_of_mapper(name: str, folder: Path) -> str:
    """Return what `load_domain` finds the domain by that a mapper's file in `folder` names.

    Raises:
        ValueError: it is neither built in nor within that folder.
    """
    if name in EMBEDDED or name in PRESETS:
        return name
    folder = folder.resolve()
    try:
        # Windows would ask another machine for a path that begins with its name.
        inside = (folder / name).resolve() if not PureWindowsPath(name).anchor else folder
        found = folder in inside.parents and inside.exists()
    except (OSError, ValueError):  # no name that a file could have
        found = False
    if not found:
        raise ValueError(
            f"the mapper in {folder} names the domain {ascii(name)[:100]}, which is neither built "
            f"in nor in the same folder; {_SAY}"
        )
    return str(inside)


def domain_of_run(reference: str | Mapping[str, Any], run: Path) -> str | Mapping[str, Any]:
    """Return the domain that a run remembers, by a path on the machine that it was made on.

    Raises:
        ValueError: there is no domain.
    """
    if isinstance(reference, str) and not (reference in EMBEDDED or reference in PRESETS):
        local = not PureWindowsPath(reference).drive.startswith("\\\\")
        path = Path(reference)
        if not local or not (path.suffix == ".json" or (path / "domain.json").is_file()):
            raise ValueError(f"the domain of {run}, {ascii(reference)[:200]}, is not there; {_SAY}")
    return reference
