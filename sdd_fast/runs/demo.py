"""The demo: edits of two kinds, distilled, applied to picture files and shown on one page."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..distillation.config import DistillConfig
from ..edit import Editor
from ..files import PathLike
from ..images import (grid, load_image, save_png)
from ..report import write_summary
from ..run_folder import RUN_FILE
from .record import read_run
from ..report.showcase import (shown_pictures, shows_faces, target_of)
from .run import (EditRun, run_edit)
from ..selection.choose import Selection

if TYPE_CHECKING:
    from ..domains import Domain

PROMPTS = ("a face with white hair", "a surprised face")
FACES = 6


@dataclass(frozen=True)
class Demo:
    """What `run_demo` returns: the page to look at, its runs, and the seconds that all took."""

    report: Path
    runs: list[EditRun]
    seconds: float


def run_demo(
    domain: Domain,
    out: PathLike,
    prompts: Sequence[str] = PROMPTS,
    *,
    selection: Selection | None = None,
    config: DistillConfig | None = None,
    faces: int = 256,
    restart: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
    command: str = "sdd demo",
) -> Demo:
    """Distil an edit per prompt, edit picture files with each and with all together, and report.

    A finished demo in `out` is made anew; an interrupted one is continued, unless `restart`.

    Args:
        domain: one of rendered faces, since the demo draws the pictures that it edits.
        prompts: distinct; see `run_edit` for them and for the other arguments.

    Raises:
        ValueError: no prompts, a repeated one, or a domain without rendered faces; see `run_edit`.
    """
    began, folder = time.perf_counter(), Path(out)
    folders = [folder / slug(prompt) for prompt in prompts]
    if not prompts or len(set(folders)) < len(folders):
        raise ValueError(f"the demo needs one or more different prompts, got {list(prompts)}")
    if not shows_faces(domain):
        raise ValueError(
            f"the demo draws faces, which the domain {domain.name!r} is not about; use `sdd "
            "distill` and `sdd edit` there"
        )
    lacking = [target for prompt in prompts if (target := target_of(domain, prompt))]
    pictures = shown_pictures(domain, FACES, lacking)
    assert pictures is not None
    files = []
    for i, picture in enumerate(pictures):
        files.append(folder / "faces" / f"face-{i + 1}.png")
        save_png(files[-1], picture)
    say(f"{len(files)} held-out faces to edit: {files[0].parent}")

    runs = []
    for i, (prompt, place) in enumerate(zip(prompts, folders, strict=True)):
        say(f"\n[{i + 1}/{len(prompts)}] “{prompt}”")
        again = (place / RUN_FILE).exists() and bool(read_run(place).get("complete"))
        run = run_edit(
            domain,
            prompt,
            place,
            selection=selection,
            config=config,
            faces=faces,
            resume=not (restart or again),
            progress=progress,
            say=say,
            command=f"sdd distill {prompt!r} --out {place}",
        )
        say(f"→ {run.verdict.headline}")
        runs.append(run)

    say("\nediting the faces …")
    overview = _edit_faces(domain, runs, files, folder)
    spent = time.perf_counter() - began
    caption = (
        "Each picture of the first row is a file that the edits below were applied to, in one "
        "forward pass each. Nothing was trained on these faces, and they were not picked by hand."
    )
    if len(runs) > 1:
        caption += " The last row applies all edits at once: the changes of the latents add up."
    report = write_summary(
        folder,
        folders,
        title="Faces, edited by what a diffusion model knows",
        overview=overview,
        caption=caption,
        commands=[command],
    )
    return Demo(report, runs, spent)


def _edit_faces(domain: Domain, runs: list[EditRun], files: list[Path], folder: Path) -> Path:
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
        written = editor.edit_files(files, folder / "edited" / name, strengths)
        labels.append(label)
        rows.append(_load(written, domain.resolution))
    path = folder / "overview.png"
    save_png(path, grid(rows, row_labels=labels))
    return path


def _load(files: Sequence[Path], size: int) -> Tensor:
    import torch

    return torch.stack([load_image(path, size) for path in files])


def slug(prompt: str) -> str:
    """A folder name for a prompt: "a face with white hair" → "a-face-with-white-hair"."""
    return re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:60] or "edit"
