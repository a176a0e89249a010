"""Trainings under a limited budget, in which the choice of timesteps shows; several prompts as one.

Prompts that are trained together get what each gets alone, up to rounding, in less than half of the
time (see `distill`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..distillation.config import DistillConfig
from ..distillation.distill import distill
from ..distillation.result import DistillResult
from ..editing.editor import Editor
from ..gradients.config import GuidanceConfig
from .judge import judged
from .plan import Budget
from .stopwatch import Stopwatch
from .store import Outcome
from .subject import Subject

if TYPE_CHECKING:
    from ..domains import Domain

GRADIENTS: dict[str, float | None] = {"as they are": None, "unit RMS": 1.0}
"""How the residuals of a training are scaled → `GuidanceConfig.residual_rms`.

At some timesteps residuals are larger than at others, which alone makes a limited training reach
further. With unit RMS only their direction is left.
"""

LABELS = {"as they are": "gradients as they are", "unit RMS": "unit-RMS gradients"}


def config_of(budget: Budget, gradients: str, seed: int) -> DistillConfig:
    """Return the settings of a limited training: the paper's loss, without what we add to it."""
    guidance = GuidanceConfig(budget.guidance_scale, residual_rms=GRADIENTS[gradients])
    return DistillConfig(
        steps=budget.steps, batch_size=budget.batch_size, guidance=guidance, seed=seed,
        prior_weight=0.0, keep_weight=0.0, range_weight=0.0, log_every=budget.steps,
        monitor_every=budget.steps, checkpoint_every=budget.steps,
    )  # fmt: skip


def trained(
    domain: Domain,
    prompts: Sequence[str],
    timesteps: Sequence[Sequence[int]],
    config: DistillConfig,
) -> list[DistillResult]:
    """Train a mapper for each prompt at its timesteps, all in one pass."""
    results: list[DistillResult] = distill(
        domain.prior, domain.generator, domain.w_plus, list(prompts), [list(t) for t in timesteps],
        levels=[domain.levels.get(prompt) for prompt in prompts], w_std=domain.w_std,
        identity=domain.identity, config=config, domain=domain.name, progress=False,
    )  # fmt: skip
    return results


def outcome_of(
    domain: Domain,
    subjects: Sequence[Subject],
    timesteps: Sequence[Sequence[int]],
    config: DistillConfig,
    shown: int,
) -> Outcome:
    """Train, edit every subject's images, and judge them.

    Returns:
        "seconds" of the whole training, and of each prompt "timesteps" and what `judged` tells;
        `shown` edited images of each.
    """
    watch = Stopwatch(domain.device)
    with watch.lap("training"):
        results = trained(domain, [one.prompt for one in subjects], timesteps, config)
    rows: list[dict[str, Any]] = []
    strips = {}
    for i, (subject, result) in enumerate(zip(subjects, results, strict=True)):
        after = edited(domain, result, subject)
        told = judged(domain, subject, after)
        rows.append({"prompt": subject.prompt, "timesteps": list(timesteps[i]), **told})
        strips[f"prompt-{i}"] = after[:shown]
    return Outcome({"seconds": watch.seconds, "clock": watch.clock, "prompts": rows}, strips)


def edited(domain: Domain, result: DistillResult, subject: Subject) -> Any:
    """Return the images of a subject, edited [m, 3, R, R] in [-1, 1]."""
    editor = Editor(domain.generator, [(result.mapper, result.info)], domain.encoder)
    return editor.edit(subject.given)
