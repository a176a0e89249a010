"""What an expert writes in an afternoon, from stock parts of torch and diffusers.

Everything is frozen; U-Net and VAE in a low precision, channels_last, attention by
`scaled_dot_product_attention` (diffusers' default), compiled where that wins; images are generated
by a factored modulated convolution. For HQS they are generated once, in float32, and encoded once;
all timesteps of a batch of images go through the U-Net in calls of many rows; each gradient is one
more backward pass through the VAE's graph. For a training the identity vectors of the images before
the edit are known beforehand, and the generator may be in the low precision as well.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import Networks
from .paper import GUIDANCE_SCALE, IDENTITY_WEIGHT, L2_WEIGHT, LAM
from .stylegan2 import factored, factored_to_rgb, synthesis

# As diffusers' guide to fast inference recommends.
ON_GPU = {
    "max_autotune": True,
    "coordinate_descent_tuning": True,
    "coordinate_descent_check_all_directions": True,
    "conv_1x1_as_mm": True,
    "epilogue_fusion": False,
}


def low_precision(device: str) -> torch.dtype:
    """The lowest that is safe: bfloat16 where the CPU multiplies it natively, float16 on a GPU."""
    if device == "cuda":
        return torch.float16
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def prepare(
    networks: Networks, dtype: torch.dtype, compiled: bool = False, reindexing: bool = True
) -> Networks:
    """Return the teacher in `dtype`, channels_last.

    Args:
        compiled: U-Net and VAE encoder by torch.compile.
        reindexing: an option of Inductor. On, as it is by default, some versions generate slow code
            for convolution, GroupNorm and SiLU in a row.
    """
    unet, vae = (
        copy.deepcopy(part).to(dtype, memory_format=torch.channels_last).requires_grad_(False)
        for part in (networks.unet, networks.vae)
    )
    if compiled:
        torch._functorch.config.donated_buffer = False  # several backward passes of one graph
        options = {"loop_reindexing_after_fusion": reindexing}
        graphs = {}
        if networks.w_plus.is_cuda:
            unet.fuse_qkv_projections()
            vae.fuse_qkv_projections()
            options |= ON_GPU
            graphs = {"triton.cudagraphs": True}  # not of what is differentiated several times
        unet = torch.compile(unet, options=options | graphs, fullgraph=True, dynamic=False)
        vae.encoder = torch.compile(vae.encoder, options=options, dynamic=False)
    return replace(networks, unet=unet, vae=vae)


def with_low_generator(networks: Networks) -> Networks:
    """Return the networks of `prepare` with the generator in their dtype too, for trainings."""
    generator = copy.deepcopy(networks.generator).to(networks.vae.dtype)
    return replace(networks, generator=generator)


def entropies_and_l1(d: Tensor) -> Tensor:
    """Entropy and L1 norm [2, N] of gradients [N, 3, R, R]."""
    log_p = d.flatten(1).log_softmax(1)
    return torch.stack([-(log_p.exp() * log_p).sum(1), d.abs().sum((1, 2, 3))])


def statistics(
    networks: Networks,  # of `prepare`
    w_plus: Tensor,  # [N, num_layers, w_dim]
    text: Tensor,  # [1, S, D]
    timesteps: Sequence[int],
    noise: Tensor,  # [N, C, h, w]
    images_at_once: int = 8,
    rows_at_once: int = 16,
) -> Tensor:
    """Return entropy and L1 [2, N, T] of one prompt."""
    parts = [
        _statistics(networks, w, text, list(timesteps), e, rows_at_once)
        for w, e in zip(w_plus.split(images_at_once), noise.split(images_at_once), strict=True)
    ]
    return torch.cat(parts, 1)


def _statistics(
    networks: Networks,
    w_plus: Tensor,
    text: Tensor,
    timesteps: list[int],
    noise: Tensor,
    rows_at_once: int,
) -> Tensor:
    with torch.no_grad():
        images = synthesis(networks.generator, w_plus, factored, factored_to_rgb)
    latents = _encoded(networks, images.requires_grad_())
    n = len(latents)
    t = torch.tensor(timesteps, device=latents.device).repeat_interleave(n)
    z, e = (x.repeat(len(timesteps), 1, 1, 1) for x in (latents.detach(), noise))
    residuals = _residuals(networks, z, text, t, e, rows_at_once).unflatten(0, (-1, n))
    found = []
    for r in residuals:
        (d,) = torch.autograd.grad(latents, images, r, retain_graph=True)
        found.append(entropies_and_l1(d))
    return torch.stack(found, 2).cpu()


def _encoded(networks: Networks, images: Tensor) -> Tensor:  # [N, 3, R, R] -> [N, C, h, w]
    vae, seen = networks.vae, images
    if images.shape[-1] != networks.resolution:
        seen = F.interpolate(images, (networks.resolution,) * 2, mode="bilinear")
    seen = seen.to(vae.dtype, memory_format=torch.channels_last)
    latents: Tensor = vae.encode(seen).latent_dist.mode().float() * vae.config.scaling_factor
    return latents


@torch.no_grad()
def _residuals(
    networks: Networks,
    z: Tensor,  # [N, C, h, w]
    text: Tensor,
    t: Tensor,  # [N]
    noise: Tensor,  # [N, C, h, w]
    rows_at_once: int,
) -> Tensor:  # [N, C, h, w]
    unet = networks.unet
    weight = 1 - networks.scheduler.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
    noised = networks.scheduler.add_noise(z, noise, t)
    predicted = []
    for x, at in zip(noised.split(rows_at_once), t.split(rows_at_once), strict=True):
        both = torch.cat([networks.no_text.expand(len(x), -1, -1), text.expand(len(x), -1, -1)])
        rows = torch.cat([x, x]).to(networks.vae.dtype, memory_format=torch.channels_last)
        out = unet(rows, torch.cat([at, at]), both.to(rows.dtype), return_dict=False)[0].float()
        without, with_prompt = out.chunk(2)
        predicted.append(without + GUIDANCE_SCALE * (with_prompt - without))
    return weight * (torch.cat(predicted) - noise)


def training_step(
    networks: Networks,  # of `prepare`
    mapper: nn.Module,  # W+ -> its change
    optimizer: torch.optim.Optimizer,
    w_plus: Tensor,  # [B, num_layers, w_dim]
    known: Tensor,  # [B, E], identity vectors of the images before the edit
    text: Tensor,  # [1, S, D]
    timesteps: Tensor,  # [B]
    noise: Tensor,  # [B, C, h, w]
    rows_at_once: int = 16,
) -> None:
    """Train the mapper for one step, as the one of paper.py does."""
    edited = w_plus + LAM * mapper(w_plus)
    weight = networks.generator.input.input
    images = synthesis(networks.generator, edited.to(weight.dtype), factored, factored_to_rgb)
    images = images.to(w_plus.dtype)
    latents = _encoded(networks, images)
    gradient = _residuals(networks, latents.detach(), text, timesteps, noise, rows_at_once)
    alike = F.cosine_similarity(networks.identity(images), known)
    loss = (latents * gradient).sum() + L2_WEIGHT * F.mse_loss(edited, w_plus)
    loss = loss + IDENTITY_WEIGHT * (1 - alike).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
