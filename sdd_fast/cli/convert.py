"""sdd convert: a foreign checkpoint as one safetensors file of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import command, result, say


@command
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="A generator (.pt, NVIDIA's .pkl), encoder (e4e, pSp), ArcFace, mapper or latents "
            "file of any layout that `sdd info` names.",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The file to write.")],
    part: Annotated[
        str | None,
        typer.Option(
            help="Which of generator, encoder, identity, mapper, latents, where the file holds "
            "several: an e4e file holds an encoder and its generator. e4e or psp for an encoder "
            "whose file does not tell which it is."
        ),
    ] = None,
    content_rows: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="FIRST END",
            help="Of a generator that pads its pictures: the first row that shows something and "
            "the one after the last, 64 448 for LSUN cars. The output tells them from then on.",
        ),
    ] = None,
    generator: Annotated[
        Path | None,
        typer.Option(
            help="Of an encoder whose file lost it: the generator whose average latent it starts "
            "from."
        ),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write a foreign checkpoint as a safetensors file, which loads quickly and can run nothing.

    Nothing in the input is executed, and every tensor is accounted for. The output tells where it
    came from; `sdd info` shows it.

    \b
    Examples:
      sdd convert stylegan2-ffhq-config-f.pt ffhq.safetensors
      sdd convert ffhq.pkl ffhq.safetensors
      sdd convert e4e_ffhq_encode.pt e4e.safetensors --part encoder
      sdd convert stylegan2-car-config-f.pt car.safetensors --content-rows 64 448
      sdd convert train_faces.pt train_faces.safetensors
    """
    from sdd_fast.checkpoints.convert import convert as convert_file
    from sdd_fast.checkpoints.inspect import describe_file

    written = convert_file(
        source, target, part, content_rows=content_rows, generator=generator, overwrite=overwrite
    )
    facts = describe_file(target)
    result(written=target, part=written)
    say(f"written: {target} ({facts['size']}), {written}: {facts[written]}")
