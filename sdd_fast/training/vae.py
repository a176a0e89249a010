"""The autoencoder of the latent diffusion model: a small AutoencoderKL, four to one a side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import draws
from ..training_loop import Schedule, train
from .data import Pictures

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

SCHEDULE = Schedule(steps=3200, batch_size=16, lr=2e-3, ema=0.995)
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
    """Squared and absolute error plus half the absolute error of image gradients: sharp edges."""
    error = output - target
    dx = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    dy = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.square().mean() * 2.0 + error.abs().mean() + 0.5 * (dx + dy)


def train_vae(
    pictures: Pictures, folder: Path, *, device: str = "cpu", schedule: Schedule = SCHEDULE
) -> AutoencoderKL:
    """Trains the autoencoder; its latents leave it with mean 0 and standard deviation 1."""
    with draws.private(schedule.seed):
        vae = new_vae(pictures.resolution)
    vae.to(device)

    def loss_fn(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        images = pictures.images(pictures.batch(schedule.batch_size, rng), device)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=rng).to(device)
        output = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
        loss = reconstruction_loss(output, images) + _KL_WEIGHT * kl
        mse = F.mse_loss(output.detach(), images)
        return loss, {"psnr": 10 * torch.log10(4.0 / mse), "kl": kl.detach()}

    trained = train("vae", vae, loss_fn, schedule, folder)
    whiten(trained, pictures)
    return trained


@torch.no_grad()
def whiten(vae: AutoencoderKL, pictures: Pictures, n: int = 2048) -> None:
    """Folds per-channel mean and deviation of the latents into the 1×1 convolutions at the seam.

    Latents of unequal scale gave the first diffusion models of this domain a colour cast; with the
    statistics inside ``quant_conv`` and ``post_quant_conv`` the scaling factor is exactly 1.
    """
    index = torch.arange(min(n, len(pictures)))
    means = torch.cat(
        [vae.encode(pictures.images(i, vae.device)).latent_dist.mean for i in index.split(64)]
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
