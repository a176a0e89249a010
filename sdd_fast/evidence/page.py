"""The page of results: what was measured, as Markdown with pictures, made from a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from ..files import PathLike, write_text
from .case import Case
from .editing import class_of, editors, settings_of
from .findings import findings
from .plan import Plan
from .table import NOT_MEASURED, Table


@dataclass(frozen=True)
class Picture:
    """A figure of the page; `path` is None where it is not measured."""

    title: str
    caption: str
    path: str | None


def write_page(
    path: PathLike,
    case: Case,
    tables: Mapping[str, Sequence[Table]],
    pictures: Sequence[Picture],
    origins: Sequence[tuple[Mapping[str, str], int]],
    failures: Mapping[str, str],
) -> None:
    """Write the page.

    Args:
        tables: part → its tables. origins: see `Store.origins`.
        failures: unit → why it could not be done.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("results.md.jinja").render(
        command=command_of(case),
        origins=[(_told(origin), count) for origin, count in origins],
        plan=case.plan,
        domain=case.domain,
        prompts=case.prompts,
        findings=findings(tables),
        tables=tables,
        pictures=pictures,
        editors=described(case),
        trained=sorted(case.trained),
        defaults=", ".join(class_of(key).name for key in _by_default(case)),
        own_guidance=own_guidance(case),
        failures=_reasons(failures),
        not_measured=NOT_MEASURED,
    )
    write_text(path, text)


OPTIONS = {
    "images": "-m", "asked_prompts": "-n", "prompts": "--prompts",
    "ablation_prompts": "--ablation-prompts", "ablation_seeds": "--seeds",
}  # fmt: skip
"""What of a plan the command takes by itself."""


def command_of(case: Case) -> str:
    """Return the command that measures as much, but for `--only`."""
    quick = case.plan.name == "quick"
    usual = Plan.quick() if quick else Plan()
    words = ["sdd bench paper --domain", case.domain.name, *(["--quick"] if quick else [])]
    for name, option in OPTIONS.items():
        if (value := getattr(case.plan, name)) != getattr(usual, name):
            words.append(f"{option} {value}")
    if case.plan.methods is not None:
        words.append(f"--methods {','.join(case.plan.methods)}")
    if case.plan.settings_note:
        words.append("--settings FILE")
    for name in case.judges.to_json():
        words.append(f"--{name} {'FILE' if name == 'inception' else 'FEATURES WEIGHTS'}")
    if case.trained:
        words.append("--trained FOLDER")
    return " ".join(words)


def _told(origin: Mapping[str, str]) -> str:
    """Return an origin as people read it."""
    if not origin:
        return "on what and by which versions is not told"
    return (
        f"on {origin['device']}; sdd_fast {origin['sdd_fast']}, torch {origin['torch']}, Python "
        f"{origin['python']}"
    )


def described(case: Case) -> list[dict[str, str]]:
    """Return name, paper and settings of every editor, and which of these are searched."""
    found = []
    for key in editors(case):
        cls = class_of(key)
        settings = ", ".join(f"{name} = {value}" for name, value in settings_of(case, key).items())
        told = {"name": cls.name, "paper": cls.paper, "settings": settings or "none"}
        searched = ", ".join(cls.GRID) or "none"
        found.append(told | {"searched": searched})
    return found


def _by_default(case: Case) -> list[str]:
    """Return the editors whose settings were searched, but not in this domain."""
    if case.domain.name == "faces64":
        return []
    return [k for k in editors(case) if class_of(k).GRID and k not in case.plan.settings]


def own_guidance(case: Case) -> str:
    """Return the prompts that have a guidance strength of their own, with it; "" if none has."""
    named = case.domain.guidance_rms
    return ", ".join(f"“{p}” {named[p]:g}" for p in case.prompts if p in named)


def _reasons(failures: Mapping[str, str]) -> dict[str, list[str]]:
    """Return reason → the units that it kept from being done."""
    found: dict[str, list[str]] = {}
    for name, why in failures.items():
        found.setdefault(why, []).append(name)
    return found
