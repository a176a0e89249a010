"""A guidance scale for each prompt, such that all prompts guide equally strongly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import draws
from .._deprecated import renamed_arguments
from ..memory import ENCODED_AT_ONCE, rendering_batch
from ..out_of_memory import halving
from ..shield import shielded
from ..teacher.prior import DiffusionPrior
from ..teacher.text import PromptEmbeds
from ..teacher.vae_encoder import check_range
from .config import GUIDANCE_RMS, GuidanceConfig
from .overflow import explain_overflow
from .sds import residual

MAX_BALANCED_SCALE = 150.0
"""A prompt that would need more means nothing to the teacher."""


@renamed_arguments(pull="guidance_rms")
@shielded(grad=False)
def balanced_guidance_scale(
    prior: DiffusionPrior,
    images: Tensor,
    prompt: str | PromptEmbeds,
    timesteps: Sequence[int],
    *,
    guidance_rms: float = GUIDANCE_RMS,
    seed: int = 0,
    at_once: int = ENCODED_AT_ONCE,
) -> float:
    """Return the guidance scale at which a prompt guides as strongly as any other.

    The difference of conditional and unconditional prediction is several times larger for a prompt
    about the whole head than for one about a detail, so one scale for all saturates the image with
    the former or has no effect with the latter. This is the g for which the root mean square of
    g·w(t)·(ε_c − ε_u), over elements, images and timesteps, is `guidance_rms`.

    Args:
        images: [B, 3, H, W] in [-1, 1], unedited. Images differ, so g has a standard error:
            measured over six prompts of faces64, 4 to 9 % with 64 images, 7 to 16 % with 32, 9
            to 23 % with 16.
        timesteps: those to train at; the images take turns.
        guidance_rms: the root mean square of the guidance to reach.
        seed: of the noise.
        at_once: images that go through VAE and U-Net together; fewer, where memory runs out.

    Returns:
        g rounded to three digits, 1 … `MAX_BALANCED_SCALE`.

    Raises:
        ValueError: as `guidance`, a timestep without signal, or the prompt changes nothing at all.
        FloatingPointError: the teacher predicts NaN or infinities.
    """
    check_range(float(images.detach().abs().max()))
    embeds = prompt if isinstance(prompt, PromptEmbeds) else prior.encode_prompt(prompt)
    prior.schedule.check_signal(timesteps)
    turns = torch.arange(len(images)) % len(timesteps)
    t = prior.timesteps_tensor(torch.as_tensor(list(timesteps))[turns], len(images))
    shape = prior.latent_shape_for(*images.shape[-2:])
    noise = torch.randn(len(images), *shape, generator=draws.generator(seed))

    def summed(at_once: int) -> float:
        total = 0.0
        for some, x in zip(
            torch.arange(len(images)).split(at_once), images.split(at_once), strict=True
        ):
            z = prior.encode(x)
            with_prompt, without = (
                residual(
                    prior, z, embeds, t[some], noise[some], GuidanceConfig(guidance_scale=scale)
                )
                for scale in (1.0, 0.0)
            )
            total += float((with_prompt - without).double().square().sum())
            if not math.isfinite(total):
                unguided = GuidanceConfig(guidance_scale=0.0)
                why = explain_overflow(prior, x, embeds, t[some], noise[some], unguided)
                raise FloatingPointError(
                    "the teacher's prediction is NaN or infinite. "
                    + (why or "Check that the images are finite and in [-1, 1]")
                )
        return total

    total = halving(summed, at_once, "balancing the guidance")
    rms = math.sqrt(total / noise.numel())
    if rms < 1e-6:  # rounding alone gives about 1e-7
        raise ValueError(
            f"the teacher's prediction does not depend on the prompt (difference {rms:g}): nothing "
            "to balance; use another prompt, or give a guidance_scale"
        )
    return float(f"{min(max(guidance_rms / rms, 1.0), MAX_BALANCED_SCALE):.3g}")


def images_to_balance_on(
    prior: DiffusionPrior,
    generator: Any,  # None: the data are images
    data: Tensor,  # [N, num_layers, w_dim]
) -> Tensor:
    """Render unedited images [M, 3, R, R]: fewer for a teacher of large images.

    Each costs a forward pass of generator and VAE and two rows of the U-Net. With 32, not 64, g has
    a standard error of 7 to 16 % instead of 4 to 9 % (over six prompts of faces64); edits distilled
    with 0.7 and 1.4 times g showed their target as often and kept the rest as well.
    """
    some = data[: 64 if prior.resolution <= 256 else 32]
    if generator is None:
        return some

    def render(at_once: int) -> Tensor:
        with torch.no_grad():
            return torch.cat([generator.synthesis(w) for w in some.split(at_once)])

    return halving(render, rendering_batch(generator), "rendering unedited images")
