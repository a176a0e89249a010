"""HQS curves of prompts, by the score as it is shipped and by variants of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from ..gradients.config import GuidanceConfig
from ..selection.choose import Selection
from ..selection.curve import HQSCurve
from ..selection.hqs import usual_timesteps
from ..selection.in_domain import compute_curves
from .case import Case
from .store import Outcome, Unit

SCORES = ("entropy and L1", "entropy alone", "L1 alone", "of-mean")
"""What is made of the statistics of one evaluation: HQS, its halves, and Eq. 11 applied to means
over images in place of single images."""


@dataclass(frozen=True)
class Evaluation:
    """How the gradients of a curve are made.

    Args:
        images: held-out latents that it is computed on. The rest as in `hqs`.
    """

    images: int = 16
    guidance_scale: float = 100.0
    jacobian: str = "skip"
    gradient_map: str = "signed"
    residual_rms: float | None = None


def curves_unit(
    case: Case,
    prompts: Sequence[str],
    evaluation: Evaluation,
    timesteps: Sequence[int] | None = None,
    turn: int = 0,
) -> Unit:
    """Return the unit that computes the curves of prompts together.

    Its values: "timesteps"; "curves", of each prompt score → [T], see `SCORES`; "spread", of each
    prompt the score of every image, [N, T].

    Args:
        timesteps: default: the usual ones.
    """
    steps = list(timesteps or usual_timesteps(case.domain.prior))
    depends = {"prompts": list(prompts), "timesteps": steps, "evaluation": asdict(evaluation)}
    name = f"curves/{evaluation.gradient_map}-{evaluation.images}-images"

    def run() -> Outcome:
        chosen: dict[str, Any] = {"gradient_map": evaluation.gradient_map}
        selection = Selection(images=evaluation.images, candidates=tuple(steps), **chosen)
        guidance: dict[str, Any] = {"jacobian": evaluation.jacobian}
        config = GuidanceConfig(
            evaluation.guidance_scale, residual_rms=evaluation.residual_rms, **guidance
        )
        found = compute_curves(case.domain, prompts, selection, config, progress=False)
        curves = [{name: s.tolist() for name, s in scores_of(one).items()} for one in found]
        spread = [one.scores.tolist() for one in found]
        return Outcome({"timesteps": steps, "curves": curves, "spread": spread})

    full = 3 if evaluation.jacobian == "full" else 1
    cost = max(1, full * evaluation.images * len(steps) * len(prompts) // 60)
    return case.unit(name, depends, run, turn=turn, cost=cost)


def scores_of(curve: HQSCurve) -> dict[str, Tensor]:
    """Return score → its mean over images [T], float64."""
    entropy, l1 = curve.normalized()
    return {
        "entropy and L1": curve.mean,
        "entropy alone": -entropy.mean(0),
        "L1 alone": l1.mean(0),
        "of-mean": replace(curve, normalize="of-mean").mean,
    }
