"""sdd bench: what this machine makes of a teacher, and how long edits take on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .console import command, result, say

if TYPE_CHECKING:
    from sdd_fast.selection.agreement import Agreement

app = typer.Typer(no_args_is_help=True, help="Measure a teacher on this machine.")


@command
def precision(
    checkpoints: options.CheckpointOptions,
    *,
    dtypes: Annotated[
        str, typer.Option(help="What to try, separated by commas. float32 is the reference.")
    ] = "float16,bfloat16",
    attention: Annotated[
        str | None,
        typer.Option(
            help="Backends to try with each, separated by commas. Default: on a GPU all that auto "
            "may choose, on a CPU sdpa."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Default: the first prompt of the domain.")
    ] = None,
    images: Annotated[int, typer.Option(help="How many of the domain's held-out pictures.")] = 4,
    timesteps: Annotated[
        str | None, typer.Option(help="700,750 or first:last:step. Default: those of `sdd select`.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes the noise.")] = 0,
    device: options.Device = "cpu",
) -> None:
    """Say which dtypes and attention kernels leave the teacher's gradients as they are in float32.

    The gate: a mean cosine of the gradient at the image of at least 0.999 through the VAE alone
    and 0.99 of the whole at a guidance scale of 100, with the same noise, and the same timestep of
    largest HQS. The answer is kept for --dtype auto and --attention auto, which refuse what failed,
    unless fewer images or timesteps than by default were tried. The exit code is 1 if something
    failed.

    \b
    Examples:
      sdd bench precision
      sdd bench precision --diffusion sd15/ --device cuda
      sdd bench precision --diffusion sd15/ --dtypes bfloat16 --images 1 --timesteps 100:900:200
    """
    import torch

    from sdd_fast.checks import check_count, check_seed
    from sdd_fast.device import check_device
    from sdd_fast.selection.agreement import LEAST_IMAGES, measure_agreement
    from sdd_fast.selection.in_domain import held_out_of
    from sdd_fast.teacher.attention import AUTO_CANDIDATES, check_attention
    from sdd_fast.teacher.precision import check_dtype
    from sdd_fast.teacher.text import check_prompt

    place = torch.device(check_device(device))
    check_count("images", images)
    check_seed(seed)
    names = options.comma_list(dtypes, "--dtypes") or []
    for name in names:
        check_dtype(name, place, ("float16", "bfloat16", "float32"))
    usual = ["sdpa"] if place.type == "cpu" else list(AUTO_CANDIDATES)
    backends = options.comma_list(attention, "--attention") or usual
    backends = [check_attention(name) for name in backends]
    candidates = options.whole_numbers(timesteps, "--timesteps")
    domain = checkpoints.open(device, "float32", "sdpa")
    text = next(iter(domain.prompts), domain.source_text) if prompt is None else prompt
    check_prompt(text)
    with torch.no_grad():
        shown = domain.generator.synthesis(held_out_of(domain, images))
    say(f"“{text}” on {len(shown)} images, g = 100, {', '.join(names)} against float32 …")
    found = measure_agreement(
        lambda dtype: checkpoints.open(device, dtype, "sdpa").prior,
        shown,
        text,
        dict.fromkeys(names, backends),
        candidates,
        seed=seed,
    )
    result(modes=[_facts(one) for one in found])
    for line in table(found):
        say(line)
    if not all(one.kept for one in found):
        say(
            f"With fewer than {LEAST_IMAGES} images, or fewer timesteps than by default, nothing "
            "is kept for auto."
        )
    if any(not one.passed and not one.problem for one in found):
        raise typer.Exit(1)


@dataclass(frozen=True)
class PlanOptions:
    """What is to be done, of which the cost is computed."""

    m: Annotated[int, typer.Option("-m", help="Pictures to edit for each prompt.")] = 100
    n: Annotated[int, typer.Option("-n", help="Prompts.")] = 10
    steps: Annotated[int, typer.Option(help="Steps of a training.")] = options.TRAINED_BY.steps
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", "--batch", help="Pictures per step. Default: as sdd distill."),
    ] = None
    timesteps: Annotated[
        str | None,
        typer.Option(
            help="Candidates of the selection: 700,750 or first:last:step. Default: those of `sdd "
            "select`."
        ),
    ] = None
    images: Annotated[int, typer.Option(help="Pictures that the selection looks at.")] = 16


@command
def time_cost(
    checkpoints: options.CheckpointOptions,
    plan: PlanOptions,
    *,
    prompt: Annotated[
        str | None, typer.Option(help="Default: the first prompt of the domain.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Samples of each figure. Default: 5, or 2 with --quick.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Fewer samples, timesteps and steps: minutes on a CPU."),
    ] = False,
    out: Annotated[
        Path, typer.Option(help="The folder for tables and figure.", show_default=True)
    ] = Path("time-cost"),
    restart: options.Restart = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    attention: options.Attention = "auto",
) -> None:
    """Measure what edits cost by SDD and by SDEdit, and from how many pictures SDD is cheaper.

    Times units on your networks and device: an HQS evaluation, a step of a training, an edit, an
    edit by SDEdit of the same teacher (diffusers; 50 DDIM steps, and 8 of DPM-Solver++). From these
    it computes the cost of m edits for each of n prompts, and writes time-cost.json, .md and .png.
    Stop it with Ctrl-C and give the same command again: it goes on where it was.

    \b
    Examples:
      sdd bench time-cost --quick
      sdd bench time-cost -m 1000 -n 3 --steps 200
      sdd bench time-cost --domain ffhq-1024 --device cuda --dtype float16 --out costs/
    """
    from dataclasses import replace

    from sdd_fast.teacher.text import check_prompt
    from sdd_fast.timing.equations import Plan
    from sdd_fast.timing.record import FILE
    from sdd_fast.timing.time_cost import FIGURE, TABLES, time_cost as measured
    from sdd_fast.timing.units import Case

    candidates = options.whole_numbers(plan.timesteps, "--timesteps")
    whole = Plan(plan.m, plan.n, plan.steps)
    domain = checkpoints.open(device, dtype, attention)
    text = next(iter(domain.prompts), domain.source_text) if prompt is None else prompt
    check_prompt(text)
    case = Case.of(domain, text, candidates, plan.images, plan.batch_size, quick)
    searched = min(plan.images, len(domain.held_out))
    whole = replace(whole, timesteps=len(case.candidates), searched=searched)
    say(f"timing selection, training and edits of {domain.name} on {device} …")
    measured(case, out, whole, rounds=rounds, resume=not restart)
    say((out / TABLES).read_text(encoding="utf-8"))
    result(written=[out / TABLES, out / FIGURE, out / FILE])
    say(f"written: {out / TABLES}, {out / FIGURE} and {out / FILE}")


def _facts(one: Agreement) -> dict[str, object]:
    """What --json tells of a mode."""
    return {
        "dtype": one.dtype,
        "attention": one.attention,
        "passed": one.passed,
        "kept": one.kept,
        "problem": one.problem,
    }


def table(found: list[Agreement]) -> list[str]:
    """A line for each mode: mean cosines, the lowest in brackets, and the chosen timestep."""
    lines = [f"{'mode':<26}{'VAE alone':>18}{'whole':>18}{'t':>6}"]
    for one in found:
        mode = f"{one.dtype}, {one.attention}"
        if one.problem:
            lines.append(f"{mode:<26}cannot run: {one.problem}")
            continue
        vae, whole = (
            f"{mean:.4f} ({lowest:.4f})"
            for mean, lowest in ((one.vae, one.vae_lowest), (one.unet, one.unet_lowest))
        )
        choice = "none" if one.timestep is None else str(one.timestep)
        verdict = "passed" if one.passed else f"failed: {one.failure}"
        lines.append(f"{mode:<26}{vae:>18}{whole:>18}{choice:>6}  {verdict}")
    return lines
