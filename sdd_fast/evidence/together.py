"""What selection and training of our own editor take when all prompts are done as one.

The edits are those of prompts done alone, up to rounding (see `distill`); only the time is told.
"""

from __future__ import annotations

from typing import Any

from ..distillation.config import DistillConfig
from ..distillation.distill import distill
from ..selection.choose import Selection
from ..selection.in_domain import compute_curves
from .case import Case
from .stopwatch import Stopwatch
from .store import Outcome, Unit


def together(case: Case) -> Unit:
    """Return the unit of all prompts done as one.

    Its values: "prompts", "clock", and "seconds" of "selection" and "training" for one of them.
    """
    plan, prompts = case.plan, case.prompts

    def run() -> Outcome:
        domain, watch = case.domain, Stopwatch(case.domain.device)
        with watch.lap("selection"):
            selection = Selection(images=plan.selection_images)
            curves = compute_curves(domain, list(prompts), selection, progress=False)
        rms = domain.guidance_rms
        configs = [DistillConfig(steps=plan.steps, guidance_rms=rms.get(p)) for p in prompts]
        with watch.lap("training"):
            distill(
                domain.prior, domain.generator, domain.w_plus, list(prompts),
                [curve.plateau() for curve in curves], identity=domain.identity,
                levels=[domain.levels.get(prompt) for prompt in prompts], w_std=domain.w_std,
                config=configs, domain=domain.name, progress=False,
            )  # fmt: skip
        each = {name: seconds / len(prompts) for name, seconds in watch.seconds.items()}
        return Outcome({"prompts": list(prompts), "clock": watch.clock, "seconds": each})

    depends: dict[str, Any] = {
        "prompts": list(prompts), "steps": plan.steps, "selection_images": plan.selection_images,
    }  # fmt: skip
    return case.unit("edits/ours-together", depends, run, turn=19, cost=plan.steps)
