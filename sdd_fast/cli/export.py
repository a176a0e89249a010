"""sdd export: edits as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .console import command, say
from .edit import mapper_file

if TYPE_CHECKING:
    from sdd_fast.export import Exported


@command
def export(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="A run folder or mapper file, or several of them."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write: .pt (TorchScript), .onnx, .pt2 (torch.export) or "
            ".safetensors (weights alone)."
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="torchscript, onnx, export, aoti (compiled for this kind of machine, .pt2) or "
            "safetensors. Default: by the file's name.",
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            help="mapper: latents to their change; editor: pictures and strengths to pictures; or "
            "its halves, encoder and renderer."
        ),
    ] = "mapper",
    levels: Annotated[
        str | None, typer.Option(help="Keep only these of coarse,medium,fine.")
    ] = None,
    levels_as_input: Annotated[
        bool,
        typer.Option(
            "--levels-as-input", help="Let the program that runs the editor choose the levels."
        ),
    ] = False,
    license: Annotated[
        str | None,
        typer.Option(
            help="A note on who may use the weights, to go into the file. Default: what is known.",
            show_default=False,
        ),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(
            help="Domain name, file or folder. Default: the one that the edit was distilled in.",
            rich_help_panel=options.PARTS,
        ),
    ] = None,
    generator: options.Generator = None,
    encoder: options.Encoder = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write edits as one file for other programs: the mapper, or the whole editor.

    The file is run and compared with the editor in Python; one that differs is not kept. It carries
    prompts, λ, levels, timesteps, domain and a license note; `sdd info FILE` shows them.

    \b
    Examples:
      sdd export runs/white-hair --out white-hair.pt
      sdd export runs/white-hair --out white-hair.safetensors --levels fine
      sdd export runs/white-hair runs/smile --part editor --out editor.onnx
      sdd export runs/white-hair --part editor --format aoti --out editor.pt2
    """
    from sdd_fast.export.write import check_format, check_part, export_edit

    kept = options.comma_list(levels, "--levels")
    try:
        check_format(out, format)
        check_part(part, kept, levels_as_input)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    sources = [mapper_file(run) for run in runs]
    for source in sources:
        if out.exists() and source.exists() and out.samefile(source):
            raise ValueError(f"{out} is the input, which is never replaced; give another name")
    parts = {"generator": generator, "encoder": encoder}
    done = export_edit(
        [*runs], out, part=part, format=format, levels=kept, levels_as_input=levels_as_input,
        license=license, overwrite=overwrite, domain=domain, **options.chosen(parts),
    )  # fmt: skip
    say(_written(done))


def _written(done: Exported) -> str:
    edits = done.about.get("edits", [done.about])
    prompts = ", ".join(f"“{edit['prompt'] or 'edit'}”" for edit in edits)
    size = done.path.stat().st_size
    amount = f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 1024:.0f} KiB"
    return (
        f"written: {done.path} ({done.part}, {done.format}, {amount}), {prompts}\n"
        f"largest difference from the Python editor: {done.difference:.1e} "
        f"(allowed: {done.tolerance:.1e})"
    )
