"""The autoencoder of the latent diffusion model: a small AutoencoderKL, four to one a side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import draws
from .data import CaptionedImages
from .part import PartTrainer, Recipe

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

RECIPE = Recipe(steps=3200, batch_size=16, lr=2e-3, ema=0.995)
_KL_WEIGHT = 2e-4


def new_vae(resolution: int) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    blocks = 3
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=resolution,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return squared and absolute error, plus half that of image gradients, for sharp edges."""
    error = output - target
    dx = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    dy = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.square().mean() * 2.0 + error.abs().mean() + 0.5 * (dx + dy)


def train_vae(data: CaptionedImages, trainer: PartTrainer) -> AutoencoderKL:
    """Train the autoencoder; its latents leave it with mean 0 and standard deviation 1."""
    with draws.private(RECIPE.seed):
        vae = new_vae(data.resolution)
    vae.to(trainer.device)

    def loss_fn(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        images = data.images(data.batch(RECIPE.batch_size, rng), trainer.device)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=rng).to(trainer.device)
        output = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
        loss = reconstruction_loss(output, images) + _KL_WEIGHT * kl
        mse = F.mse_loss(output.detach(), images)
        return loss, {"psnr": 10 * torch.log10(4.0 / mse), "kl": kl.detach()}

    trained = trainer.train("vae", vae, loss_fn, RECIPE)
    whiten(trained, data)
    return trained


@torch.no_grad()
def whiten(vae: AutoencoderKL, data: CaptionedImages, n: int = 2048) -> None:
    """Fold per-channel mean and deviation of the latents into the 1×1 convolutions at the seam.

    Latents of unequal scale gave the first diffusion models of this domain a color cast; with the
    statistics inside `quant_conv` and `post_quant_conv` the scaling factor is exactly 1.
    """
    index = torch.arange(min(n, len(data)))
    means = torch.cat(
        [vae.encode(data.images(i, vae.device)).latent_dist.mean for i in index.split(64)]
    )
    mu = means.mean((0, 2, 3))
    sd = means.std((0, 2, 3))
    c = len(mu)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:c] /= sd[:, None, None, None]
    quant.bias[:c] = (quant.bias[:c] - mu) / sd
    quant.bias[c:] -= 2.0 * sd.log()
    post.bias += (post.weight[:, :, 0, 0] * mu).sum(1)
    post.weight *= sd[None, :, None, None]
