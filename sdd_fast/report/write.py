"""report.html: what a run did, for a person who was not there, in one file that needs no other."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..files import PathLike, write_text
from ..run_folder import REPORT_FILE
from . import sections as section
from .domain_quality import domain_section
from .page import code, duration, figure, number, page
from .sections import Run


def write_report(folder: PathLike) -> Path:
    """Write report.html of a complete run into its folder, from the files there.

    Raises:
        FileNotFoundError: a file of the run is missing. ValueError: the run is not complete.
    """
    run = Run.read(Path(folder))
    body = [
        _header([run], f"“{escape(run.prompt)}”"),
        section.pictures(run),
        section.verdict(run),
        "<h2>Which timesteps, and why</h2>\n",
        section.timesteps(run),
        "<h2>What the edit does, measured</h2>\n",
        section.quality(run),
        "<h2>Training</h2>\n",
        section.training(run),
        _closing([run], [run.record["command"]]),
    ]
    path = run.folder / REPORT_FILE
    write_text(path, page(f"{run.prompt} – Selective Diffusion Distillation", "".join(body)))
    return path


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
    read = [Run.read(Path(run)) for run in runs]
    body = [
        _header(read, escape(title)),
        figure(Path(overview), title, escape(caption)),
        section.at_a_glance(read),
    ]
    for run in read:
        body += [
            f"<article><h2>“{escape(run.prompt)}”</h2>\n",
            section.verdict(run),
            section.pictures(run),
            "<h3>Which timesteps, and why</h3>\n",
            section.timesteps(run),
            "<h3>What the edit does, measured</h3>\n",
            section.quality(run),
            "<h3>Training</h3>\n",
            section.training(run),
            "</article>\n",
        ]
    body += ["<article>\n", _closing(read, commands), "</article>\n"]
    path = Path(folder) / REPORT_FILE
    write_text(path, page(title, "".join(body)))
    return path


def _header(runs: list[Run], title: str) -> str:
    record = runs[0].record
    spent = sum(sum(run.record["seconds"].values()) for run in runs)
    each = max(run.record["milliseconds_per_edit"] for run in runs)
    count = {1: "An edit was", 2: "Two edits were"}
    what = count.get(len(runs), f"{len(runs)} edits were")
    return (
        '<header><p class="eyebrow">Selective Diffusion Distillation</p>\n'
        f"<h1>{title}</h1>\n"
        f"<p>{what} distilled from a text-to-image diffusion model into a small network that "
        f"changes the latents of a generator. That took {duration(spent)}; every picture after "
        f"that takes {number(each, int(each < 10))}&nbsp;ms and needs no diffusion model.</p>\n"
        f'<p class="faint">Domain {escape(record["domain"])}, {record["resolution"]} × '
        f"{record['resolution']} pixels · {escape(record['started'][:10])}</p></header>\n"
    )


def _closing(runs: list[Run], commands: Sequence[str]) -> str:
    parts = ["<h2>Time</h2>\n", section.timing(runs), "<h2>Do it yourself</h2>\n"]
    typed = [command for command in commands if command]
    if typed:
        parts.append("<p>This report was made by</p>\n" + code("\n".join(typed)))
    parts.append("<p>Edit pictures of your own with it</p>\n")
    parts.append(code("\n".join(_edit_commands(runs))))
    parts.append("<p>or from Python</p>\n" + code(_snippet(runs)))
    parts += [section.settings(run) for run in runs]
    record = runs[0].record
    domain = domain_section(record["domain_quality"])
    if domain:
        parts.append(f"<h2>The domain {escape(record['domain'])}, measured</h2>\n{domain}")
    parts += ["<h2>Limits</h2>\n", section.limits(runs)]
    parts.append(
        "<footer>Made by sdd_fast. Method: “Not All Steps are Created Equal: Selective Diffusion "
        "Distillation for Image Manipulation”, ICCV 2023.</footer>\n"
    )
    return "".join(parts)


def _edit_commands(runs: list[Run]) -> list[str]:
    paths = [shlex.quote(str(run.folder)) for run in runs]
    lines = [f"sdd edit {paths[0]} me.jpg --out edited --strength 0.8"]
    if len(paths) > 1:
        lines.append(f"sdd edit {' '.join(paths)} me.jpg --out edited --strength 1,0.5")
    lines.append(f"sdd export {paths[0]} --out mapper.pt")
    return lines


def _snippet(runs: list[Run]) -> str:
    record = runs[0].record
    name = json.dumps(record["domain_reference"], ensure_ascii=False)
    folder, prompt = _quoted(str(runs[0].folder)), _quoted(runs[0].prompt)
    return f"""
import sdd_fast as sdd
from sdd_fast.runs.run import run_edit

editor = sdd.Editor.load({folder})
after = editor.edit(["me.jpg"], strength=0.8, output="pil")[0]
after.save("me-edited.png")

# the same edit again, or one of yours, with a folder and report like this one
run_edit(sdd.load_domain({name}), {prompt}, "runs/another", say=print)
"""


def _quoted(text: str) -> str:
    """A Python literal in the quotes that the rest of the code has."""
    return json.dumps(text, ensure_ascii=False)
