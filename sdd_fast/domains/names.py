"""Domains that files name: built-in ones, and what lies beside the file that names them.

A mapper may come from a stranger. What it names must neither be opened wherever it pleases nor be
looked for in the folder that a command happens to run in.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from ..files import expanded, read_json
from ..run_folder import remembered_domain
from .embedded import EMBEDDED
from .spec import PARTS, PRESETS, checkpoints_folder, read_spec

_SAY = "name the domain yourself (domain=…, --domain on the command line)"
_OPENED = ("generator", "encoder", "detector")
"""The parts of a domain that an edit opens."""


def domain_of_edits(
    sources: Sequence[Path], names: Sequence[str], given: Collection[str] = ()
) -> str | Mapping[str, Any] | None:
    """Return the one domain that edits were distilled in, for `load_domain`; None if none is named.

    Args:
        sources: run folders and mapper files. names: what each mapper's file calls its domain, ""
            if it has none. given: parts that the user names.

    Raises:
        ValueError: they belong to different domains, or one names a domain that it may not.
    """
    homes: list[str | Mapping[str, Any]] = []
    for source, name in zip(sources, names, strict=True):
        folder = source if source.is_dir() else source.parent
        home: str | Mapping[str, Any] | None = remembered_domain(folder)
        if home:
            home = domain_of_run(home, folder, given)
        elif name:
            home = domain_of_mapper(name, folder, given)
        if home and home not in homes:
            homes.append(home)
    if len(homes) > 1:
        told = [home if isinstance(home, str) else str(home.get("name")) for home in homes]
        raise ValueError(
            f"these edits belong to different domains: {', '.join(told)}; load them in separate "
            "Editors, or say which domain to use"
        )
    return homes[0] if homes else None


def domain_of_mapper(name: str, folder: Path, given: Collection[str] = ()) -> str:
    """Return what `load_domain` finds the domain by that a mapper's file in `folder` names.

    Raises:
        ValueError: it is neither built in nor within that folder, or names files elsewhere.
    """
    if name in EMBEDDED or name in PRESETS:
        return name
    if not _is_within(name, folder, [folder]) or not os.path.exists(folder / name):
        raise ValueError(
            f"the mapper in {folder} names the domain {ascii(name)[:100]}, which is neither built "
            f"in nor in the same folder; {_SAY}"
        )
    found = (folder / name).resolve()
    _check_file(found, folder, given)
    return str(found)


def domain_of_run(
    reference: str | Mapping[str, Any], run: Path, given: Collection[str] = ()
) -> str | Mapping[str, Any]:
    """Return the domain that a run's record names, by paths on the machine that it was made on.

    Raises:
        ValueError: they are neither built in, nor within the run's folder or that of checkpoints.
    """
    if isinstance(reference, Mapping):
        _check_parts(reference, Path.cwd(), run, given)
    elif reference not in EMBEDDED and reference not in PRESETS:
        if not _is_within(reference, run, [run, checkpoints_folder()]):
            raise ValueError(
                f"the run in {run} was distilled in the domain {ascii(reference)[:200]}, which is "
                "neither built in nor in its folder. A file may come from anybody, so only you can "
                f"say that this is to be opened: --domain {shlex.quote(reference)[:200]} (in "
                "Python: domain=…)"
            )
        if _is_within(reference, run, [run]):
            _check_file(run / reference, run, given)
    return reference


def needed_options(reference: str | Mapping[str, Any]) -> dict[str, str]:
    """Return the options by which a user names to `sdd edit` what a run's record may not."""
    if isinstance(reference, str):
        return {} if reference in EMBEDDED or reference in PRESETS else {"domain": reference}
    return {part: str(reference[part]) for part in _OPENED if reference.get(part)}


def _check_file(path: Path, folder: Path, given: Collection[str]) -> None:
    """`_check_parts` of a domain's file or folder; what is no domain is told where it is loaded."""
    listing = path / "domain.json" if path.is_dir() else path
    content = read_json(listing) if listing.is_file() else None
    if isinstance(content, dict):
        _check_parts(content, listing.parent, folder, given)


def _check_parts(
    domain: Mapping[str, Any], beside: Path, folder: Path, given: Collection[str]
) -> None:
    """Refuse files for an edit to open that are elsewhere, unless the user names others."""
    preset = PRESETS.get(str(domain.get("name")))
    known = read_spec(preset, {}, lenient=True).parts if preset else {}
    checkpoints = checkpoints_folder()
    places = (folder, checkpoints)
    for part in [part for part in PARTS if part not in given]:
        names = domain.get(part) or []
        for name in [names] if isinstance(names, str) else names:
            if name == known.get(part) or not isinstance(name, str):
                continue
            within = all(_is_within(name, looked, places) for looked in (beside, checkpoints))
            if not within and (part in _OPENED or _is_of_another_machine(name)):
                raise ValueError(
                    f"the edit in {folder} names as its {part} {ascii(name)[:200]}, which is "
                    "neither in its folder nor in that of checkpoints. A file may come from "
                    "anybody, so only you can say that this is to be opened: "
                    f"--{part} {shlex.quote(name)[:200]} (in Python: {part}=…)"
                )


def _is_within(name: str, beside: Path, places: Sequence[Path]) -> bool:
    """Whether what a name, looked for in `beside`, stands for lies within one of some folders."""
    if _is_of_another_machine(name):
        return False
    try:
        path = (beside / expanded(name)).resolve()
    except (OSError, ValueError):  # no name that a file could have
        return False
    return any(place.resolve() in path.parents for place in places)


def _is_of_another_machine(name: str) -> bool:
    """Whether Windows would ask another machine for a path."""
    return PureWindowsPath(name).drive.startswith("\\\\")
