"""sdd app: a page with sliders, for whoever has a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .console import command, result, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdd_fast.app.training import Request


@command
def app(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run folders or mapper files, a slider each; or a file of Editor.save.",
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where further runs lie, which visitors may add, and where new ones go. Default: "
            "the folder that the first RUN is in.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Whom to listen to. 0.0.0.0: whoever can reach this machine, who can then use the "
            "page, see the runs of its folder and train."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the page's address.")] = 7860,
    no_training: Annotated[
        bool, typer.Option("--no-training", help="Leave out the tab that trains.")
    ] = False,
    domain: options.DomainOfEdit = None,
    generator: options.Generator = None,
    encoder: options.Encoder = None,
    detector: options.Detector = None,
    device: options.Device = "cpu",
) -> None:
    """Open a page with sliders: pictures edited in a browser, reports, and training.

    Upload, drop or take a picture, or pick one of the domain's; a slider for each edit answers
    within one forward pass. Runs can be added on the page, and new ones trained there, one at a
    time. Needs the extra “app”: pip install 'sdd_fast[app]'. Ctrl-C ends it; a training is then
    stopped so that it can go on.

    \b
    Examples:
      sdd app runs/white-hair
      sdd app runs/white-hair runs/surprised --port 8000
      sdd app purple_hair.pt --domain ffhq-1024 --device cuda --no-training
    """
    from sdd_fast.app.launch import check_gradio, check_port, open_studio, serving, wait

    check_gradio()
    check_port(host, port)
    parts = {"generator": generator, "encoder": encoder, "detector": detector}
    studio = open_studio(runs, folder, domain=domain, device=device, **options.chosen(parts))
    again = _command({"domain": domain, "device": None if device == "cpu" else device})
    with serving(studio, host=host, port=port, training=not no_training, command=again) as address:
        result(address=address, runs=runs)
        say(f"the page is at {address} (Ctrl-C ends it)")
        wait()


def _command(named: dict[str, Any]) -> Callable[[Request, Path], str]:
    """What in a terminal does what the page is asked for."""

    def command_of(request: Request, folder: Path) -> str:
        from sdd_fast.files import shown

        told = {
            "out": shown(folder),
            "steps": request.steps,
            "timesteps": ",".join(map(str, request.timesteps)) or None,
            "levels": ",".join(request.levels) or None,
            "seed": request.seed or None,
        }
        return options.command_line("distill", request.prompt, **told, **named)

    return command_of
