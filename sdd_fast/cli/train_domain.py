"""sdd train-domain and sdd render: domains of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import command, result, say


@command
def train_domain(
    out: Annotated[Path, typer.Argument(help="The domain's folder; training resumes in it.")],
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures with captions: metadata.jsonl with a line "
            '{"file_name": "1.png", "text": "a red car"} for each, metadata.csv or .parquet with '
            "such columns, or 1.txt beside 1.png. For --like fashion32 the folder of the files of "
            "Fashion-MNIST. Default: rendered faces."
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            help="An embedded domain to train anew, with labels and measurements: faces64 or "
            "fashion32.",
            show_default=False,
        ),
    ] = None,
    source_text: Annotated[
        str | None,
        typer.Option(help="What all the pictures show, e.g. 'a photo of a car'. For --images."),
    ] = None,
    caption_column: Annotated[
        str | None,
        typer.Option(
            help="What holds the captions: a column (default: text), or txt or caption where both "
            "are beside a picture.",
            show_default=False,
        ),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(help="32, 64 or 128 pixels. Default: 64; of fashion32 always 32."),
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(
            help="Train only these of clip, vae, classifier, identity, generator, unet, latents, "
            "quality, separated by commas. The others are taken from the folder."
        ),
    ] = None,
    budget: Annotated[
        float, typer.Option(help="Factor on the training steps: 0.1 for a quick try, 2 for better.")
    ] = 1.0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1 …")] = "cpu",
) -> None:
    """Train a small domain: diffusion model, generator, encoder and judges.

    Hours on a CPU, less on a GPU. Interrupt and repeat the command to resume. Afterwards give the
    folder as --domain to the other commands. Some thousand pictures are a good start; for
    photographs of all kinds train nothing here, but name published checkpoints with the options of
    `sdd distill`. A fifth of the pictures, at most 256, are held out: no part sees them, and edits
    are judged on them.

    \b
    Examples:
      sdd train-domain domains/cars --images cars/ --source-text "a photo of a car"
      sdd train-domain domains/faces32 --resolution 32 --budget 0.2
      sdd train-domain domains/clothes --like fashion32 --images fashion-mnist/ --budget 0.4
      sdd train-domain domains/cars --images cars/ --source-text "a photo of a car" --parts unet
    """
    from sdd_fast.domains.domain import load_domain
    from sdd_fast.domains.quality import HELD_OUT_FILE
    from sdd_fast.training.train_domain import missing_parts, train_domain as train

    if images is not None and like is None and not (source_text or "").strip():
        raise typer.BadParameter(
            "needed with --images: a few words that are true of all the pictures, such as "
            "'a photo of a cat'",
            param_hint="--source-text",
        )
    train(
        out,
        images=images,
        like=like,
        resolution=resolution,
        source_text=source_text,
        caption_column=caption_column,
        parts=options.comma_list(parts, "--parts"),
        budget=budget,
        device=device,
        say=say,
    )
    if not (out / "domain.json").exists():
        labeled = images is None or like is not None
        missing = ", ".join(missing_parts(out, labeled=labeled))
        say(f"trained. The domain is not complete yet; still to train: {missing}")
        result(domain=out, missing=missing.split(", "))
        return
    say(f"complete: {out}")
    domain = load_domain(out)
    result(domain=out, missing=[])
    if domain.held_out_images:
        say(f"held out: {len(domain.held_out_images)} pictures, named in {out / HELD_OUT_FILE}")
    what = domain.prompts[0] if domain.prompts else "WHAT THE PICTURES SHOULD SHOW"
    say(f"next:     {options.command_line('distill', what, domain=out, **options.where(device))}")


@command
def render(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("faces"),
    n: Annotated[int, typer.Option("-n", "--number", help="How many faces.")] = 16,
    seed: Annotated[int, typer.Option(help="Other seeds, other faces.")] = 0,
    resolution: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
    overwrite: options.Overwrite = False,
) -> None:
    """Draw faces to edit, with captions.

    Writes PNGs that no part of faces64 was trained on, and metadata.jsonl with a caption for each:
    also an example of what `sdd train-domain --images` reads.

    \b
    Examples:
      sdd render --out faces
      sdd render --out many -n 2000 --seed 7
    """
    from sdd_fast.domains.faces64.attributes import ATTRIBUTES
    from sdd_fast.domains.faces64.captions import captions
    from sdd_fast.domains.faces64.held_out import SHOWN_SEED, held_out_faces, pick
    from sdd_fast.domains.faces64.renderer import render as draw
    from sdd_fast.draws import choices
    from sdd_fast.files import write_text
    from sdd_fast.images import save_png
    from sdd_fast.outputs import check_free

    if not 1 <= n <= 100_000:
        raise typer.BadParameter(f"must be 1 to 100000, got {n}", param_hint="-n")
    if not 16 <= resolution <= 1024:
        raise typer.BadParameter(f"must be 16 to 1024, got {resolution}", param_hint="--resolution")
    if not 0 <= seed < 2**32:
        raise typer.BadParameter(f"must be 0 or more, below 2³², got {seed}", param_hint="--seed")
    digits = max(2, len(str(n)))
    names = [f"face-{i + 1:0{digits}d}.png" for i in range(n)]
    check_free([out / name for name in [*names, "metadata.jsonl"]], overwrite)
    faces = held_out_faces(n, seed=SHOWN_SEED + seed)
    texts = captions(faces.labels, choices(seed))
    lines = []
    for start in range(0, n, 64):
        index = range(start, min(n, start + 64))
        for i, picture in zip(index, draw(pick(faces, index), resolution), strict=True):
            save_png(out / names[i], picture)
            labels = {key: ATTRIBUTES[key][int(faces.labels[key][i])] for key in ATTRIBUTES}
            lines.append(
                json.dumps({"file_name": names[i], "text": texts[i], "attributes": labels})
            )
    write_text(out / "metadata.jsonl", "\n".join(lines) + "\n")
    result(folder=out, written=[out / name for name in names])
    say(f"drew {n} faces of {resolution} × {resolution} pixels: {out}")
    say('next: sdd distill "a face with glasses" --out runs/glasses')
    say(f"then: {options.command_line('edit', 'runs/glasses', out)}")
