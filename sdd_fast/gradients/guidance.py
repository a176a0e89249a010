"""The teacher's guidance: the gradient it gives to a latent, and to the image behind it.

    z_t = √ᾱ_t z + √(1−ᾱ_t) ε        the noised latent, z = s·E(y)
    ε̂                                the guided noise prediction at (z_t, t, prompt)
    r                                the gradient at the latent z
    d = (∂z/∂y)ᵀ r                   the gradient at the image y

The loss is L_t = ½ w(t) ‖ε̂ − ε‖², summed over the entries of one sample (Eq. 5–8; the ½ saves a
factor 2 in r). `GuidanceConfig.jacobian` chooses between

    "skip"   r = w(t) (ε̂ − ε)
             the U-Net's Jacobian and √ᾱ_t are left out, as in DreamFusion (Sec. 4.1);
    "full"   r = ∇_z L_t = w(t) √ᾱ_t (∂ε̂/∂z_t)ᵀ (ε̂ − ε)
             Eq. 8 through the U-Net: with weighting="uniform", d is half of Eq. 8's d_t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .. import draws
from ..teacher.prior import DiffusionPrior, PromptEmbeds, Timesteps

PULL = 3.2  # of balanced_guidance_scale
MAX_BALANCED_SCALE = 150.0  # a prompt this weak means nothing to the teacher


@dataclass(frozen=True)
class GuidanceConfig:
    """How the teacher's gradient is formed.

    Args:
        guidance_scale: g in ε̂ = ε_u + g·(ε_c − ε_u); 1 is the plain conditional prediction.
        jacobian: "skip" leaves out the U-Net's Jacobian; "full" back-propagates through the U-Net
            (module docstring).
        weighting: w(t) = 1 − ᾱ_t ("one_minus_alphas_cumprod"), or 1 ("uniform").
        clip_topk: keep only the k entries of largest |r| of each sample (all entries that tie with
            the k-th are kept) and set the others to zero; None keeps everything.
        noise: what ε is when the caller gives none: "random" (standard normal) or "zero".
    """

    guidance_scale: float = 100.0
    jacobian: Literal["skip", "full"] = "skip"
    weighting: Literal["one_minus_alphas_cumprod", "uniform"] = "one_minus_alphas_cumprod"
    clip_topk: int | None = None
    noise: Literal["random", "zero"] = "random"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("jacobian", ("skip", "full")),
            ("weighting", ("one_minus_alphas_cumprod", "uniform")),
            ("noise", ("random", "zero")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}"
                )
        scale = self.guidance_scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < 1e6:
            raise ValueError(f"guidance_scale must be a number from 0 to 1e6, got {scale!r}")
        k = self.clip_topk
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise ValueError(f"clip_topk must be a positive integer or None, got {k!r}")


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


def residual(
    prior: DiffusionPrior,
    z: Tensor,
    embeds: PromptEmbeds,
    timesteps: Timesteps,
    noise: Tensor,
    config: GuidanceConfig | None = None,
) -> Tensor:
    """The gradient r at the latent (module docstring), after top-k clipping. Carries no graph.

    Never makes the host wait for the device, hence checks neither for NaN nor timesteps that live
    on a GPU.

    Args:
        z, noise: [B, C, h, w].
        timesteps: one for all or one per sample, in 0 … T − 1.
        embeds: of one prompt, or of one per sample. config: default `GuidanceConfig()`.

    Returns:
        [B, C, h, w] float32 whatever the prior's dtype (float64 for a float64 prior).
    """
    config = config or GuidanceConfig()
    t = prior.timesteps_tensor(timesteps, len(z))
    abar = prior.alphas_cumprod[t].to(prior.compute_dtype).view(-1, 1, 1, 1)
    z = z.detach().to(prior.device, prior.compute_dtype)
    noise = noise.detach().to(z)
    z_t = prior.add_noise(z, noise, t)
    w = 1 - abar if config.weighting == "one_minus_alphas_cumprod" else torch.ones_like(abar)
    if config.jacobian == "skip":
        with torch.no_grad():
            r = w * (prior.predict_noise(z_t, t, embeds, config.guidance_scale) - noise)
    else:
        with torch.enable_grad():
            z_t.requires_grad_()
            prediction = prior.predict_noise(z_t, t, embeds, config.guidance_scale)
        cotangent = w * (prediction.detach() - noise)
        (r,) = torch.autograd.grad(prediction, z_t, cotangent)
        r = abar.sqrt() * r  # ∂z_t/∂z
    return r if config.clip_topk is None else keep_largest(r, config.clip_topk)


def keep_largest(r: Tensor, k: int) -> Tensor:
    """Zero all but the k entries of largest magnitude of each sample r[i].

    Entries that tie with the k-th are all kept. The mask comes from a threshold, so no index or
    count travels to the host.
    """
    magnitude = r.abs().flatten(1)
    if k >= magnitude.shape[1]:
        return r
    threshold = magnitude.topk(k, dim=1).values[:, -1:]
    return r * (magnitude >= threshold).view_as(r)


def draw_noise(
    prior: DiffusionPrior,
    batch: int,
    config: GuidanceConfig,
    rng: torch.Generator | None = None,
    latent_shape: tuple[int, int, int] | None = None,
) -> Tensor:
    """ε [batch, C, h, w]: zeros, or standard normal drawn from `rng` on the rng's own device.

    `latent_shape` is (C, h, w) of images that are not square; default `prior.latent_shape`.
    """
    shape = (batch, *(latent_shape or prior.latent_shape))
    if config.noise == "zero":
        return torch.zeros(shape, device=prior.device, dtype=prior.compute_dtype)
    source = rng.device if rng is not None else prior.device
    noise = torch.randn(shape, generator=rng, device=source)
    return noise.to(prior.device, prior.compute_dtype)


def balanced_guidance_scale(
    prior: DiffusionPrior,
    images: Tensor,
    prompt: str | PromptEmbeds,
    timesteps: Sequence[int],
    *,
    pull: float = PULL,
    seed: int = 0,
) -> float:
    """The guidance scale at which a prompt pulls as hard as any other.

    The difference of conditional and unconditional prediction is several times larger for a prompt
    about the whole head than for one about a detail, so one scale for all burns the former or does
    nothing for the latter. This is the g for which the root mean square of g·w(t)·(ε_c − ε_u), over
    entries, images and timesteps, is `pull`.

    Args:
        images: [B, 3, H, W] in [-1, 1], unedited. Pictures differ, so g has a standard error:
            measured over six prompts of faces64, 4 to 9 % of 64 pictures, 7 to 16 % of 32, 9 to
            23 % of 16.
        timesteps: those to train at; the images take turns.
        seed: of the noise.

    Returns:
        g rounded to three digits, 1 … `MAX_BALANCED_SCALE`.

    Raises:
        ValueError: as `guidance`, or the prompt changes nothing at all.
        FloatingPointError: the teacher predicts NaN or infinities.
    """
    embeds = prompt if isinstance(prompt, PromptEmbeds) else prior.encode_prompt(prompt)
    turns = torch.arange(len(images)) % len(timesteps)
    t = prior.timesteps_tensor(torch.as_tensor(list(timesteps))[turns], len(images))
    shape = prior.latent_shape_for(*images.shape[-2:])
    noise = torch.randn(len(images), *shape, generator=draws.generator(seed))
    total = 0.0
    for some, x in zip(torch.arange(len(images)).split(16), images.split(16), strict=True):
        with torch.no_grad():
            z = prior.encode(x)
        with_prompt, without = (
            residual(prior, z, embeds, t[some], noise[some], GuidanceConfig(guidance_scale=scale))
            for scale in (1.0, 0.0)
        )
        total += float((with_prompt - without).double().square().sum())
    rms = math.sqrt(total / noise.numel())
    if not math.isfinite(rms):
        raise FloatingPointError(
            "the teacher's prediction is NaN or infinite. Check that the images are finite and in "
            f"[-1, 1]; with a {prior.dtype} prior try dtype=torch.float32"
        )
    if rms < 1e-6:  # rounding alone gives about 1e-7
        raise ValueError(
            f"the teacher's prediction does not depend on the prompt (difference {rms:g}): nothing "
            "to balance; use another prompt, or give a guidance_scale"
        )
    return float(f"{min(max(pull / rms, 1.0), MAX_BALANCED_SCALE):.3g}")


def image_gradient(
    prior: DiffusionPrior,
    images: Tensor,
    embeds: PromptEmbeds,
    timesteps: Timesteps,
    noise: Tensor,
    config: GuidanceConfig | None = None,
) -> Tensor:
    """The gradient d = J_Eᵀ r at the images (Eq. 8), through the resize and the VAE encoder.

    Args:
        images: [B, 3, H, W] in [-1, 1]. noise: [B, C, h, w]. The rest as in `residual`.

    Returns:
        [B, 3, H, W] of the images' dtype and on their device; descending along it makes the image
        fit the prompt.

    Raises:
        FloatingPointError: the gradient is not finite.
    """
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        z = prior.encode(leaf)
    r = residual(prior, z, embeds, timesteps, noise, config)
    (d,) = torch.autograd.grad(z, leaf, r)
    _check_finite(d, timesteps, prior)
    return d


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
    of the graph.

    Args:
        images: [B, 3, H, W] in [-1, 1]; may carry a graph.
        prompt: a text, or its embeddings. A text is encoded anew at every call: in a loop, encode
            it once.
        timesteps: one for all or one per sample, in 0 … T − 1.
        noise: [B, C, h, w]; drawn according to `config.noise`, from `rng`, when None.

    Raises:
        ValueError, TypeError: shapes, timesteps (not those on a GPU, see
            `DiffusionPrior.timesteps_tensor`) or prompt.
        FloatingPointError: the gradient is not finite. Checking makes the host wait for the device
            once; `residual` does not.
    """
    config = config or GuidanceConfig()
    embeds = prompt if isinstance(prompt, PromptEmbeds) else prior.encode_prompt(prompt)
    t = prior.timesteps_tensor(timesteps, len(images))
    z = prior.encode(images)
    if noise is None:
        noise = draw_noise(prior, len(z), config, rng, prior.latent_shape_for(*images.shape[-2:]))
    noise = noise.to(z.device, z.dtype)
    r = residual(prior, z, embeds, t, noise, config)
    _check_finite(r, timesteps, prior)
    return Guidance(loss=(z * r).sum(), residual=r, latents=z, noise=noise, timesteps=t)


def _check_finite(gradient: Tensor, timesteps: Timesteps, prior: DiffusionPrior) -> None:
    if bool(gradient.isfinite().all()):
        return
    t = prior.timesteps_tensor(timesteps, len(gradient)).tolist()
    bad = (~gradient.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    where = ", ".join(f"sample {i} (timestep {t[i]})" for i in bad[:4])
    raise FloatingPointError(
        f"the guidance gradient is NaN or infinite for {where}. Check that the images are finite "
        f"and in [-1, 1]; with a {prior.dtype} prior try dtype=torch.float32; else lower "
        "guidance_scale"
    )
