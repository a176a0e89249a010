"""sdd distill: one prompt becomes a mapper, measured and reported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdd_fast.gradients.config import GUIDANCE_RMS

from . import options
from .console import command, result, say
from .groups import typed

if TYPE_CHECKING:
    from sdd_fast.distillation.config import DistillConfig
    from sdd_fast.runs.run import EditRun


def _training(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=options.TRAINING)


def _choice(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=options.CHOICE)


@dataclass(frozen=True)
class ChoiceOptions:
    """Which timesteps the mapper is distilled from."""

    largest: Annotated[
        bool,
        _choice("The one timestep of largest HQS, rather than all within 0.1 of it.", "--largest"),
    ] = False
    top: options.Top = None
    threshold: options.Threshold = None
    timesteps: Annotated[
        str | None, _choice("These, without selection: 700,750 or first:last:step.")
    ] = None
    curve: Annotated[
        Path | None, _choice("Select from this curve.json instead of computing one.")
    ] = None

    def check(self) -> None:
        """Raise BadParameter if several of them were given that exclude each other."""
        rules = [f"--{name}" for name in typed(self) if name != "curve"]
        if len(rules) > 1 or (self.timesteps and self.curve):
            names = " and ".join(rules if len(rules) > 1 else ["--timesteps", "--curve"])
            raise typer.BadParameter(f"{names} exclude each other; give one")


@dataclass(frozen=True)
class TrainingOptions:
    """How the mapper is trained; most fields are those of `DistillConfig`."""

    steps: Annotated[int, _training("Steps of the optimizer.")] = options.TRAINED_BY.steps
    batch_size: Annotated[
        int | None,
        _training(
            f"Images per step. Default: {options.TRAINED_BY.batch_size}, or fewer large ones, as "
            "many as fit a GPU of 24 GB."
        ),
    ] = None
    lr: Annotated[float, _training("Learning rate.")] = options.TRAINED_BY.lr
    levels: Annotated[
        str | None,
        _training(
            "Layers of the generator to change: coarse (pose, shape), medium (features, "
            "expression), fine (colors), separated by commas. Default: those that suit the prompt "
            "in this domain, where known, or all."
        ),
    ] = None
    guidance_scale: Annotated[
        float | None,
        _training(
            "g: how much the prompt counts. Higher is stronger, until colors saturate. Default: "
            "balanced, so that every prompt has the same guidance RMS."
        ),
    ] = None
    guidance_rms: Annotated[
        float | None,
        _training(
            "Root mean square of the balanced guidance: how strong the edit is. Default: what "
            f"suits the prompt in this domain, or {GUIDANCE_RMS:g}."
        ),
    ] = None
    l2_weight: Annotated[float, _training("Against large changes of the latents.")] = (
        options.TRAINED_BY.l2_weight
    )
    identity_weight: Annotated[
        float, _training("Holds on to who or what is shown, where the domain can tell.")
    ] = options.TRAINED_BY.identity_weight
    range_weight: Annotated[float, _training("Against colors out of range.")] = (
        options.TRAINED_BY.range_weight
    )
    keep_weight: Annotated[
        float, _training("Holds on to what the prompt is not about, such as the background.")
    ] = options.TRAINED_BY.keep_weight
    prior_weight: Annotated[
        float, _training("Holds on to images that the diffusion model finds natural.")
    ] = options.TRAINED_BY.prior_weight
    gradient: Annotated[
        str,
        _training(
            "What the teacher asks for: sds, score distillation; or dds, the Delta Denoising "
            "Score, which takes off what it asks of the unedited picture."
        ),
    ] = options.TRAINED_BY.gradient
    source_prompt: Annotated[
        str | None,
        _training(
            "What unedited pictures show, for --gradient dds. Default: the domain's source text."
        ),
    ] = options.TRAINED_BY.source_prompt
    ema: Annotated[
        float, _training("Decay of a moving average of the mapper, such as 0.98; 0: none.")
    ] = options.TRAINED_BY.ema
    accumulate: Annotated[
        int, _training("Batches per step: as a larger batch, in the memory of one.")
    ] = options.TRAINED_BY.accumulate
    stop_early: Annotated[
        bool,
        _training(
            "End where the direction of the edit on held-out pictures gains no more.",
            "--stop-early",
        ),
    ] = False
    compile: Annotated[
        bool,
        _training(
            "Compile the teacher's U-Net with torch.compile: a minute or more at first, then "
            "faster steps.",
            "--compile",
        ),
    ] = False
    cuda_graph: Annotated[
        bool | None,
        _training(
            "Record a step as one CUDA graph, or launch kernel by kernel. Default: on a GPU it is "
            "recorded.",
            "--cuda-graph/--no-cuda-graph",
        ),
    ] = None
    memory_budget: options.MemoryBudget = None
    seed: Annotated[int, _training("Fixes everything that is drawn at random.")] = 0

    def config(self, source_text: str) -> DistillConfig:
        """Return them as checked settings; `batch_size` stays the default where none was given.

        Args:
            source_text: the source prompt where one is needed and none was given.
        """
        from sdd_fast.distillation.config import EarlyStop
        from sdd_fast.gradients.config import GuidanceConfig
        from sdd_fast.runs.run import default_config

        changes = {name: value for name, value in vars(self).items() if value is not None}
        changes.pop("levels", None)
        if self.gradient == "dds":
            changes.setdefault("source_prompt", source_text)
        changes["stop_early"] = EarlyStop() if self.stop_early else None
        if self.guidance_scale is not None:
            changes["guidance"] = GuidanceConfig(guidance_scale=changes.pop("guidance_scale"))
        return default_config(**changes)


@dataclass(frozen=True)
class OutputOptions:
    """Where the run goes, and what it runs on."""

    out: options.RunOut = None
    measured_images: Annotated[
        int,
        typer.Option(
            help="Held-out pictures to read attributes off, in domains with labels; 0: none.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = 256
    samples: Annotated[
        int | None,
        typer.Option(
            help="Held-out pictures to show while training, before and after, in samples/ of the "
            "run and to the tracker. Default: 6 with a tracker, else none.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None
    tracker: Annotated[
        str | None,
        typer.Option(
            help="What follows the training: tensorboard, wandb or another tracker of accelerate, "
            "or several separated by commas; needs the extra “track” of sdd_fast.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None
    restart: options.Restart = False
    device: options.Device = "cpu"
    dtype: options.Dtype = "float32"
    attention: options.Attention = "auto"


@command
def distill(
    prompts: options.Prompts,
    choice: ChoiceOptions,
    training: TrainingOptions,
    template: options.Template = None,
    *,
    checkpoints: options.CheckpointOptions,
    output: OutputOptions,
) -> None:
    """Distill a prompt into a mapper that edits a picture in one forward pass.

    Selects timesteps (unless they are given), trains, measures the edit on held-out pictures, and
    writes a folder with the mapper, a before/after grid and report.html. Several prompts are
    selected and trained together, and get a folder each. Stop it with Ctrl-C and give the same
    command again: it goes on where it was, to the same result.

    \b
    Examples:
      sdd distill "a face with white hair" --out runs/white-hair
      sdd distill "a smiling face" "a face with a beard" "a bald face" --out runs
      sdd distill "a smiling face" --top 3 --levels medium --steps 400
      sdd distill "a bald face" --timesteps 700,750 --guidance-scale 50
      sdd distill "white hair" --domain ffhq-1024 --template attribute --device cuda
      sdd distill "a red car" --generator car.pkl --diffusion sd15/ --source-text "a car"
    """
    from dataclasses import replace

    from sdd_fast.distillation.judge import WITHOUT_EFFECT
    from sdd_fast.domains.names import needed_options
    from sdd_fast.files import shown
    from sdd_fast.memory import training_batch
    from sdd_fast.runs.run import run_edits
    from sdd_fast.selection.choose import Selection
    from sdd_fast.selection.curve import HQSCurve

    choice.check()
    places = options.run_folders(prompts, output.out)
    if choice.curve and len(prompts) > 1:
        raise typer.BadParameter("--curve is of one prompt; the curves in their folders are used")
    timesteps = options.whole_numbers(choice.timesteps, "--timesteps")
    levels = options.comma_list(training.levels, "--levels")
    top = 1 if choice.largest else choice.top
    selection = Selection(
        top=top,
        threshold=choice.threshold,
        seed=training.seed,
        memory_budget=training.memory_budget,
    )
    curves = [HQSCurve.load(choice.curve)] if choice.curve else None
    loaded = checkpoints.open(output.device, output.dtype, output.attention)
    config = replace(training.config(loaded.source_text), samples=output.samples)
    if training.batch_size is None:
        # The generator first: if it is missing, no teacher is downloaded before that is said.
        fitting = training_batch(loaded.generator, loaded.prior)
        config = replace(config, batch_size=fitting)
    again = typed(choice, training, checkpoints, output) | {"template": template}
    runs = run_edits(
        loaded,
        [loaded.prompt(prompt, template) for prompt in prompts],
        places,
        selection=selection,
        timesteps=timesteps,
        curves=curves,
        levels=levels,
        config=config,
        measured_images=output.measured_images,
        tracker=options.comma_list(output.tracker, "--tracker"),
        resume=not output.restart,
        say=say,
        commands=[
            options.command_line("distill", prompt, **again | {"out": place})
            for prompt, place in zip(prompts, places, strict=True)
        ],
    )
    result(runs=list(map(facts_of, runs)))
    for run, place in zip(runs, places, strict=True):
        say(f"\n“{run.record['prompt']}”" if len(runs) > 1 else "")
        show_verdict(run)
        say(f"report:  {shown(run.report)}")
        if run.verdict.code in WITHOUT_EFFECT:
            continue  # the advice is what comes next
        follow = needed_options(run.record["domain_reference"]) | options.where(output.device)
        say(f"next:    {options.command_line('edit', place, 'PICTURE.png', **follow)}")


def facts_of(run: EditRun) -> dict[str, Any]:
    """What --json tells of a run."""
    from sdd_fast.run_folder import MAPPER_FILE

    return {
        "prompt": run.record["prompt"],
        "folder": run.folder,
        "mapper": run.folder / MAPPER_FILE,
        "report": run.report,
        "timesteps": run.record["timesteps"],
        "verdict": run.verdict.level,
        "code": run.verdict.code,
        "headline": run.headline,
        "advice": run.advice,
    }


def show_verdict(run: EditRun) -> None:
    """The verdict on the terminal; a bad one cannot be overlooked."""
    if run.verdict.level == "bad":
        say(f"!!! {run.headline.upper()} !!!")
    else:
        say(f"verdict: {run.headline}")
    if run.advice:
        say(f"advice:  {run.advice}")
