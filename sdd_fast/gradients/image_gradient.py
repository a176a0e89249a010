"""The gradient that the teacher gives to an image: d = (∂z/∂y)ᵀ r, with z = s·E(y) (Eq. 8).

r is the residual at the latent (`sds`); d comes from it by one vector-Jacobian product through the
VAE encoder and the resize before it (`EncodedImages`), for selection and distillation alike.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..shield import differentiable, shielded
from ..teacher.prior import DiffusionPrior
from ..teacher.schedule import Timesteps
from ..teacher.text import PromptEmbeds
from ..teacher.vae_encoder import check_range
from .config import GuidanceConfig
from .overflow import explain_overflow
from .sds import residual


@dataclass(frozen=True)
class Guidance:
    """One evaluation of the teacher (see `guidance`).

    Args:
        loss: scalar whose gradient with respect to the images is d (and r with respect to
            `latents`), summed over the batch. It is a surrogate: only its gradient has a meaning,
            its value has none.
        residual: [B, C, h, w] the gradient r at the latents; carries no graph.
        latents: [B, C, h, w] z = s·E(images), connected to the images.
        noise: [B, C, h, w] the ε used. timesteps: int64 [B].
    """

    loss: Tensor
    residual: Tensor
    latents: Tensor
    noise: Tensor
    timesteps: Tensor


class EncodedImages:
    """Images y and their latents z = s·E(y), with what carries residuals back to the images.

    Args:
        images: [B, 3, H, W] in [-1, 1]; what they depend on is left out of the graph.
        again: see `VAEEncoder.encode`.
    """

    def __init__(self, prior: DiffusionPrior, images: Tensor, again: bool = False) -> None:
        with torch.enable_grad():
            self._images = differentiable(images.detach()).requires_grad_()
            encode = partial(prior.vae_encoder.encode, again=True) if again else prior.encode
            self._latents = encode(self._images)
        self.latents = self._latents.detach()
        """z: [B, C, h, w], without a graph."""

    def gradient(self, r: Tensor, last: bool = True) -> Tensor:
        """Compute d = (∂z/∂y)ᵀ r, [B, 3, H, W] (Eq. 8).

        Args:
            r: [B, C, h, w] the residual at the latents.
            last: whether no other residual of these images follows, so that memory can be freed.
        """
        (d,) = torch.autograd.grad(self._latents, self._images, r, retain_graph=not last)
        return d


def draw_noise(
    prior: DiffusionPrior,
    batch: int,
    config: GuidanceConfig,
    rng: torch.Generator | None = None,
    latent_shape: tuple[int, int, int] | None = None,
) -> Tensor:
    """Return ε [batch, C, h, w]: zeros, or standard normal from `rng`, drawn on its own device.

    `latent_shape` is (C, h, w) of images that are not square; default `prior.latent_shape`.
    """
    shape = (batch, *(latent_shape or prior.latent_shape))
    if config.noise == "zero":
        return torch.zeros(shape, device=prior.device, dtype=prior.compute_dtype)
    source = rng.device if rng is not None else prior.device
    noise = torch.randn(shape, generator=rng, device=source)
    return noise.to(prior.device, prior.compute_dtype)


@shielded()
def image_gradient(
    prior: DiffusionPrior,
    images: Tensor,
    embeds: PromptEmbeds,
    timesteps: Timesteps,
    noise: Tensor,
    config: GuidanceConfig | None = None,
) -> Tensor:
    """Compute the gradient d = J_Eᵀ r at the images (Eq. 8), through resize and VAE encoder.

    Args:
        images: [B, 3, H, W] in [-1, 1]. noise: [B, C, h, w]. The rest as in `residual`.

    Returns:
        [B, 3, H, W] of the images' dtype and on their device; descending along it makes the image
        fit the prompt.

    Raises:
        ValueError: images far beyond [-1, 1].
        FloatingPointError: the gradient is not finite.

    Warns:
        UserWarning: a timestep carries no signal, see `Schedule.without_signal`.
    """
    _warn_of_silence(timesteps, prior)
    encoded = EncodedImages(prior, images)
    r = residual(prior, encoded.latents, embeds, timesteps, noise, config)
    d = encoded.gradient(r)
    _check_values(d, prior, images, embeds, timesteps, noise, config)
    return d


@shielded(grad=None)
def guidance(
    prior: DiffusionPrior,
    images: Tensor,
    prompt: str | PromptEmbeds,
    timesteps: Timesteps,
    noise: Tensor | None = None,
    config: GuidanceConfig | None = None,
    rng: torch.Generator | None = None,
) -> Guidance:
    """Ask the teacher how `images` should change to fit the prompt (Alg. 1, lines 6–8).

    `guidance(...).loss.backward()` leaves d in `images.grad`, or carries it on to whatever produced
    the images. Neither a weight of the prior nor the U-Net's activations (jacobian="skip") are part
    of the graph. It may stand in a training under autocast, where the teacher computes in its own
    dtype as ever; under `torch.no_grad()`, `loss` has no graph and the rest is the same.

    Args:
        images: [B, 3, H, W] in [-1, 1]; may carry a graph.
        prompt: a text, or its embeddings. A text is encoded anew at every call: in a loop, encode
            it once.
        timesteps: one for all or one per sample, in 0 … T − 1.
        noise: [B, C, h, w]; drawn according to `config.noise`, from `rng`, when None.
        rng: None takes torch's global generator, as a training of yours does.

    Raises:
        ValueError, TypeError: shapes, timesteps (not those on a GPU, see
            `DiffusionPrior.timesteps_tensor`), prompt, or images far beyond [-1, 1].
        FloatingPointError: the gradient is not finite. Checking makes the host wait for the device
            once; `residual` does not.

    Warns:
        UserWarning: a timestep carries no signal, see `Schedule.without_signal`.
    """
    config = config or GuidanceConfig()
    embeds = prompt if isinstance(prompt, PromptEmbeds) else prior.encode_prompt(prompt)
    t = prior.timesteps_tensor(timesteps, len(images))
    _warn_of_silence(timesteps, prior)
    z = prior.encode(images)
    if noise is None:
        noise = draw_noise(prior, len(z), config, rng, prior.latent_shape_for(*images.shape[-2:]))
    noise = noise.to(z.device, z.dtype)
    r = residual(prior, z, embeds, t, noise, config)
    _check_values(r, prior, images, embeds, timesteps, noise, config)
    return Guidance(loss=(z * r).sum(), residual=r, latents=z, noise=noise, timesteps=t)


def _warn_of_silence(timesteps: Timesteps, prior: DiffusionPrior) -> None:
    # No error: who draws timesteps at random meets one of these after hours.
    for t in prior.schedule.without_signal(timesteps)[:1]:
        warnings.warn(prior.schedule.no_signal(t), stacklevel=3)


def _check_values(
    gradient: Tensor,
    prior: DiffusionPrior,
    images: Tensor,  # [B, 3, H, W]
    embeds: PromptEmbeds,
    timesteps: Timesteps,
    noise: Tensor,  # [B, C, h, w]
    config: GuidanceConfig | None,
) -> None:
    """Raise on images that are not in [-1, 1] or a gradient that is not finite, in one wait."""
    largest = images.detach().abs().amax().to(gradient.device, torch.float32)
    finite = gradient.isfinite().all()
    magnitude, all_finite = torch.stack([largest, finite.to(largest.dtype)]).tolist()
    check_range(magnitude)
    if all_finite:
        return
    t = prior.timesteps_tensor(timesteps, len(gradient)).tolist()
    bad = (~gradient.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    where = ", ".join(f"sample {i} (timestep {t[i]})" for i in bad[:4])
    why = explain_overflow(prior, images, embeds, timesteps, noise, config)
    raise FloatingPointError(
        f"the guidance gradient is NaN or infinite for {where}. "
        f"{why or 'Lower guidance_scale, or check that the images are finite and in [-1, 1]'}"
    )
