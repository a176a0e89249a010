"""Delta Denoising Score (DDS): what the teacher asks of a latent, less that of its original.

    r = w(t) (ε̂(z_t, t, γ) − ε̂(ẑ_t, t, γ̂))

z_t and ẑ_t are the edited and the original latent with the same noise at the same timestep; the
source prompt γ̂ says what the original shows. What score distillation asks of any image, such as to
be smoother, it asks of both, and it cancels: r is zero where nothing is edited and nothing asked.

Source: Hertz et al. 2023, "Delta Denoising Score", Eq. 3.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..shield import shielded
from ..teacher.prior import DiffusionPrior
from ..teacher.schedule import Timesteps
from ..teacher.text import PromptEmbeds
from .config import GuidanceConfig
from .sds import clipped_and_scaled, residual


@shielded(grad=False)
def delta_residual(
    prior: DiffusionPrior,
    z: Tensor,
    original: Tensor,
    embeds: PromptEmbeds,
    source: PromptEmbeds,
    timesteps: Timesteps,
    noise: Tensor,
    config: GuidanceConfig | None = None,
    guidance_scales: Tensor | None = None,
) -> Tensor:
    """Return the gradient r at the edited latent (module docstring), as configured.

    Two calls of the U-Net of the same shape, so that equal latents and prompts give exactly zero.

    Args:
        z, original: [B, C, h, w], the edited latents and those before the edit.
        embeds, source: of the prompt γ and of the source prompt γ̂.
        timesteps, noise, config, guidance_scales: see `residual`; they serve both.

    Returns:
        [B, C, h, w] float32 whatever the prior's dtype (float64 for a float64 prior).

    Raises:
        ValueError: a config with jacobian="full": of the original there is nothing to derive.
    """
    config = config or GuidanceConfig()
    if config.jacobian != "skip":
        raise ValueError(f'the delta of residuals needs jacobian="skip", got {config.jacobian!r}')
    whole = replace(config, clip_topk=None, residual_rms=None)
    of_edited, of_original = (
        residual(prior, latents, text, timesteps, noise, whole, guidance_scales)
        for latents, text in ((z, embeds), (original, source))
    )
    return clipped_and_scaled(of_edited - of_original, config)
