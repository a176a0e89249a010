"""sdd distill: one prompt becomes a mapper, measured and reported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .console import command, say

if TYPE_CHECKING:
    from sdd_fast.runs.run import EditRun


def _training(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=options.TRAINING)


def _choice(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=options.CHOICE)


@command
def distill(
    prompt: options.Prompt,
    largest: Annotated[
        bool,
        _choice("The one timestep of largest HQS, rather than all within 0.1 of it.", "--largest"),
    ] = False,
    top: options.Top = None,
    threshold: options.Threshold = None,
    timesteps: Annotated[
        str | None, _choice("These, without selection: 700,750 or first:last:step.")
    ] = None,
    curve: Annotated[
        Path | None, _choice("Select from this curve.json instead of computing one.")
    ] = None,
    steps: Annotated[int, _training("Steps of the optimiser.")] = options.TRAINED_BY.steps,
    batch_size: Annotated[
        int | None,
        _training(
            "Pictures per step. Default: 8, or fewer large ones, as many as fit a GPU of 24 GB."
        ),
    ] = None,
    lr: Annotated[float, _training("Learning rate.")] = options.TRAINED_BY.lr,
    levels: Annotated[
        str | None,
        _training(
            "Layers of the generator to change: coarse (pose, shape), medium (features, "
            "expression), fine (colours), separated by commas. Default: those that suit the prompt "
            "in this domain, where known, or all."
        ),
    ] = None,
    guidance_scale: Annotated[
        float | None,
        _training(
            "g: how much the prompt counts. Higher is stronger, until colours burn. Default: "
            "balanced, so that every prompt pulls equally hard."
        ),
    ] = None,
    pull: Annotated[
        float | None,
        _training(
            f"How hard. Default: what suits the prompt in this domain, or {options.GUIDANCE_RMS:g}."
        ),
    ] = None,
    l2_weight: Annotated[
        float, _training("Against large changes of the latents.")
    ] = options.TRAINED_BY.l2_weight,
    identity_weight: Annotated[
        float, _training("Holds on to the person, where the domain can tell persons apart.")
    ] = options.TRAINED_BY.identity_weight,
    range_weight: Annotated[
        float, _training("Against colours out of range.")
    ] = options.TRAINED_BY.range_weight,
    keep_weight: Annotated[
        float, _training("Holds on to what the prompt is not about, such as the background.")
    ] = options.TRAINED_BY.keep_weight,
    prior_weight: Annotated[
        float, _training("Holds on to pictures that the diffusion model finds natural.")
    ] = options.TRAINED_BY.prior_weight,
    seed: Annotated[int, _training("Fixes everything that is drawn at random.")] = 0,
    template: options.Template = None,
    domain: options.DomainName = None,
    generator: options.Generator = None,
    encoder: options.Encoder = None,
    diffusion: options.Diffusion = None,
    latents: options.Latents = None,
    identity: options.Identity = None,
    clip: options.Clip = None,
    source_text: options.SourceText = options.PHOTO,
    out: options.RunOut = None,
    faces: Annotated[
        int,
        typer.Option(
            help="Held-out faces to measure on; 0 leaves measuring out.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = 256,
    restart: options.Restart = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
) -> None:
    """Distil a prompt into a mapper that edits a picture in one forward pass.

    Selects timesteps (unless they are given), trains, measures the edit on held-out pictures, and
    writes a folder with the mapper, a before/after grid and report.html. Stop it with Ctrl-C and
    give the same command again: it goes on where it was, to the same result.

    \b
    Examples:
      sdd distill "a face with white hair" --out runs/white-hair
      sdd distill "a smiling face" --top 3 --levels medium --steps 400
      sdd distill "a bald face" --timesteps 700,750 --guidance-scale 50
      sdd distill "white hair" --domain ffhq-1024 --template attribute --device cuda
      sdd distill "a red car" --generator car.pkl --diffusion sd15/ --source-text "a car"
    """
    from dataclasses import replace

    from sdd_fast.gradients.config import GuidanceConfig
    from sdd_fast.memory import training_batch
    from sdd_fast.runs.run import default_config, run_edit, slug
    from sdd_fast.selection.choose import Selection
    from sdd_fast.selection.curve import HQSCurve

    given = {
        "--largest": largest or None,
        "--top": top,
        "--threshold": threshold,
        "--timesteps": timesteps,
    }
    rules = [name for name, value in given.items() if value is not None]
    if len(rules) > 1 or (timesteps and curve):
        names = " and ".join(rules if len(rules) > 1 else ["--timesteps", "--curve"])
        raise typer.BadParameter(f"{names} exclude each other; give one")
    place = out or Path("runs") / slug(prompt)
    fixed = options.whole_numbers(timesteps, "--timesteps")
    wanted = options.comma_list(levels, "--levels")
    config = default_config(
        steps=steps,
        batch_size=options.TRAINED_BY.batch_size if batch_size is None else batch_size,
        lr=lr,
        l2_weight=l2_weight,
        identity_weight=identity_weight,
        range_weight=range_weight,
        keep_weight=keep_weight,
        prior_weight=prior_weight,
        guidance=None if guidance_scale is None else GuidanceConfig(guidance_scale=guidance_scale),
        guidance_rms=pull,
        seed=seed,
    )
    selection = Selection(top=1 if largest else top, threshold=threshold, seed=seed)
    loaded_curve = HQSCurve.load(curve) if curve else None
    parts: dict[str, Any] = {
        "generator": generator,
        "encoder": encoder,
        "diffusion": diffusion,
        "latents": latents,
        "identity": identity,
        "clip": clip,
    }
    typed = options.command_line(
        "distill",
        prompt,
        template=template,
        domain=domain,
        **parts,
        source_text=None if source_text == options.PHOTO else source_text,
        out=place,
        top=top,
        threshold=threshold,
        timesteps=timesteps,
        curve=curve,
        **options.changed(steps=steps),
        batch_size=batch_size,
        **options.changed(
            lr=lr, l2_weight=l2_weight, identity_weight=identity_weight, range_weight=range_weight,
            keep_weight=keep_weight, prior_weight=prior_weight,
        ),
        guidance_scale=guidance_scale,
        pull=pull,
        largest=largest,
        levels=levels,
        seed=seed or None,
        device=None if device == "cpu" else device,
        dtype=None if dtype == "float32" else dtype,
    )  # fmt: skip
    loaded = options.open_domain(domain, device, source_text, dtype, **parts)
    if batch_size is None:
        # The generator first: if it is missing, no teacher is downloaded before that is said.
        fitting = training_batch(loaded.generator, loaded.prior)
        config = replace(config, batch_size=fitting)
    run = run_edit(
        loaded,
        loaded.prompt(prompt, template),
        place,
        selection=selection,
        timesteps=fixed,
        curve=loaded_curve,
        levels=wanted,
        config=config,
        faces=faces,
        resume=not restart,
        say=say,
        command=typed,
    )
    say("")
    show_verdict(run)
    say(f"report:  {run.report}")
    say(f"next:    {options.command_line('edit', place, 'PICTURE.png')}")


def show_verdict(run: EditRun) -> None:
    """The verdict on the terminal; a bad one cannot be overlooked."""
    if run.verdict.level == "bad":
        say(f"!!! {run.headline.upper()} !!!")
    else:
        say(f"verdict: {run.headline}")
    if run.advice:
        say(f"advice:  {run.advice}")
