"""sdd bench paper and train: the paper's tables and figures, and editors to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .console import command, result, say

if TYPE_CHECKING:
    from sdd_fast.evidence.judge import Judges


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


@dataclass(frozen=True)
class EditorOptions:
    """Which other editors are compared with, and with which settings."""

    methods: Annotated[
        str | None,
        typer.Option(
            help="Editors to compare with, separated by commas. Default: all that need no training "
            "of their own, and those of --trained."
        ),
    ] = None
    trained: Annotated[
        Path | None,
        typer.Option(
            help="The folder of `sdd bench train`: what is trained there is compared with, too.",
            show_default=False,
        ),
    ] = None
    settings: Annotated[
        Path | None,
        typer.Option(
            help="A file with settings of other editors, such as benchmarks/settings-fashion32."
            "json. Default: their defaults, which are the best found in faces64.",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True)
class JudgeOptions:
    """Networks of the user's own files that judge, too."""

    inception: Annotated[
        Path | None,
        typer.Option(
            help="Your file of Inception, for FID and KID as they are published: "
            "pt_inception-2015-12-05-6726825d.pth. Default: by the domain's own network.",
            show_default=False,
        ),
    ] = None
    lpips: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Your files of LPIPS: torchvision's VGG-16 or AlexNet, and the learned weights. "
            "Default: LPIPS is not measured.",
            show_default=False,
        ),
    ] = None

    def open(self, device: str) -> Judges:
        """Load them."""
        from sdd_fast.checkpoints.lpips import load_lpips
        from sdd_fast.evidence.judge import Judges
        from sdd_fast.metrics.features import inception_features

        return Judges(
            None if self.inception is None else inception_features(self.inception, device=device),
            None if self.lpips is None else load_lpips(*self.lpips).to(device),
        )


@command
def paper(
    checkpoints: options.CheckpointOptions,
    amounts: EvidenceOptions,
    compared: EditorOptions,
    judging: JudgeOptions,
    *,
    only: Annotated[
        str | None,
        typer.Option(help="Parts, separated by commas: table1, table2, table3, hqs, figures."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Few prompts, images and steps: minutes on a CPU."),
    ] = False,
    out: Annotated[
        Path, typer.Option(help="The folder for page, tables and figures.", show_default=True)
    ] = Path("evidence"),
    overwrite: options.Overwrite = False,
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
      sdd bench paper --lpips alexnet-owt-7be5be79.pth alex.pth
    """
    from dataclasses import replace

    from sdd_fast.evidence.paper import PAGE, check_parts, checked, is_ours
    from sdd_fast.evidence.plan import Plan
    from sdd_fast.evidence.settings import read_settings
    from sdd_fast.evidence.subject import prompts_of

    parts = check_parts(options.comma_list(only, "--only"))
    plan = Plan.quick() if quick else Plan()
    if compared.settings is not None:
        plan = plan.with_settings(read_settings(compared.settings))
    asked = {name: value for name, value in vars(amounts).items() if value is not None}
    names = options.comma_list(compared.methods, "--methods")
    plan = replace(plan, **asked, methods=None if names is None else tuple(names))
    domain = checkpoints.open(device, dtype, attention)
    there = len(prompts_of(domain))
    for name in ("prompts", "ablation_prompts"):
        if asked.get(name, 0) > there:
            raise ValueError(
                f"{name} is {asked[name]}, but the domain {domain.name} names {there} to measure "
                'with; list more as "prompts" in its domain file'
            )
    judges = judging.open(device)
    work = checked(
        domain, out, plan, only=parts, trained=compared.trained, judges=judges, overwrite=overwrite
    )
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
