"""The denoiser: a small UNet2DConditionModel on the latents, conditioned on captions.

ε-prediction, Stable Diffusion's noise schedule, captions dropped one time in ten for
classifier-free guidance. The text encoder starts from the contrastive one and learns along.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from .. import draws
from ..files import atomic_path
from ..models.clip import Clip, tokenize
from ..quiet import quiet_loading
from ..teacher.schedule import Schedule
from .data import CaptionedImages
from .part import PartTrainer, Recipe

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

RECIPE = Recipe(steps=4500, batch_size=64, lr=1e-3, warmup=200, weight_decay=0.01, ema=0.999)
_CAPTION_DROPOUT = 0.1


def new_scheduler() -> DDIMScheduler:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def new_unet(latent_size: int, text_width: int) -> UNet2DConditionModel:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=8,
    )


class _Denoiser(nn.Module):
    def __init__(self, unet: UNet2DConditionModel, text: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text = text


@torch.no_grad()
def encode_images(vae: AutoencoderKL, data: CaptionedImages, folder: Path) -> np.ndarray:
    """Return float16 [N, 4, h, w], the mean latent of every image, computed once for a VAE."""
    digest = hashlib.blake2b(digest_size=4)
    for weight in vae.state_dict().values():
        digest.update(weight.cpu().numpy().tobytes())
    path = folder / f"latents-{digest.hexdigest()}.npy"
    if not path.exists():
        for earlier in folder.glob("latents*.npy"):  # of a VAE that has been trained anew
            earlier.unlink()
        chunks = [
            vae.encode(data.images(i, vae.device)).latent_dist.mean.half().cpu().numpy()
            for i in data.chunks()
        ]
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.concatenate(chunks), allow_pickle=False)
    latents: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return latents


def train_unet(
    data: CaptionedImages,
    vae: AutoencoderKL,
    clip: Clip,
    clip_folder: Path,
    trainer: PartTrainer,
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Train the denoiser by Eq. 4 of the paper; return moving averages of U-Net and text.

    Args:
        clip_folder: holds what `clip.save` wrote.
    """
    from transformers import CLIPTextModel

    device = trainer.device
    latents = encode_images(vae, data, trainer.folder)
    with quiet_loading():
        text = CLIPTextModel.from_pretrained(clip_folder, local_files_only=True).float()
    width = int(clip.text.config.hidden_size)
    with draws.private(RECIPE.seed):
        unet = new_unet(latents.shape[-1], width)
    denoiser = _Denoiser(unet, text.requires_grad_(True)).to(device)
    schedule = Schedule(new_scheduler(), device)

    def loss_fn(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        index = data.batch(RECIPE.batch_size, rng)
        n = len(index)
        captions = data.captions(index, int(torch.randint(2**31, (1,), generator=rng)))
        dropped = torch.rand(n, generator=rng) < _CAPTION_DROPOUT
        captions = ["" if d else c for c, d in zip(captions, dropped.tolist(), strict=True)]
        ids = tokenize(clip.tokenizer, captions).to(device)
        embeds = denoiser.text(ids).last_hidden_state

        z = torch.from_numpy(latents[index.numpy()]).float().to(device)
        noise = torch.randn(z.shape, generator=rng).to(device)
        # one timestep from every n-th of the range: a stratified draw has less variance
        u = (torch.arange(n) + torch.rand(n, generator=rng)) / n
        t = (u * len(schedule)).long().to(device)
        predicted = denoiser.unet(schedule.add_noise(z, noise, t), t, embeds).sample
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        return error.mean(), {"high": error[t > 600].mean().detach()}

    trained = trainer.train("unet", denoiser, loss_fn, RECIPE, save_every=250)
    return trained.unet, trained.text
