"""HQS by the authors' recipe, written plainly: what a reader of the paper would write first.

Everything is float32, and every (image, timestep) is a calculation of its own: the image is
generated anew by grouped convolutions, encoded anew, and the gradient of the SDS loss runs back to
it by `backward()`, which also computes gradients of every weight that nobody froze. Entropy and L1
norm are the textbook's, over all pixels of the generated image.

Two things are not as in the published code, so that all sides compute the same: the latent is the
mode of the posterior, not a sample, and the noise of an image is given.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .networks import Networks
from .stylegan2 import grouped, grouped_to_rgb, synthesis

GUIDANCE_SCALE = 100.0


def prepare(networks: Networks) -> Networks:
    """Return networks as they are loaded: every weight asks for its gradient."""
    # But for the U-Net, which is called without a graph.
    parts = {name: copy.deepcopy(getattr(networks, name)) for name in ("generator", "vae")}
    return replace(networks, **{name: part.requires_grad_() for name, part in parts.items()})


def entropy_and_l1(d: Tensor) -> tuple[Tensor, Tensor]:
    """H = −Σ p log p of p = softmax(d), and N = Σ |d|, of one gradient."""
    p = d.flatten().softmax(0)
    return -(p * p.log()).sum(), d.abs().sum()


def statistics(
    networks: Networks,  # of `prepare`
    w_plus: Tensor,  # [N, num_layers, w_dim]
    text: Tensor,  # [1, S, D]
    timesteps: Sequence[int],
    noise: Tensor,  # [N, C, h, w]
) -> Tensor:
    """Return entropy and L1 [2, N, T] of one prompt."""
    rows = [
        [_statistics(networks, w[None], text, t, e[None]) for t in timesteps]
        for w, e in zip(w_plus, noise, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64).permute(2, 0, 1)


def _statistics(
    networks: Networks, w_plus: Tensor, text: Tensor, timestep: int, noise: Tensor
) -> list[float]:
    vae, unet = networks.vae, networks.unet
    image = synthesis(networks.generator, w_plus, grouped, grouped_to_rgb)
    image.retain_grad()
    seen = image
    if image.shape[-1] != networks.resolution:
        seen = F.interpolate(image, (networks.resolution,) * 2, mode="bilinear")
    latent = vae.encode(seen).latent_dist.mode() * vae.config.scaling_factor

    with torch.no_grad():
        t = torch.tensor([timestep], device=latent.device)
        alpha = networks.scheduler.alphas_cumprod[timestep]
        noised = networks.scheduler.add_noise(latent, noise, t)
        both = torch.cat([networks.no_text, text])
        without, with_prompt = unet(torch.cat([noised] * 2), t, both).sample.chunk(2)
        predicted = without + GUIDANCE_SCALE * (with_prompt - without)
        gradient = (1 - alpha) * (predicted - noise)

    latent.backward(gradient)
    assert image.grad is not None
    return [float(value) for value in entropy_and_l1(image.grad)]
