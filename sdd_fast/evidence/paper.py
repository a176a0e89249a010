"""The paper's tables and figures in one domain, measured and written into a folder.

results.md        the page: tables, figures, and what was measured how
table1.md …       each table as .md, .csv and .json
figures/          the pictures
units/            what was measured, a file for each unit of work, see `store`
plan.json         of which domain and plan
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from .._build_info import build_info
from ..baselines import TRAINED
from ..baselines.trained import ABOUT, TrainedFolder
from ..files import PathLike, read_json, settled, write_bytes, write_json
from ..lock import locked
from ..measured import device_name
from ..notebook import png_of
from ..progress import Listener
from ..shield import shielded
from . import editing, hqs_study, table1, table2, table3
from .case import Case
from .figures import (
    ablation,
    attributes,
    costs,
    hqs_curve,
    levels,
    methods,
    noise_levels,
    pose,
)
from .judge import Judges, check_judges
from .page import Picture, write_page
from .plan import PARTS, Plan
from .store import Store, Unit, complete
from .table import Table

if TYPE_CHECKING:
    from ..domains import Domain

FORMAT = "sdd_fast evidence 1"
PLAN_FILE, PAGE = "plan.json", "results.md"


class FigureModule(Protocol):
    """One of the modules in `figures`."""

    TITLE: str
    CAPTION: str

    def units(self, case: Case) -> list[Unit]: ...

    def draw(self, case: Case) -> Any:
        """A picture of Pillow's or a figure of matplotlib's; None: not measured."""


FIGURES: dict[str, Any] = {
    "noise-levels": noise_levels, "hqs-curve": hqs_curve, "attributes": attributes,
    "methods": methods, "pose": pose, "ablation": ablation, "levels": levels, "costs": costs,
}  # fmt: skip
"""Name of the file → module."""


def paper(
    domain: Domain,
    out: PathLike,
    plan: Plan | None = None,
    *,
    only: Sequence[str] | None = None,
    trained: PathLike | None = None,
    judges: Judges | None = None,
    overwrite: bool = False,
    progress: bool | Listener = True,
) -> dict[str, str]:
    """Measure what is not measured yet, and write tables, figures and page.

    Args:
        out: the folder; one that holds evidence of the same domain is gone on with.
        only: some of `plan.PARTS`; None: all. The page has whatever is there.
        trained: folder of folders of `train_baseline`, named by what they are of: editors to
            compare with, too.
        judges: networks that judge beside the domain's own.
        overwrite: whether a page of another plan in that folder, or by other judges, may be
            written over. What was measured for it stays.

    Returns:
        Why units could not be done, by their names.

    Raises:
        ValueError: the domain has nothing to measure edits with or no prompts, an unknown part or
            method, settings that an editor refuses, or the folder is of another domain.
        FileExistsError: the folder has files of somebody else's, or a page of another plan.
        FileNotFoundError: `trained` holds no finished training of any editor.
        KeyboardInterrupt: what was measured is kept, and the page has it.
    """
    work = checked(
        domain, out, plan, only=only, trained=trained, judges=judges, overwrite=overwrite
    )
    return work.measure(progress)


@dataclass(frozen=True)
class Checked:
    """What can be measured as it was asked for: units of a case, for a folder."""

    case: Case
    units: list[Unit]
    folder: Path

    @shielded()
    def measure(self, progress: bool | Listener = True) -> dict[str, str]:
        """Measure what is not measured yet, and write it; see `paper`."""
        with locked(self.folder):
            write_json(self.folder / PLAN_FILE, request_of(self.case))
            failures: dict[str, str] = {}
            try:
                complete(self.units, self.case.store, progress, failures)
            finally:
                write(self.case, self.folder, failures)
        return failures


@shielded()
def checked(
    domain: Domain,
    out: PathLike,
    plan: Plan | None = None,
    *,
    only: Sequence[str] | None = None,
    trained: PathLike | None = None,
    judges: Judges | None = None,
    overwrite: bool = False,
) -> Checked:
    """Check what `paper` is asked for, before any work; arguments and errors are those of it."""
    parts = check_parts(only)
    check_judges(domain)
    folder = settled(out)
    there = {} if trained is None else trained_in(trained, domain.name)
    store = Store(folder / "units", origin_of(domain))
    case = Case(domain, plan or Plan(), store, there, judges or Judges())
    editing.check_settings(case)
    units = {unit.name + unit.digest: unit for part in parts for unit in units_of(case, part)}
    _check_folder(folder, case, overwrite)
    return Checked(case, list(units.values()), folder)


def is_ours(unit: str) -> bool:
    """Tell whether a unit, by its name, is of SDD itself and not of an editor beside it."""
    return not unit.startswith("edits/") or unit.startswith((f"edits/{editing.OURS},", "edits/ref"))


def trained_in(folder: PathLike, domain: str) -> dict[str, TrainedFolder]:
    """Return the finished trainings in a folder of such folders, by what they are of.

    Raises:
        FileNotFoundError: there is none. ValueError: one is of another domain.
    """
    root = settled(folder)
    found = {
        key: TrainedFolder.of(root / key, key, domain)
        for key in TRAINED
        if (root / key / ABOUT).exists()
    }
    if not found:
        raise FileNotFoundError(
            f"{root} holds no finished training of {', '.join(TRAINED)}; `sdd bench train --out "
            f"{root}` makes them"
        )
    return found


def check_parts(only: Sequence[str] | None) -> list[str]:
    """Return the parts to measure; ValueError for one that does not exist."""
    parts = list(PARTS if only is None else only)
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ValueError(f"parts are {', '.join(PARTS)}; got {', '.join(parts) or 'none'}")
    return parts


def units_of(case: Case, part: str) -> list[Unit]:
    """Return the units of a part of the evidence."""
    if part == "figures":
        return [unit for module in FIGURES.values() for unit in module.units(case)]
    if part == "table2":
        return [u for key in table2.keys(case) for u in editing.units_of(case, key)]
    return {"table1": table1.units, "table3": table3.units, "hqs": hqs_study.units}[part](case)


def tables_of(case: Case) -> dict[str, list[Table]]:
    """Return the tables of each part, of what is measured so far."""
    makers = {
        "table1": table1.tables, "table2": table2.tables, "table3": table3.tables,
        "hqs": hqs_study.tables,
    }  # fmt: skip
    return {part: make(case) for part, make in makers.items()}


def write(case: Case, folder: Path, failures: dict[str, str]) -> None:
    """Write tables, figures and page, of what is measured so far."""
    tables = tables_of(case)
    for its in tables.values():
        for table in its:
            table.write(folder)
    pictures = []
    for name, module in FIGURES.items():
        drawn, path = module.draw(case), folder / "figures" / f"{name}.png"
        if drawn is not None:
            write_bytes(path, png_of(drawn))
        there = path.relative_to(folder).as_posix() if drawn is not None else None
        pictures.append(Picture(module.TITLE, module.CAPTION, there))
    origins = case.store.origins([unit for part in PARTS for unit in units_of(case, part)])
    write_page(folder / PAGE, case, tables, pictures, origins, failures)


def request_of(case: Case) -> dict[str, Any]:
    """Return of what the evidence is, JSON values only."""
    return {
        "format": FORMAT,
        "domain": case.domain.name,
        "plan": case.plan.to_json(),
        "judges": case.judges.to_json(),
        "trained": {key: folder.digest for key, folder in case.trained.items()},
        "everywhere": case.everywhere,
        **origin_of(case.domain),
    }


def origin_of(domain: Domain) -> dict[str, str]:
    """Return on what and by which versions is measured now."""
    info = build_info()
    threads = torch.get_num_threads()
    return {
        "device": f"{device_name(domain.device)} with {threads} thread{'s' * (threads > 1)}",
        **{name: str(info[name]) for name in ("sdd_fast", "torch", "python")},
    }


def _check_folder(folder: Path, case: Case, overwrite: bool) -> None:
    path = folder / PLAN_FILE
    if not path.exists():
        strangers = [p for p in folder.iterdir() if p.name != ".lock"] if folder.is_dir() else []
        if strangers:
            raise FileExistsError(
                f"{strangers[0]} is no file of `sdd bench paper`, and is kept; choose another "
                "folder"
            )
        return
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FileExistsError(
            f"{path} is no plan of `sdd bench paper`, and is kept; choose another folder"
        )
    if content.get("domain") != case.domain.name:
        raise ValueError(
            f"{folder} holds evidence of the domain {content.get('domain')!r}, not of "
            f"{case.domain.name!r}; choose another folder"
        )
    if (folder / PAGE).exists() and not overwrite and (other := _differing(content, case)):
        raise FileExistsError(
            f"{folder / PAGE} is of another plan ({', '.join(other)}), and is kept; choose another "
            "folder, or pass overwrite=True to write the new page over it. What was measured stays "
            "in either case"
        )


def _differing(content: Mapping[str, Any], case: Case) -> list[str]:
    """Return how what a folder's page is of differs from a case."""
    now = json.loads(json.dumps(request_of(case)))
    plan = content.get("plan", {})
    found = [
        f"{name} {plan.get(name)} instead of {value}"
        for name, value in now["plan"].items()
        if plan.get(name) != value
    ]
    found += [f"other {key}" for key in ("judges", "trained") if content.get(key) != now[key]]
    there = content.get("everywhere", {})
    return found + [
        f"other {name}" for name, its in now["everywhere"].items() if there.get(name) != its
    ]
