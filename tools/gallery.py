"""Writes docs/gallery.md and its pictures: every edit that faces64 is measured with, and mixtures.

    python tools/gallery.py                         # the default settings; minutes on a CPU
    python tools/gallery.py --steps 150 --batch-size 2 --images 8     # quicker, weaker

The runs stay in runs/gallery, so that the same command goes on after an interruption. The faces are
held-out ones that lack what the prompt asks for, the first of a fixed seed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sdd_fast as sdd
from sdd_fast.grid import grid
from sdd_fast.metrics import right_answers
from sdd_fast.runs.prepare import slug
from sdd_fast.runs.run import default_config, run_edits
from sdd_fast.selection.choose import Selection

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gallery.md"
PICTURES = ROOT / "docs" / "images" / "gallery"
FACES = 7
LESS = "\nBy default a training has {steps} steps of {batch} images: some edits are weak here."
HEAD = """# Gallery

Made by `tools/gallery.py`: {count} edits of faces64, distilled together in {steps} steps of
{batch} images each. First row: held-out faces that lack what the prompt asks for, the first of a
fixed seed, not picked by hand. The next: encoded and generated again, without an edit. *Success*:
the share of {images} held-out faces without the target that show it at strength 1; *kept*: of their
other attributes, the share that reads as before.{less}

| prompt | timesteps | success | kept | verdict |
|---|---|---|---|---|
{rows}

These faces are drawings of 64 × 64 pixels, and so is what the edits know. What is wrong with them
is in the [guide](guide.md#what-is-still-imperfect).

## One edit, at growing strength
"""


@dataclass(frozen=True)
class Mixture:
    """Several edits at once."""

    title: str
    text: str
    rows: tuple[tuple[str, dict[str, float], tuple[str, ...] | None], ...]
    """Label, strength of each prompt that is not 0, levels."""


HAIR, BEARD, GLASSES = "a face with white hair", "a face with a beard", "a face with glasses"
SMILE, TURN = "a smiling face", "a face, turned to the left"
MIXTURES = (
    Mixture(
        "Several edits at once",
        "Every mapper sees the unedited latent, and the changes add up. The order does not matter.",
        (
            ("white hair", {HAIR: 1}, None),
            ("and glasses", {HAIR: 1, GLASSES: 1}, None),
            ("and a smile", {HAIR: 1, GLASSES: 1, SMILE: 1}, None),
            ("turned, too", {HAIR: 1, GLASSES: 1, SMILE: 1, TURN: 1}, None),
        ),
    ),
    Mixture(
        "Backwards",
        "A negative strength goes the other way. Where that leads nobody has asked the teacher.",
        (
            ("a smile, −1", {SMILE: -1}, None),
            ("unedited", {}, None),
            ("a smile, 1", {SMILE: 1}, None),
        ),
    ),
    Mixture(
        "Levels",
        "The same edit on some layers of the generator: coarse ones are about pose and shape, "
        "medium ones about features, fine ones about color.",
        (
            ("coarse alone", {HAIR: 1}, ("coarse",)),
            ("medium alone", {HAIR: 1}, ("medium",)),
            ("fine alone", {HAIR: 1}, ("fine",)),
            ("all", {HAIR: 1}, None),
        ),
    ),
)


def save(name: str, rows: list[Tensor], labels: list[str]) -> str:
    """Write a picture; return the Markdown that shows it."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    picture = grid([row.cpu() for row in rows], row_labels=labels, cell=96)
    picture.save(PICTURES / f"{name}.webp", quality=90, method=6)
    return f"images/gallery/{name}.webp"


def strengths(editor: sdd.Editor, wanted: dict[str, float]) -> list[float]:
    return [wanted.get(info.prompt, 0.0) for info in editor.infos]


def edit_section(domain: sdd.Domain, editor: sdd.Editor, prompt: str) -> str:
    faces = right_answers(domain, prompt, FACES).images
    w_plus = editor.encode(faces)
    rows, labels = [faces], ["drawn"]
    for strength in (0.0, 0.5, 1.0, 1.5):
        rows.append(editor.edit(w_plus, strengths(editor, {prompt: strength})))
        labels.append(f"{strength:g}")
    shown = save(slug(prompt), rows, labels)
    return f"### “{prompt}”\n\n![{FACES} faces, and what “{prompt}” makes of them]({shown})\n"


def mixture_section(editor: sdd.Editor, faces: Tensor, mixture: Mixture) -> str:
    w_plus = editor.encode(faces)
    rows, labels = [faces], ["drawn"]
    for label, wanted, levels in mixture.rows:
        rows.append(editor.edit(w_plus, strengths(editor, wanted), levels=levels))
        labels.append(label)
    shown = save(mixture.title.lower().replace(" ", "-"), rows, labels)
    pictured = ", ".join(labels[1:])
    return f"## {mixture.title}\n\n{mixture.text}\n\n![{FACES} faces: {pictured}]({shown})\n"


def table_row(record: dict[str, Any]) -> str:
    quality, chosen = record["quality"], ", ".join(map(str, record["timesteps"]))
    verdict = record["verdict"]["code"]
    return (
        f"| {record['prompt']} | {chosen} | {quality['success']:.2f} | {quality['kept_mean']:.2f} "
        f"| {verdict} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=sdd.DistillConfig().steps)
    parser.add_argument("--batch-size", type=int, default=sdd.DistillConfig().batch_size)
    parser.add_argument("--images", type=int, default=16, help="to select the timesteps on")
    parser.add_argument("--out", type=Path, default=Path("runs/gallery"))
    options = parser.parse_args()

    domain = sdd.load_domain("faces64")
    runs = run_edits(
        domain,
        domain.prompts,
        [options.out / slug(prompt) for prompt in domain.prompts],
        selection=Selection(images=options.images),
        config=default_config(steps=options.steps, batch_size=options.batch_size),
        say=print,
    )
    editor = sdd.Editor.load([run.folder for run in runs], domain=domain)
    faces = right_answers(domain, HAIR, FACES).images
    with torch.no_grad():
        parts = [edit_section(domain, editor, prompt) for prompt in domain.prompts]
        parts += [mixture_section(editor, faces, mixture) for mixture in MIXTURES]
    usual = sdd.DistillConfig()
    fewer = options.steps * options.batch_size < usual.steps * usual.batch_size
    head = HEAD.format(
        less=LESS.format(steps=usual.steps, batch=usual.batch_size) if fewer else "",
        count=len(runs),
        steps=options.steps,
        batch=options.batch_size,
        images=runs[0].record["quality"]["images"],
        rows="\n".join(table_row(run.record) for run in runs),
    )
    PAGE.write_text("\n".join([head, *parts]), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)} and {len(parts)} pictures")


if __name__ == "__main__":
    main()
