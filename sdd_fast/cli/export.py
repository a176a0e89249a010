"""sdd export: edits as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .console import command, result, say
from .edit import mapper_file

if TYPE_CHECKING:
    from sdd_fast.export import Exported


@command
def export(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="A run folder, mapper file or OWNER/NAME on the hub, or several of them.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write: .pt (TorchScript), .onnx, .pt2 (torch.export) or "
            ".safetensors (weights alone); for --format web a folder."
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="torchscript, onnx, export, aoti (compiled for this kind of machine, .pt2), "
            "safetensors; or web: a page with sliders for any web server. Default: by the file's "
            "name.",
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
    domain: options.DomainOfEdit = None,
    generator: options.Generator = None,
    encoder: options.Encoder = None,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            help="For --format web: the file of `npm pack onnxruntime-web@1.30.0`, or its folder "
            "in node_modules. Default: downloaded once and checked.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = None,
    npm_registry: Annotated[
        str | None,
        typer.Option(
            help="Where it is downloaded from. Default: registry.npmjs.org.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = None,
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
      sdd export runs/white-hair runs/smile --format web --out site
    """
    from sdd_fast.export.write import check_format, check_part, export_edit

    kept = options.comma_list(levels, "--levels")
    parts = options.chosen({"generator": generator, "encoder": encoder})
    if format == "web":
        if part not in ("mapper", "editor") or kept is not None or levels_as_input:
            raise typer.BadParameter("a page is always of the whole editor and all its levels")
        runtime: dict[str, Any] = {"runtime": onnxruntime_web}
        if npm_registry is not None:
            runtime["registry"] = npm_registry
        _web(runs, out, domain=domain, license=license, overwrite=overwrite, **runtime, **parts)
        return
    try:
        check_format(out, format)
        check_part(part, kept, levels_as_input)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    sources = [mapper_file(run) for run in runs]
    for source in sources:
        if out.exists() and source.exists() and out.samefile(source):
            raise ValueError(f"{out} is the input, which is never replaced; give another name")
    done = export_edit(
        sources, out, part=part, format=format, levels=kept, levels_as_input=levels_as_input,
        license=license, overwrite=overwrite, domain=domain, **parts,
    )  # fmt: skip
    result(written=done.path, part=done.part, format=done.format, difference=done.difference)
    say(_written(done))


def _web(runs: list[Path], out: Path, **rest: Any) -> None:
    from sdd_fast.export.web import export_web

    done = export_web([*runs], out, say=say, **rest)
    for network in (done.encoder, done.renderer):
        say(
            f"{network.part}: differs by at most {network.difference:.1e} from the Python editor "
            f"(allowed: {network.tolerance:.1e})"
        )
    result(written=done.folder, format="web", bytes=done.bytes)
    say(f"written: {done.folder} ({done.bytes / 1e6:.1f} MB), for any web server, such as:")
    say(f"  python -m http.server --directory {done.folder}")


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
