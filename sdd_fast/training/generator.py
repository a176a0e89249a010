"""StyleGAN2 and its encoder, trained together as an autoencoder through W+.

A small private domain has too few images and too little time for adversarial training. The
generator is therefore learned as the decoder of the encoder it will be used with: first at half
resolution, then at full. Three things keep W+ a space in which edits behave: noise on w, a
penalty on the per-layer deltas, and rendering every seventh image from the shared w alone. The
mapping network is fitted afterwards to the distribution of the encoded w.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import draws
from ..models import Encoder, StyleGAN2
from .data import CaptionedImages
from .part import PartTrainer, Recipe
from .vae import reconstruction_loss

if TYPE_CHECKING:
    from ..models.clip import Clip

HALF = Recipe(steps=2500, batch_size=24, lr=2.5e-3, ema=0.99)
FULL = Recipe(steps=5000, batch_size=16, lr=2e-3, ema=0.995, seed=1)
MAPPING = Recipe(steps=3000, batch_size=512, lr=2e-3, ema=0.995, bf16=False, seed=2)
_W_DIM = 128
_GENERATOR_LR = 8.0  # its equalized weights have unit variance, the encoder's about 0.05
_W_NOISE = 0.05  # of a w whose components have about unit variance
_DELTA_WEIGHT = 0.02
_BASE_WEIGHT = 1e-3
_CLIP_WEIGHT = 0.15
_BASE_ONLY = 0.15  # share of the images rendered without deltas


class _Autoencoder(nn.Module):
    def __init__(self, generator: StyleGAN2, encoder: Encoder) -> None:
        super().__init__()
        self.generator = generator
        self.encoder = encoder


def new_generator(resolution: int) -> StyleGAN2:
    return StyleGAN2(resolution, _W_DIM, _W_DIM, 4, channel_base=1536, channel_max=128)


def train_generator(
    data: CaptionedImages, clip: Clip, trainer: PartTrainer
) -> tuple[StyleGAN2, Encoder]:
    """Train encoder and generator at half resolution, then at full, then the mapping network."""
    resolution = data.resolution
    with draws.private(HALF.seed):
        num_layers = new_generator(resolution).num_layers
        encoder = Encoder(resolution, num_layers, _W_DIM, channel_base=1024, channel_max=128)
        small = _Autoencoder(new_generator(resolution // 2), encoder)
    small = _train_stage("generator-half", small, data, None, HALF, trainer)

    with draws.private(FULL.seed):
        generator = new_generator(resolution)
    grown = generator.state_dict() | small.generator.state_dict()
    generator.load_state_dict(grown)
    large = _Autoencoder(generator, small.encoder)
    large = _train_stage("generator-full", large, data, clip, FULL, trainer)
    fit_mapping(large.generator, large.encoder, data, trainer)
    return large.generator, large.encoder


def _train_stage(
    name: str,
    auto: _Autoencoder,
    data: CaptionedImages,
    clip: Clip | None,
    recipe: Recipe,
    trainer: PartTrainer,
) -> _Autoencoder:
    device = trainer.device
    auto.requires_grad_(True).to(device)
    auto.generator.style.requires_grad_(False)  # the mapping network is fitted afterwards
    generator, encoder = auto.generator, auto.encoder
    if clip is not None:
        clip.image.to(device)

    def loss_fn(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        images = data.images(data.batch(recipe.batch_size, rng), device)
        w_plus, base = encoder(images, return_base=True)
        w_plus, base = w_plus.float(), base.float()
        delta = w_plus - base[:, None]
        kept = (torch.rand(len(images), 1, 1, generator=rng) >= _BASE_ONLY).to(device)
        noise = torch.randn(len(images), 1, _W_DIM, generator=rng).to(device)
        noisy = base[:, None] + delta * kept + _W_NOISE * noise
        output = generator.synthesis(noisy[:, : generator.num_layers], noise_mode="none").float()
        target = images
        if output.shape[-1] != images.shape[-1]:
            target = F.avg_pool2d(images, images.shape[-1] // output.shape[-1])
        loss = reconstruction_loss(output, target)
        loss = loss + _DELTA_WEIGHT * delta.square().mean() + _BASE_WEIGHT * base.square().mean()
        if clip is not None:
            seen, wanted = clip.encode_images(output), clip.encode_images(images)
            loss = loss + _CLIP_WEIGHT * (1.0 - F.cosine_similarity(seen, wanted).mean())
        mse = F.mse_loss(output.detach(), target)
        return loss, {
            "psnr": 10 * torch.log10(4.0 / mse),
            "w": base.detach().std(),
            "delta": delta.detach().std(),
        }

    return trainer.train(name, auto, loss_fn, recipe, lr_factors={"generator.": _GENERATOR_LR})


def fit_mapping(
    generator: StyleGAN2, encoder: Encoder, data: CaptionedImages, trainer: PartTrainer
) -> None:
    """Fit z → w to the encoded w by implicit maximum likelihood (Li & Malik 2018).

    Every encoded w of a batch pulls the nearest of many mapped z: all modes are covered and no
    discriminator is needed.
    """
    device = trainer.device
    with torch.no_grad():
        chunks = [
            encoder(data.images(i, device), return_base=True)[1].float()
            for i in torch.arange(min(len(data), 20000)).split(256)
        ]
        targets = torch.cat(chunks)
    style = generator.style.requires_grad_(True)

    def loss_fn(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = targets[torch.randint(len(targets), (MAPPING.batch_size,), generator=rng)]
        with torch.no_grad():
            pool = torch.randn(4 * MAPPING.batch_size, _W_DIM, generator=rng).to(device)
            nearest = torch.cdist(chosen, style(pool)).argmin(1)
        z = pool[nearest]
        loss = F.mse_loss(style(z), chosen)
        return loss, {}

    trained = trainer.train("mapping", style, loss_fn, MAPPING)
    generator.style.load_state_dict(trained.state_dict())
    generator.requires_grad_(False)
    generator.update_latent_avg(draws.stream(MAPPING.seed, "latent average"))
