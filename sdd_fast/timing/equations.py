"""The cost of m edits for each of n prompts, computed from the times of single units (Sec. 5.3).

    τ_Diff = m·n·τ_Diff,infer                               (Eq. 13)
    τ_SDD  = n·τ_SDD,train + n·m·τ_SDD,infer                (Eq. 14)
    m > τ_SDD,train / (τ_Diff,infer − τ_SDD,infer)          (Eq. 15)

The paper leaves open whether τ_SDD,train contains the search for timesteps. Here it does: an edit
needs both. Imports no torch, so that whoever makes tables can use it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..checks import check_count, check_number
from ..distillation.config import DistillConfig


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Args:
        images: m, edited for each prompt. prompts: n.
        steps: of the training of a prompt.
        timesteps, searched: candidates of its selection, and images that HQS is computed on; 0
            where the timesteps are known.
    """

    images: int = 100
    prompts: int = 10
    steps: int = DistillConfig.steps
    timesteps: int = 19
    searched: int = 16

    def __post_init__(self) -> None:
        for name in ("images", "prompts", "steps"):
            check_count(name, getattr(self, name))
        for name in ("timesteps", "searched"):
            check_count(name, getattr(self, name), least=0)


@dataclass(frozen=True)
class UnitSeconds:
    """Seconds of what SDD consists of.

    Args:
        evaluation: HQS of one image at one timestep, its share of generating and encoding included.
        setup: what precedes the first step of a training. step: of a training.
        edit: of one image.
    """

    evaluation: float
    setup: float
    step: float
    edit: float

    def __post_init__(self) -> None:
        for name, seconds in vars(self).items():
            check_number(name, seconds)

    def selection(self, plan: Plan) -> float:
        """Return the seconds of selecting timesteps for one prompt, τ_select."""
        return self.evaluation * plan.timesteps * plan.searched

    def training(self, plan: Plan) -> float:
        """Return the seconds of distilling one prompt."""
        return self.setup + self.step * plan.steps

    def beforehand(self, plan: Plan) -> float:
        """Return the seconds of a prompt before its first edit, τ_SDD,train."""
        return self.selection(plan) + self.training(plan)

    def total(self, plan: Plan) -> float:
        """Return τ_SDD in seconds (Eq. 14)."""
        return plan.prompts * (self.beforehand(plan) + plan.images * self.edit)


def diffusion_total(edit: float, plan: Plan) -> float:
    """Return τ_Diff in seconds (Eq. 13), of an editor that takes `edit` seconds an image."""
    check_number("edit", edit)
    return plan.images * plan.prompts * edit


def break_even(beforehand: float, ours: float, theirs: float) -> int | None:
    """Return the least number of images a prompt for which SDD takes less time (Eq. 15).

    Args:
        beforehand: τ_SDD,train. ours, theirs: seconds of an edit.

    Returns:
        m ≥ 1; None: at no number, since an edit of the other editor takes no longer than ours.
    """
    for name, seconds in (("beforehand", beforehand), ("ours", ours), ("theirs", theirs)):
        check_number(name, seconds)
    if theirs <= ours:
        return None
    return math.floor(beforehand / (theirs - ours)) + 1


def of_steps(few: tuple[int, float], more: tuple[int, float], steps: int) -> float:
    """Return the seconds of an edit of `steps` denoising steps from those of two shorter ones.

    All steps of such an editor take the same time, beside what is done once, such as encoding.

    Args:
        few, more: (number of steps, seconds), in ascending order.

    Raises:
        ValueError: the numbers of steps are not ascending.
    """
    (a, seconds), (b, longer) = few, more
    if not 0 < a < b:
        raise ValueError(f"expected two ascending numbers of steps, got {a} and {b}")
    each = max(0.0, longer - seconds) / (b - a)
    return seconds + each * (steps - a)
