"""The command `sdd`: thin; it parses, calls the package, and shows progress.

Whatever is heavier than torch is imported inside the commands, so that `sdd --help` is quick.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

try:
    import typer

    from sdd_fast import interrupt

    from . import (
        app_command,
        bench,
        bench_paper,
        console,
        convert,
        demo,
        distill,
        edit,
        export,
        info,
        invert,
        push,
        select,
        train_domain,
    )  # fmt: skip
except KeyboardInterrupt:  # there is nothing to save or to tell yet
    sys.exit(130)

app = typer.Typer(
    name="sdd",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_MAIN, _FILES, _OWN = "Make an edit", "Use it", "Domains of your own"

app.command("demo", rich_help_panel=_MAIN)(demo.demo)
app.command("select", rich_help_panel=_MAIN)(select.select)
app.command("distill", rich_help_panel=_MAIN)(distill.distill)
app.command("edit", rich_help_panel=_FILES)(edit.edit)
app.command("app", rich_help_panel=_FILES)(app_command.app)
app.command("invert", rich_help_panel=_FILES)(invert.invert)
app.command("export", rich_help_panel=_FILES)(export.export)
app.command("push", rich_help_panel=_FILES)(push.push)
app.command("convert", rich_help_panel=_FILES)(convert.convert)
app.command("info", rich_help_panel=_FILES)(info.info)
app.add_typer(bench.app, name="bench", rich_help_panel=_FILES)
bench.app.command("precision")(bench.precision)
bench.app.command("time-cost")(bench.time_cost)
bench.app.command("paper")(bench_paper.paper)
bench.app.command("train")(bench_paper.train)
app.command("render", rich_help_panel=_OWN)(train_domain.render)
app.command("train-domain", rich_help_panel=_OWN)(train_domain.train_domain)


EARLIER = {
    ("distill", "--pull"): "--guidance-rms",
    ("invert", "--pull"): "--l2-weight",
    ("select", "--normalise"): "--normalize",
}
"""(Command, option of earlier versions) → its name now."""


def _version(wanted: bool) -> None:
    if wanted:
        from sdd_fast import __version__

        print(f"sdd_fast {__version__}")
        raise typer.Exit


@app.callback()
@console.callback
def _sdd(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option(console.DEBUG, help="Show the traceback of an error; goes anywhere.")
    ] = False,
) -> None:
    """Selective Diffusion Distillation: turn a prompt into a picture edit of one forward pass.

    A text-to-image diffusion model teaches a small mapper to edit the latents of a generator, at
    the timesteps where it has most to say about the prompt. Start with the demo, then try a prompt
    of your own:

    \b
      sdd demo
      sdd distill "a face with glasses" --out runs/glasses
      sdd edit runs/glasses runs/demo/faces --out edited
    """


def main(arguments: list[str] | None = None) -> None:
    """The entry point of the console script; `arguments` default to those of the process."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    console.take_debug(words)
    _rename(words)
    # Only local folders are loaded here, in a moment: no bars of other libraries for that.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without ξ or “ still gets the rest
    try:
        app(args=words, prog_name="sdd")
    except KeyboardInterrupt:  # before the command itself has begun
        sys.exit(130)
    except SystemExit as end:
        if arguments is None and end.code == 130:
            interrupt.ignore_signals()
        raise


def _rename(words: list[str]) -> None:
    """Let options of earlier versions be typed for now."""
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if word == "--":
            break
        if (words[0], name) in EARLIER:
            new = EARLIER[words[0], name]
            words[i] = f"{new}{equals}{value}"
            console.say(f"warning: {name} is now called {new}")
