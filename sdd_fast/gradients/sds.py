"""Score distillation (SDS): the gradient r that the teacher gives to a latent.

    z_t = √ᾱ_t z + √(1−ᾱ_t) ε        the noised latent
    ε̂                                the guided noise prediction at (z_t, t, prompt)
    r                                the gradient at the latent z

The loss is L_t = ½ w(t) ‖ε̂ − ε‖², summed over the elements of one sample (Eq. 5–8; the ½ saves a
factor 2 in r). `GuidanceConfig.jacobian` chooses between

    "skip"   r = w(t) (ε̂ − ε)
             the U-Net's Jacobian and √ᾱ_t are left out, as in DreamFusion (Sec. 4.1);
    "full"   r = ∇_z L_t = w(t) √ᾱ_t (∂ε̂/∂z_t)ᵀ (ε̂ − ε)
             Eq. 8 through the U-Net: with weighting="uniform", d is half of Eq. 8's d_t.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..shield import shielded
from ..teacher.prior import DiffusionPrior
from ..teacher.schedule import Timesteps
from ..teacher.text import PromptEmbeds
from .config import GuidanceConfig


@shielded()
def residual(
    prior: DiffusionPrior,
    z: Tensor,
    embeds: PromptEmbeds,
    timesteps: Timesteps,
    noise: Tensor,
    config: GuidanceConfig | None = None,
    guidance_scales: Tensor | None = None,
) -> Tensor:
    """Return the gradient r at the latent (module docstring), as configured, without a graph.

    Never makes the host wait for the device, hence checks neither for NaN nor timesteps that live
    on a GPU.

    Args:
        z, noise: [B, C, h, w].
        timesteps: one for all or one per sample, in 0 … T − 1.
        embeds: of one prompt, or of one per sample. config: default `GuidanceConfig()`.
        guidance_scales: [B], of each sample, in place of the one in `config`.

    Returns:
        [B, C, h, w] float32 whatever the prior's dtype (float64 for a float64 prior).
    """
    config = config or GuidanceConfig()
    scale = config.guidance_scale if guidance_scales is None else guidance_scales
    t = prior.timesteps_tensor(timesteps, len(z))
    z = z.detach().to(prior.device, prior.compute_dtype)
    noise = noise.detach().to(z)
    z_t = prior.add_noise(z, noise, t)
    if config.jacobian == "skip":
        with torch.no_grad():
            prediction = prior.predict_noise(z_t, t, embeds, scale)
        return residual_of_prediction(prior, prediction, t, noise, config)
    z_t.requires_grad_()
    prediction = prior.predict_noise(z_t, t, embeds, scale)
    cotangent = prior.schedule.weight(t, config.weighting) * (prediction.detach() - noise)
    (r,) = torch.autograd.grad(prediction, z_t, cotangent)
    r = prior.schedule.alpha(t) * r  # ∂z_t/∂z
    return clipped_and_scaled(r, config)


@shielded(grad=False)
def residuals(
    prior: DiffusionPrior,
    z: Tensor,
    embeds: PromptEmbeds,
    asked: Sequence[tuple[Timesteps, GuidanceConfig, Tensor | None]],
    noise: Tensor,
) -> list[Tensor]:
    """Return the residuals of several timesteps and settings at the same latents and noise.

    All in one call of the U-Net, whose Jacobian is skipped.

    Args:
        asked: (timesteps, config, guidance scales) of each; the rest as in `residual`.
    """
    z = z.detach().to(prior.device, prior.compute_dtype)
    noise = noise.detach().to(z)
    steps = [prior.timesteps_tensor(t, len(z)) for t, _, _ in asked]
    predictions = prior.predict_noises(
        [
            (prior.add_noise(z, noise, t), t, config.guidance_scale if scales is None else scales)
            for t, (_, config, scales) in zip(steps, asked, strict=True)
        ],
        embeds,
    )
    return [
        residual_of_prediction(prior, prediction, t, noise, config)
        for prediction, t, (_, config, _) in zip(predictions, steps, asked, strict=True)
    ]


def residual_of_prediction(
    prior: DiffusionPrior, prediction: Tensor, t: Tensor, noise: Tensor, config: GuidanceConfig
) -> Tensor:
    """Return r of a guided prediction of ε, both [B, C, h, w], with jacobian="skip"; t: [B]."""
    r = prior.schedule.weight(t, config.weighting) * (prediction - noise)
    return clipped_and_scaled(r, config)


def clipped_and_scaled(r: Tensor, config: GuidanceConfig) -> Tensor:
    """Apply `clip_topk` and `residual_rms` of the settings to r [B, C, h, w]."""
    if config.clip_topk is not None:
        r = keep_largest(r, config.clip_topk)
    return r if config.residual_rms is None else scale_to_rms(r, config.residual_rms)


def scale_to_rms(r: Tensor, rms: float) -> Tensor:
    """Scale each sample r[i] to a root mean square; one that is zero stays zero."""
    present = r.square().flatten(1).mean(1).sqrt().clamp(min=torch.finfo(r.dtype).tiny)
    return r * (rms / present).view(-1, *[1] * (r.ndim - 1))


def keep_largest(r: Tensor, k: int) -> Tensor:
    """Zero all but the k elements of largest magnitude of each sample r[i].

    Elements that tie with the k-th are all kept. The mask comes from a threshold, so no index or
    count travels to the host.
    """
    magnitude = r.abs().flatten(1)
    if k >= magnitude.shape[1]:
        return r
    threshold = magnitude.topk(k, dim=1).values[:, -1:]
    return r * (magnitude >= threshold).view_as(r)
