"""Another score of timesteps: how far the gradient agrees with itself under other noise.

    r_k     the residual of an image at a timestep under the noise ε_k
    score   mean over pairs of noises of cos(r_k, r_l), and over images

A training adds up gradients under ever new noise, of which what agrees stays and the rest cancels.
HQS looks at one gradient at a time, and counts noise with meaning alike; this score does not depend
on magnitude at all. In the paper there is none like it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..gradients.config import GuidanceConfig
from ..gradients.sds import residual
from ..selection.evaluate import image_noise
from ..shield import shielded
from ..teacher.prior import DiffusionPrior
from ..teacher.text import PromptEmbeds
from .case import Case
from .curves import Evaluation
from .store import Outcome, Unit

NOISES = 4
CONSISTENCY = "consistency over noises"
_AT_ONCE = 4  # images, each under all noises


@shielded(grad=False)
def consistency(
    prior: DiffusionPrior,
    images: Tensor,
    embeds: PromptEmbeds,
    timesteps: Sequence[int],
    config: GuidanceConfig,
    *,
    noises: int = NOISES,
    seed: int = 0,
) -> Tensor:
    """Return the score of each image at each timestep, [N, T] float64 in [-1/(noises − 1), 1].

    Args:
        images: [N, 3, H, W] in [-1, 1]. embeds: of one prompt.
        noises: at least 2, the same at all timesteps, as in `hqs`.

    Raises:
        ValueError: fewer than 2 noises.
    """
    if noises < 2:
        raise ValueError(f"agreement needs at least 2 noises, got {noises}")
    shape = prior.latent_shape_for(*images.shape[-2:])
    rows = []
    for start in range(0, len(images), _AT_ONCE):
        some = images[start : start + _AT_ONCE]
        z = prior.encode(some.to(prior.device, prior.compute_dtype)).repeat_interleave(noises, 0)
        drawn = [
            image_noise(prior, seed, start + i, noises, config, shape) for i in range(len(some))
        ]
        noise = torch.cat(drawn).to(z)
        found = []
        for t in timesteps:
            r = residual(prior, z, embeds, t, noise, config).unflatten(0, (-1, noises))
            found.append(mean_cosine(r.flatten(2)))
        rows.append(torch.stack(found, 1))
    return torch.cat(rows)


def mean_cosine(vectors: Tensor) -> Tensor:
    """Return the mean cosine of all pairs of vectors [B, K, D]: [B] float64."""
    unit = F.normalize(vectors.double(), dim=2)
    count = vectors.shape[1]
    return ((unit.sum(1).square().sum(1) - count) / (count * (count - 1))).cpu()


def consistency_unit(
    case: Case, prompts: Sequence[str], evaluation: Evaluation, steps: Sequence[int], turn: int
) -> Unit:
    """Return the unit that computes the score of prompts; values as of `curves_unit`."""

    def run() -> Outcome:
        domain, prior = case.domain, case.domain.prior
        with torch.no_grad():
            images = domain.generator.synthesis(domain.held_out[: evaluation.images])
        config = GuidanceConfig(evaluation.guidance_scale)
        curves = []
        for prompt in prompts:
            embeds = prior.encode_prompt(prompt)
            scores = consistency(prior, images.clamp(-1, 1), embeds, steps, config)
            curves.append({CONSISTENCY: scores.mean(0).tolist()})
        return Outcome({"timesteps": list(steps), "curves": curves})

    depends = {
        "prompts": list(prompts), "timesteps": list(steps), "noises": NOISES,
        "images": evaluation.images, "guidance_scale": evaluation.guidance_scale,
    }  # fmt: skip
    cost = max(1, evaluation.images * len(steps) * len(prompts) * NOISES // 120)
    return case.unit("curves/consistency", depends, run, turn=turn, cost=cost)
