"""sdd demo: the whole method on an embedded domain, in a few minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .console import command, result, say
from .groups import typed

DEFAULT_OUT = Path("runs/demo")


@dataclass(frozen=True)
class DemoOptions:
    """All options of the demo."""

    out: Annotated[Path, typer.Option(help="The demo's folder.")] = DEFAULT_OUT
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A prompt of your own; may be given several times. Default: two."),
    ] = None
    domain: Annotated[
        str,
        typer.Option(
            help="faces64, fashion32, or the folder of a domain that was trained like one of them."
        ),
    ] = "faces64"
    steps: Annotated[int, typer.Option(help="Training steps per prompt.")] = (
        options.TRAINED_BY.steps
    )
    measured_images: Annotated[
        int, typer.Option(help="Held-out pictures to measure each edit on; 0: none.")
    ] = 256
    seed: Annotated[int, typer.Option(help="Fixes everything that is drawn at random.")] = 0
    restart: options.Restart = False
    device: options.Device = "cpu"
    dtype: options.Dtype = "float32"
    attention: options.Attention = "auto"


@command
def demo(given: DemoOptions) -> None:
    """See it work: two edits, distilled, measured and applied to picture files.

    Needs no GPU, no download and no account. Takes a few minutes on two CPU cores and leaves a
    page to look at, report.html, in --out.

    \b
    Examples:
      sdd demo
      sdd demo --prompt "a bald face" --prompt "a face with glasses" --out runs/mine
      sdd demo --domain fashion32 --out runs/clothes
    """
    from sdd_fast.distillation.judge import WITHOUT_EFFECT
    from sdd_fast.domains.names import needed_options
    from sdd_fast.files import shown
    from sdd_fast.runs.demo import run_demo
    from sdd_fast.runs.run import default_config
    from sdd_fast.selection.choose import Selection

    from .distill import facts_of, show_verdict

    say(f"demo of Selective Diffusion Distillation, domain {given.domain}")
    made = run_demo(
        options.open_domain(
            given.domain, given.device, dtype=given.dtype, attention=given.attention
        ),
        given.out,
        given.prompt or None,
        selection=Selection(seed=given.seed),
        config=default_config(steps=given.steps, seed=given.seed),
        measured_images=given.measured_images,
        restart=given.restart,
        say=say,
        command=options.command_line("demo", **typed(given)),
    )
    result(report=made.report, pictures=made.pictures, runs=list(map(facts_of, made.runs)))
    say("")
    for run in made.runs:
        say(f"“{run.record['prompt']}”")
        show_verdict(run)
    say(f"\nfinished in {made.seconds:.0f} s")
    pictures = shown(made.pictures)
    say(f"look at:  {shown(made.report)}")
    say(f"pictures: {pictures} → {given.out / 'edited'}")
    for run in [run for run in made.runs if run.verdict.code not in WITHOUT_EFFECT][:1]:
        follow = needed_options(run.record["domain_reference"]) | options.where(given.device)
        again = options.command_line("edit", shown(run.folder), pictures, strength=0.6, **follow)
        say(f"next:     {again}")
