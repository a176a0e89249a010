"""sdd invert: a folder of pictures to the latents that generate them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .console import command, result, say

if TYPE_CHECKING:
    from sdd_fast.inversion.invert import Inversion

_LISTED = 10  # pictures in a list on the terminal


@command
def invert(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures.")],
    out: Annotated[
        Path,
        typer.Option(
            help="The latents file to write; the contact sheet goes beside it, as .png.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = Path("latents.safetensors"),
    aligned: options.Aligned = False,
    refine: Annotated[
        int,
        typer.Option(
            help="Gradient steps from the encoder's latents towards the pictures: closer, at the "
            "cost of time; 100 help."
        ),
    ] = 0,
    l2_weight: Annotated[
        float | None,
        typer.Option(
            help="With --refine: what holds the latents near the encoder's, where edits work best."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures at once.", min=1)] = 8,
    strict: options.Strict = False,
    domain: options.DomainName = None,
    generator: options.Generator = None,
    encoder: options.Encoder = None,
    identity: options.Identity = None,
    detector: options.Detector = None,
    restart: options.Restart = False,
    device: options.Device = "cpu",
) -> None:
    """Find the latents of a folder of pictures, to train with or to edit.

    Writes a latents file, and a contact sheet to see how well the generator can show the pictures.
    Pictures that cannot be used are left out and listed at the end; the exit status is then 1. Stop
    it with Ctrl-C and give the same command again: it goes on where it was, to the same result.

    \b
    Examples:
      sdd invert my-faces --out my-faces.safetensors
      sdd invert my-faces --out closer.safetensors --refine 100
      sdd edit runs/white-hair my-faces.safetensors
      sdd invert photos --domain ffhq-1024 --out photos.safetensors
    """
    from dataclasses import replace

    from sdd_fast.inversion.invert import invert as run
    from sdd_fast.inversion.refine import Refinement

    if aligned and detector is not None:
        raise typer.BadParameter("--aligned and --detector exclude each other")
    if refine < 0:
        raise typer.BadParameter(f"must be 0 or more, got {refine}", param_hint="--refine")
    if l2_weight is not None and not refine:
        raise typer.BadParameter("--l2-weight is for --refine", param_hint="--l2-weight")
    if out.suffix.lower() != ".safetensors":
        raise typer.BadParameter(f"{out.name!r} must end in .safetensors", param_hint="--out")
    refinement = Refinement(steps=refine)
    if l2_weight is not None:
        refinement = replace(refinement, l2_weight=l2_weight)
    loaded = options.open_domain(
        domain, device, generator=generator, encoder=encoder, identity=identity, detector=detector
    )
    if loaded.encoder is None:
        raise ValueError(f"the domain {loaded.name} has no encoder; name one with --encoder")
    done = run(
        folder,
        loaded.encoder,
        loaded.generator,
        out,
        detector=loaded.detector if loaded.align and not aligned else None,
        refinement=refinement,
        identity=loaded.identity if refine else None,
        domain=loaded.name,
        batch_size=batch_size,
        resume=not restart,
        strict=strict,
    )
    show(done)
    result(
        written=done.path,
        sheet=done.sheet,
        psnr=dict(zip(done.names, done.psnr, strict=True)),
        skipped=[{"name": name, "reason": reason} for name, reason in done.skipped.items()],
    )
    follow = {"domain": domain, "generator": generator} | options.where(device)
    again = options.command_line("edit", "runs/RUN", out, **follow)
    say(f"next:          {again}")
    if done.skipped:
        raise typer.Exit(1)


def show(done: Inversion) -> None:
    """What was found, what was skipped, and how close the reconstructions are."""
    from sdd_fast.files import shown

    worst = sorted(zip(done.psnr, done.names, strict=True))
    listed = worst if len(worst) <= 2 * _LISTED else worst[:_LISTED]
    if len(listed) < len(worst):
        say(f"PSNR of the {len(listed)} furthest from their pictures (all are in the file):")
    for value, name in listed:
        say(f"  {value:5.1f} dB  {name}")
    mean, before = (sum(values) / len(values) for values in (done.psnr, done.psnr_encoder))
    better = f" (encoder alone: {before:.1f} dB)" if done.psnr != done.psnr_encoder else ""
    say(f"mean PSNR:     {mean:.1f} dB{better}")
    for title, lines in (
        ("skipped", list(done.skipped.values())),
        ("note", [f"{name}: {note}" for name, note in done.notes.items()]),
    ):
        for line in lines[:_LISTED]:
            say(f"warning: {title}: {line}")
        if len(lines) > _LISTED:
            say(f"warning: {title}: {len(lines) - _LISTED} more, listed in the file's metadata")
    count = len(done.names)
    say(f"latents:       {shown(done.path)} ({count} picture{'s' if count > 1 else ''})")
    say(f"contact sheet: {shown(done.sheet)}")
