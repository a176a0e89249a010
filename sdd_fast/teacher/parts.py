"""The parts of a Stable Diffusion pipeline, and whether they make a teacher."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoints.stable_diffusion import SUPPORTED
from .schedule import check_scheduler

SIZE_CONDITIONS = 6  # original height and width, top and left of the crop, target height and width


class Components(NamedTuple):
    """The parts of a Stable Diffusion pipeline, as diffusers and transformers objects.

    The scheduler is always a DDIMScheduler, whatever sampler the pipeline names: only its betas
    matter. The last three belong to SDXL: its second text encoder and tokenizer, and whether its
    unconditional embedding is zero rather than that of "".
    """

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    text_encoder_2: Any = None
    tokenizer_2: Any = None
    force_zeros_for_empty_prompt: bool = False


def check_fit(parts: Components) -> None:
    """ValueError unless these are the parts of one supported model."""
    unet, vae = parts.unet.config, parts.vae.config
    check_scheduler(parts.scheduler)
    if unet.in_channels != vae.latent_channels:
        raise ValueError(
            f"the U-Net takes {unet.in_channels} channels but the VAE's latents have "
            f"{vae.latent_channels}; inpainting, depth and upscaling models are not supported"
        )
    encoders = [parts.text_encoder] + ([parts.text_encoder_2] if parts.text_encoder_2 else [])
    width = sum(encoder.config.hidden_size for encoder in encoders)
    if unet.cross_attention_dim != width:
        sizes = " + ".join(str(encoder.config.hidden_size) for encoder in encoders)
        raise ValueError(
            f"the U-Net's cross_attention_dim is {unet.cross_attention_dim} but the text "
            f"encoder's hidden size is {sizes}; these parts belong to different models"
        )
    for tokenizer, encoder in zip((parts.tokenizer, parts.tokenizer_2), encoders, strict=False):
        _check_tokenizer(tokenizer, encoder.config.vocab_size)
    _check_conditions(parts)
    if getattr(vae, "shift_factor", None) or getattr(vae, "latents_mean", None):
        raise ValueError(
            "the VAE shifts its latents (shift_factor or latents_mean), which Stable Diffusion "
            f"1.x, 2.x and XL do not; supported: {SUPPORTED}"
        )


def _check_tokenizer(tokenizer: Any, embeddings: int) -> None:
    # Where files are missing transformers makes a tokenizer of the special tokens only. Embeddings
    # that no token uses do no harm, as long as they are few.
    if tokenizer is not None and not embeddings / 2 < len(tokenizer) <= embeddings:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens but the text encoder {embeddings}; they "
            "belong to different models, or the tokenizer's files are incomplete"
        )


def _check_conditions(parts: Components) -> None:
    """The U-Net may ask for nothing but text, and for SDXL the pooled text and the image's size."""
    unet = parts.unet.config
    for name in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
        if getattr(unet, name, None) is not None:
            raise ValueError(
                f"the U-Net takes a condition that is not supported ({name} = "
                f"{getattr(unet, name)!r}); supported: {SUPPORTED}"
            )
    kind = getattr(unet, "addition_embed_type", None)
    if parts.text_encoder_2 is None:
        if kind is not None:
            raise ValueError(
                f"the U-Net takes added conditions ({kind!r}), but there is no second text "
                f"encoder to make them; supported: {SUPPORTED}"
            )
        return
    given = unet.projection_class_embeddings_input_dim
    pooled = parts.text_encoder_2.config.projection_dim
    if kind != "text_time" or given != pooled + SIZE_CONDITIONS * unet.addition_time_embed_dim:
        raise ValueError(
            f"the U-Net's added conditions ({kind!r}, {given} elements) are not those of SDXL "
            f"base: {pooled} of the pooled text and {SIZE_CONDITIONS} image sizes. The refiner, "
            f"which takes an aesthetic score, is not supported; supported: {SUPPORTED}"
        )


def native_size(sample_size: int | Sequence[int]) -> int:
    """Return the side of the latent that a U-Net was trained with."""
    sizes = {sample_size} if isinstance(sample_size, int) else set(sample_size)
    if len(sizes) != 1:
        raise ValueError(
            f"the U-Net's sample_size is {sample_size}; only square models are supported"
        )
    return sizes.pop()


def is_hub_id(source: str | Path) -> bool:
    """Tell whether `source` is no path but a name "owner/name" on the hub."""
    hub_id = isinstance(source, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", source)
    # "runs/model" below an existing folder "runs" is a mistyped path, not a request to download.
    return bool(hub_id) and not Path(source).exists() and not Path(source).parent.exists()
