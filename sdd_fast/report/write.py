"""report.html: what a run did, for a person who was not there, in one file that needs no other.

This gathers what the page says; how it says it is in `templates`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from ..distillation.judge import WITHOUT_EFFECT, worst_kept
from ..domains.names import needed_options
from ..files import PathLike, read_json, settled, shown, write_text
from ..notebook import data_url
from ..run_folder import (
    CURVE_FILE,
    CURVE_PICTURE,
    GRID_FILE,
    HISTORY_FILE,
    REPORT_FILE,
    TRAINING_FILE,
)
from ..runs.record import read_run
from ..selection.curve import HQSCurve
from . import wording


@dataclass(frozen=True)
class Run:
    """What a report says about one complete run."""

    folder: Path
    record: dict[str, Any]
    curve: HQSCurve | None

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read the files of a run's folder.

        Raises:
            FileNotFoundError: one is missing. ValueError: the run is not complete.
        """
        record = read_run(folder)
        if not record["complete"]:
            raise ValueError(f"the run in {folder} is not complete, there is nothing to report yet")
        read_json(folder / HISTORY_FILE)
        path = folder / CURVE_FILE
        return cls(folder, record, HQSCurve.load(path) if path.exists() else None)

    @property
    def prompt(self) -> str:
        return str(self.record["prompt"])

    @property
    def nouns(self) -> dict[str, str]:
        return dict(self.record["nouns"])

    @property
    def grid(self) -> Path:
        return self.folder / GRID_FILE

    @property
    def curve_picture(self) -> Path:
        return self.folder / CURVE_PICTURE

    @property
    def training_picture(self) -> Path:
        return self.folder / TRAINING_FILE

    @property
    def timesteps(self) -> str:
        return ", ".join(map(str, self.record["timesteps"]))

    @property
    def scores(self) -> list[tuple[int, float]]:
        """Timesteps of the curve and their HQS."""
        found = self.curve
        return [] if found is None else list(zip(found.timesteps, found.mean.tolist(), strict=True))

    @property
    def worst(self) -> tuple[str, float]:
        """The attribute that fewest images keep, and their share."""
        return worst_kept(self.record["quality"])

    @property
    def identity(self) -> float | None:
        """How much the images still show the same subject; None if that was not measured."""
        found = (self.record.get("quality") or self.record["monitor"]).get("identity")
        return None if found is None else float(found)

    @property
    def identified(self) -> bool:
        """Whether the domain tells one subject from another at all."""
        return self.identity is not None or "identity" in self.record["monitor"]

    @property
    def kept(self) -> list[list[str]]:
        """Rows of attributes and the shares that keep them, edited and unedited; worst first."""
        before = self.record["unedited"]["kept"]
        found = sorted(self.record["quality"]["kept"].items(), key=lambda item: float(item[1]))
        return [
            [
                wording.words(name, self.nouns),
                wording.percent(share),
                wording.percent(before.get(name)),
            ]
            for name, share in found
        ]

    @property
    def seconds(self) -> float:
        return float(sum(self.record["seconds"].values()))

    @property
    def milliseconds(self) -> float:
        return float(self.record["milliseconds_per_edit"])

    @property
    def settings(self) -> str:
        """Everything that determines the run, as JSON."""
        names = ("prompt", "domain", "timesteps", "rule", "levels", "distill")
        shown = {name: self.record[name] for name in names if self.record.get(name) is not None}
        return json.dumps(shown, indent=2, ensure_ascii=False)


def write_report(folder: PathLike) -> Path:
    """Write report.html of a complete run into its folder, from the files there.

    Raises:
        FileNotFoundError: a file of the run is missing. ValueError: the run is not complete.
    """
    run = Run.read(settled(folder))
    return _write(
        "report.html.jinja",
        run.folder,
        [run],
        title=f"{run.prompt} – Selective Diffusion Distillation",
        commands=[run.record["command"]],
    )


def write_summary(
    folder: PathLike,
    runs: Sequence[PathLike],
    *,
    title: str,
    overview: PathLike,
    caption: str,
    commands: Sequence[str],
) -> Path:
    """Write report.html on several runs into `folder`.

    Args:
        runs: their folders. title: of the page. overview: a PNG for the top, with its caption.
        commands: how all of this was made.
    """
    return _write(
        "summary.html.jinja",
        settled(folder),
        [Run.read(settled(run)) for run in runs],
        title=title,
        commands=commands,
        overview=Path(overview),
        caption=caption,
    )


def _write(
    template: str, folder: Path, runs: list[Run], *, commands: Sequence[str], **shown: Any
) -> Path:
    page = _environment().get_template(template)
    usable = [run for run in runs if run.record["verdict"]["code"] not in WITHOUT_EFFECT]
    text = page.render(
        runs=runs,
        commands=[command.strip() for command in commands if command],
        edit_commands=_edit_commands(usable) if usable else [],
        snippet=_snippet(usable) if usable else "",
        **shown,
    )
    write_text(folder / REPORT_FILE, text)
    return folder / REPORT_FILE


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": wording.percent,
        "number": wording.number,
        "duration": wording.duration,
        "words": wording.words,
        "seal": lambda record: wording.SEALS[record["verdict"]["level"]],
        "headline": wording.headline,
        "advice": wording.advice,
        "data_url": data_url,
    }
    return environment


def _edit_commands(runs: list[Run]) -> list[str]:
    # A path that begins with a dash would be taken for an option.
    paths = [shlex.quote(re.sub("^-", "./-", str(shown(run.folder)))) for run in runs]
    needed = needed_options(runs[0].record["domain_reference"])
    domain = "".join(f" --{name} {shlex.quote(value)}" for name, value in needed.items())
    lines = [f"sdd edit {paths[0]} picture.jpg --out edited --strength 0.8{domain}"]
    if len(paths) > 1:
        lines.append(
            f"sdd edit {' '.join(paths)} picture.jpg --out edited --strength 1,0.5{domain}"
        )
    lines.append(f"sdd export {paths[0]} --out mapper.pt")
    return lines


def _snippet(runs: list[Run]) -> str:
    # JSON texts are Python literals in the quotes that the rest of the code has.
    domain, folder, prompt = (
        json.dumps(value, ensure_ascii=False)
        for value in (
            runs[0].record["domain_reference"],
            str(shown(runs[0].folder)),
            runs[0].prompt,
        )
    )
    return f"""\
import sdd_fast as sdd
from sdd_fast.runs.run import run_edit

domain = sdd.load_domain({domain})
editor = sdd.Editor.load({folder}, domain)
after = editor.edit(["picture.jpg"], strength=0.8, output="pil")[0]
after.save("picture-edited.png")

# the same edit again, or one of yours, with a folder and report like this one
run_edit(domain, {prompt}, "runs/another", say=print)"""
