"""The demo: edits of two kinds, distilled, applied to picture files and shown on one page."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._deprecated import renamed_arguments
from ..checks import check_distinct
from ..distillation.config import DistillConfig
from ..editing.editor import Editor
from ..files import PathLike, settled, shown
from ..grid import grid
from ..images import load_image, save_png
from ..lock import locked
from ..logs import logged
from ..outputs import check_free
from ..progress import Listener
from ..report import write_summary
from ..run_folder import REPORT_FILE, RUN_FILE
from ..selection.choose import Selection
from ..teacher.text import check_prompt
from .prepare import slug
from .run import EditRun, run_edits

if TYPE_CHECKING:
    from ..domains import Domain

_log = logged(__name__)

SHOWN, OVERVIEW = 6, "overview.png"


@dataclass(frozen=True)
class Demo:
    """What `run_demo` returns: the page to look at, the folder of the pictures that it edited, its
    runs, and the seconds that all took."""

    report: Path
    pictures: Path
    runs: list[EditRun]
    seconds: float


@renamed_arguments(faces="measured_images")
def run_demo(
    domain: Domain,
    out: PathLike,
    prompts: Sequence[str] | None = None,
    *,
    selection: Selection | None = None,
    config: DistillConfig | None = None,
    measured_images: int = 256,
    restart: bool = False,
    progress: bool | Listener = True,
    say: Callable[[str], None] = _log,
    command: str = "sdd demo",
) -> Demo:
    """Distill an edit per prompt, edit picture files with each and with all together, and report.

    An interrupted demo in `out` is continued; of a finished one only its pictures are edited again.

    Args:
        domain: one with labels, such as faces64: the demo draws the images that it edits.
        prompts: distinct; default: two that the domain knows. See `run_edits` for them and for the
            other arguments.
        restart: make all of it anew.

    Raises:
        ValueError: no prompts, a repeated one, a domain without labels, or a folder that holds a
            run; see `run_edit`.
        FileExistsError: the folder holds such files of something else.
    """
    began, folder, reader = time.perf_counter(), settled(out), domain.reader
    if reader is None:
        raise ValueError(
            f"the demo draws images with labels, which the domain {domain.name!r} is not about; "
            "use `sdd distill` and `sdd edit` there"
        )
    prompts = reader.DEMO_PROMPTS if prompts is None else prompts
    if not prompts:
        raise ValueError("the demo needs one or more prompts, got none")
    for prompt in prompts:
        check_prompt(prompt)
    check_distinct(prompts)
    folders = [folder / slug(prompt) for prompt in prompts]
    lacking = [target for prompt in prompts if (target := reader.target_in(prompt))]
    drawn = reader.sample_images(domain, SHOWN, lacking)
    image, images = domain.nouns["image"], domain.nouns["images"]
    files = [folder / images / f"{image}-{i + 1}.png" for i in range(SHOWN)]
    with locked(folder):
        _check_folder(folder, folders, files)
        runs = run_edits(
            domain,
            prompts,
            folders,
            selection=selection,
            config=config,
            measured_images=measured_images,
            resume=not restart,
            progress=progress,
            say=say,
            commands=[
                f"sdd distill {prompt!r} --out {shown(place)}{_domain_option(domain)}"
                for prompt, place in zip(prompts, folders, strict=True)
            ],
        )
        for run in runs:
            say(f"→ “{run.record['prompt']}”: {run.headline}")
        for path, picture in zip(files, drawn, strict=True):
            save_png(path, picture)
        say(f"\nediting {len(files)} held-out {images}: {shown(files[0].parent)} …")
        overview = _edit_files(domain, runs, files, folder)
        report = _write_page(domain, folder, runs, overview, command)
    return Demo(report, files[0].parent, runs, time.perf_counter() - began)


def _domain_option(domain: Domain) -> str:
    """What names a domain to `sdd distill`, which takes faces64 by itself."""
    known = domain.reference if isinstance(domain.reference, str) else domain.name
    return "" if known == "faces64" else f" --domain {shlex.quote(known)}"


def _check_folder(folder: Path, runs: Sequence[Path], files: Sequence[Path]) -> None:
    """Refuse a folder whose files the demo would replace, unless they are of this very demo."""
    if (folder / RUN_FILE).exists():
        raise ValueError(f"{folder} holds a run, whose report would be replaced; choose another")
    mine = any((run / RUN_FILE).exists() for run in runs)
    targets = [*files, folder / REPORT_FILE, folder / OVERVIEW, *folder.glob("edited/*/*")]
    check_free(targets, mine, otherwise="choose another folder")


def _write_page(
    domain: Domain, folder: Path, runs: list[EditRun], overview: Path, command: str
) -> Path:
    images = domain.nouns["images"]
    caption = (
        "Each picture of the first row is a file that the edits below were applied to, in one "
        f"forward pass each. Nothing was trained on these {images}, and they were not picked by "
        "hand."
    )
    if len(runs) > 1:
        caption += " The last row applies all edits at once: the changes of the latents add up."
    return write_summary(
        folder,
        [run.folder for run in runs],
        title=f"{images.capitalize()}, edited by what a diffusion model knows",
        overview=overview,
        caption=caption,
        commands=[command],
    )


def _edit_files(domain: Domain, runs: list[EditRun], files: list[Path], folder: Path) -> Path:
    """Edit the files as a user would, with each edit and with all of them; returns a grid."""
    editor = Editor.load([run.folder for run in runs], domain=domain, device=domain.device)
    edits: list[tuple[str, str, list[float]]] = []
    for i, run in enumerate(runs):
        alone = [float(i == j) for j in range(len(runs))]
        edits.append((run.folder.name, f"“{run.record['prompt']}”", alone))
    if len(runs) > 1:
        label = "both at once" if len(runs) == 2 else "all at once"
        edits.append(("all-edits", label, [1.0] * len(runs)))
    labels, rows = ["input picture"], [_load(files, domain.resolution)]
    for name, label, strengths in edits:
        written = editor.edit_files(
            files, folder / "edited" / name, strengths, overwrite=True, progress=False
        )
        labels.append(label)
        rows.append(_load(written, domain.resolution))
    path = folder / OVERVIEW
    save_png(path, grid(rows, row_labels=labels))
    return path


def _load(files: Sequence[Path], size: int) -> Tensor:
    return torch.stack([load_image(path, size) for path in files])
