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


@dataclass(frozen=True)
class EvidenceOptions:
    """How much is measured; None: as the plan has it."""

    images: Annotated[
        int | None,
        typer.Option("--images", "-m", help="Pictures that every editor edits for each prompt."),
    ] = None
    asked_prompts: Annotated[
        int | None, typer.Option("-n", help="Prompts that total times are computed for.")
    ] = None
    prompts: Annotated[
        int | None, typer.Option(help="How many of the domain's prompts, in tables 1 and 2.")
    ] = None
    ablation_prompts: Annotated[
        int | None, typer.Option(help="Likewise in Table 3 and the study of HQS.")
    ] = None
    ablation_seeds: Annotated[
        int | None, typer.Option("--seeds", help="Trainings of each choice of timesteps.")
    ] = None


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


@command
def paper(
    checkpoints: options.CheckpointOptions,
    amounts: EvidenceOptions,
    *,
    only: Annotated[
        str | None,
        typer.Option(help="Parts, separated by commas: table1, table2, table3, hqs, figures."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Editors to compare with, separated by commas. Default: all that need no training "
            "of their own, and those of --trained."
        ),
    ] = None,
    trained: Annotated[
        Path | None,
        typer.Option(
            help="The folder of `sdd bench train`: what is trained there is compared with, too.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            help="A file with settings of other editors, such as benchmarks/settings-fashion32."
            "json. Default: their defaults, which are the best found in faces64.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Few prompts, images and steps: minutes on a CPU."),
    ] = False,
    out: Annotated[
        Path, typer.Option(help="The folder for page, tables and figures.", show_default=True)
    ] = Path("evidence"),
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    attention: options.Attention = "auto",
) -> None:
    """Measure the paper's tables and figures in a domain: SDD beside other editors.

    Table 1: quality and time of every editor on the same images. Table 2: SDD and StyleCLIP. Table
    3: which timesteps to distill from, under a limited budget. hqs: whether HQS picks well. Writes
    results.md with all of it, each table as .md, .csv and .json, and the figures. What is measured
    is kept as it comes: stop it with Ctrl-C and give the same command again to go on.

    \b
    Examples:
      sdd bench paper --quick
      sdd bench paper --only table3 --out evidence/faces64
      sdd bench paper --domain my-domain/ --methods sdedit,ddib -m 50
      sdd bench paper --trained editors --out evidence/faces64
      sdd bench paper --domain fashion32 --settings benchmarks/settings-fashion32.json
    """
    from dataclasses import replace

    from sdd_fast.evidence.paper import PAGE, check_parts, checked, is_ours
    from sdd_fast.evidence.plan import Plan
    from sdd_fast.evidence.settings import read_settings
    from sdd_fast.evidence.subject import prompts_of

    parts = check_parts(options.comma_list(only, "--only"))
    plan = Plan.quick() if quick else Plan()
    if settings is not None:
        plan = plan.with_settings(read_settings(settings))
    asked = {name: value for name, value in vars(amounts).items() if value is not None}
    names = options.comma_list(methods, "--methods")
    plan = replace(plan, **asked, methods=None if names is None else tuple(names))
    domain = checkpoints.open(device, dtype, attention)
    there = len(prompts_of(domain))
    for name in ("prompts", "ablation_prompts"):
        if asked.get(name, 0) > there:
            raise ValueError(
                f"{name} is {asked[name]}, but the domain {domain.name} names {there} to measure "
                'with; list more as "prompts" in its domain file'
            )
    work = checked(domain, out, plan, only=parts, trained=trained)
    say(f"measuring {', '.join(parts)} of {domain.name} on {device}, the {plan.name} plan …")
    failures = work.measure()
    for why in sorted(set(failures.values())):
        say(f"warning: not measured, {why}")
    result(written=[out / PAGE], failures=sorted(set(failures.values())))
    say(f"written: {out / PAGE}")
    if any(is_ours(name) for name in failures):
        raise typer.Exit(1)


@command
def train(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Of few-step, diffae and instruct-pix2pix. Default: all that the domain can have.",
            show_default=False,
        ),
    ] = None,
    *,
    checkpoints: options.CheckpointOptions,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Captioned pictures that the teacher knows, as for `sdd train-domain`. Default: "
            "rendered faces or Fashion-MNIST, in a domain of these. instruct-pix2pix takes none.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[float, typer.Option(help="Factor on the training steps.")] = 1.0,
    out: Annotated[
        Path, typer.Option(help="Folder for a folder of each.", show_default=True)
    ] = Path("editors"),
    device: options.Device = "cpu",
) -> None:
    """Train those editors that need it, for `sdd bench paper --trained`.

    A few-step student of the teacher (a latent consistency model), a small DiffAE, and
    InstructPix2Pix on rendered pairs, which only domains of rendered images have. Stop it with
    Ctrl-C and give the same command again: it goes on where it was.

    \b
    Examples:
      sdd bench train few-step --budget 0.5
      sdd bench train diffae --domain my-domain/ --images photographs/
    """
    from sdd_fast.baselines.train import TRAININGS, train_baseline, trainable_in

    if unknown := [name for name in names or () if name not in TRAININGS]:
        raise ValueError(f"unknown editor {unknown[0]!r}; there are: {', '.join(TRAININGS)}")
    domain = checkpoints.open(device, "float32", "auto")
    for name in dict.fromkeys(names or trainable_in(domain)):
        its = None if name == "instruct-pix2pix" and names is None else images
        written = train_baseline(name, domain, out / name, images=its, budget=budget)
        result(written=[written])
        say(f"written: {written}")


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
