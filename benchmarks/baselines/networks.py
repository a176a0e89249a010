"""The networks that baselines and sdd_fast evaluate alike: trained ones, or random ones.

No side times the encoding of prompts or the drawing of noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sd_families import FULL, FULL_VAE, TINY, TINY_VAE
from tiny_tokenizer import write_tokenizer
from torch import Tensor

import sdd_fast as sdd
from sdd_fast.models import StyleGAN2
from sdd_fast.models.arcface import ArcFace
from sdd_fast.models.psp import PyramidEncoder


@dataclass(frozen=True)
class Networks:
    """A generator, a teacher's parts as diffusers and transformers have them, and their inputs.

    Args:
        text, no_text: [P, S, D] and [1, S, D] embeddings of P prompts and of "".
        w_plus: [N, num_layers, w_dim] latents of images.
        identity, encoder: images to embeddings, and to W+.
    """

    generator: StyleGAN2
    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    text: Tensor
    no_text: Tensor
    w_plus: Tensor
    identity: Any = None
    encoder: Any = None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        return self.vae.config.latent_channels, size, size

    @property
    def resolution(self) -> int:
        """Pixels of an image that the teacher sees."""
        size: int = self.unet.config.sample_size
        return size * 2 ** (len(self.vae.config.block_out_channels) - 1)


def faces64(device: str) -> Networks:
    """Take the embedded domain, with its eight prompts."""
    domain = sdd.load_domain("faces64", device=device)
    prior = domain.prior
    text = prior.encode_prompt(list(domain.prompts))
    parts = prior.vae, prior.unet, prior.text_encoder, prior.tokenizer, prior.scheduler
    return Networks(
        domain.generator, *parts, text.cond, text.uncond[:1], domain.held_out,
        domain.identity, domain.encoder,
    )  # fmt: skip


def full_size(device: str) -> Networks:
    """Build StyleGAN2-1024 and Stable Diffusion 1.x at 512², with random weights."""
    return _random(
        lambda: StyleGAN2(1024), ArcFace, lambda layers: PyramidEncoder(layers),
        FULL["1.x"]["unet"], FULL_VAE, device,
    )  # fmt: skip


def tiny(device: str) -> Networks:
    """Build the same in small, for a dry run."""
    # As LEDITS++ needs it: cross-attention at a quarter of the latent's side.
    attending = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return _random(
        lambda: StyleGAN2(64, 16, 16, 2, channel_base=256, channel_max=16),
        lambda: ArcFace((1, 1, 1, 1), 16, 8),
        lambda layers: PyramidEncoder(layers, 16, input_size=(64, 64), units=(1,) * 4, width=16),
        TINY["1.x"]["unet"] | attending, TINY_VAE, device, sample_size=16,
    )  # fmt: skip


def _random(
    make_generator: Callable[[], StyleGAN2],
    make_identity: Callable[[], Any],
    make_encoder: Callable[[int], Any],
    unet: dict[str, Any],
    vae: dict[str, Any],
    device: str,
    sample_size: int = 64,
) -> Networks:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder) / "tokenizer")
        tokenizer = CLIPTokenizer.from_pretrained(Path(folder) / "tokenizer")
    levels, width = len(vae["block_out_channels"]), unet["cross_attention_dim"]
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        generator = make_generator()
        parts = (
            AutoencoderKL(**blocks, **vae, scaling_factor=0.18215),
            UNet2DConditionModel(sample_size=sample_size, **unet),
            CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=width,
                    num_hidden_layers=1,
                    num_attention_heads=1,
                )
            ),
        )
        judges = make_identity(), make_encoder(generator.num_layers)
        text = torch.randn(9, 77, width)
        w_plus = torch.randn(64, 1, generator.w_dim).expand(-1, generator.num_layers, -1)
    for part in (generator, *parts, *judges):
        part.requires_grad_(False).eval()
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        steps_offset=1,
    )  # fmt: skip
    given = text[:8], text[8:], w_plus, *judges
    return Networks(generator, *parts, tokenizer, scheduler, *given)
