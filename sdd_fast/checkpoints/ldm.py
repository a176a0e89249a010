"""The original (latent diffusion, LDM) layout of Stable Diffusion: its prefixes and architecture.

    model.diffusion_model.*                     the U-Net
    first_stage_model.*                         the VAE
    cond_stage_model.transformer.text_model.*   the text encoder of SD 1.x (transformers' CLIP)
    cond_stage_model.model.*                    the text encoder of SD 2.x (OpenCLIP)
    conditioner.embedders.0.transformer.*       the first text encoder of SDXL (transformers' CLIP)
    conditioner.embedders.1.model.*             the second text encoder of SDXL (OpenCLIP)

diffusers takes the architecture from a configuration that it downloads; here the shapes tell it.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from .content import count_indexed

Shapes = Mapping[str, tuple[int, ...]]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
CLIP_XL = "conditioner.embedders.0.transformer."
OPEN_CLIP_XL = "conditioner.embedders.1.model."

PREFIXES = {  # of each network, by family
    "1.x": {"unet": UNET, "vae": VAE, "text_encoder": CLIP},
    "2.x": {"unet": UNET, "vae": VAE, "text_encoder": OPEN_CLIP},
    "XL": {"unet": UNET, "vae": VAE, "text_encoder": CLIP_XL, "text_encoder_2": OPEN_CLIP_XL},
}

SCALING_FACTOR = {"1.x": 0.18215, "2.x": 0.18215, "XL": 0.13025}
HEAD_WIDTH = 64  # of every CLIP text encoder, and of the U-Nets of SD 2.x and XL
HEADS = 8  # of the U-Net of SD 1.x, at every level
TIME_EMBED_DIM = 256  # sinusoidal features of each of SDXL's image sizes

# Known to belong to something else: buffers of the noise schedule, averaged weights, training.
IGNORED = re.compile(
    r"betas|\w*alphas_cumprod\w*|posterior_\w+|lvlb_weights|logvar|denoiser\.sigmas|v_pred|ztsnr"
    r"|model_ema\..+|first_stage_model\.(loss|model_ema)\..+|embedding_manager\..+"
    r"|.+\.position_ids|.+\.logit_scale|.+\.model\.attn_mask"
    r"|(cond_stage_model|conditioner\.embedders\.0)\.(transformer\.)?text_projection(\.weight)?"
)


def family(keys: Container[str]) -> str | None:
    """Tell "1.x", "2.x" or "XL" by the text encoder; None if this is no complete checkpoint."""
    token = "token_embedding.weight"
    if UNET + "input_blocks.0.0.weight" not in keys or VAE + "encoder.conv_in.weight" not in keys:
        return None
    if OPEN_CLIP_XL + token in keys and CLIP_XL + "text_model.embeddings." + token in keys:
        return "XL"
    if OPEN_CLIP + token in keys:
        return "2.x"
    if CLIP + "text_model.embeddings." + token in keys:
        return "1.x"
    return None


def configs(shapes: Shapes, family: str) -> dict[str, dict[str, Any]]:
    """Tell the arguments of each network of a family, by their names as parts."""
    found = {"unet": unet_config(shapes), "vae": vae_config(shapes)}
    found["vae"]["scaling_factor"] = SCALING_FACTOR[family]
    if family == "1.x":
        found["text_encoder"] = clip_config(shapes, CLIP)
    elif family == "2.x":
        # What precedes the last layer is used, so SD 2.x's text encoder ends there.
        found["text_encoder"] = open_clip_config(shapes, OPEN_CLIP, layers_left_out=1)
    else:
        found["text_encoder"] = clip_config(shapes, CLIP_XL)
        found["text_encoder_2"] = open_clip_config(shapes, OPEN_CLIP_XL, layers_left_out=0)
    return found


# ── U-Net ─────────────────────────────────────────────────────────────────────────────────────────


def unet_config(shapes: Shapes) -> dict[str, Any]:
    """Tell the arguments of UNet2DConditionModel but for sample_size, which no tensor tells.

    Raises:
        ValueError: the blocks are not arranged as in any Stable Diffusion.
    """
    levels: list[list[int]] = [[]]  # level → depth of the transformer (0: none) of each layer
    channels: list[int] = []
    for i in range(1, count_indexed(shapes, UNET + "input_blocks")):
        block = f"{UNET}input_blocks.{i}."
        if block + "0.op.weight" in shapes:
            levels.append([])
            continue
        levels[-1].append(count_indexed(shapes, block + "1.transformer_blocks"))
        channels[len(levels) - 1 :] = [shapes[block + "0.out_layers.3.weight"][0]]
    depths = [level[0] if level else 0 for level in levels]
    layers = len(levels[0])
    if not layers or any(
        level != [depth] * layers for level, depth in zip(levels, depths, strict=True)
    ):
        raise ValueError(f"its U-Net has levels of unequal layers, or none: {levels}")
    middle = count_indexed(shapes, UNET + "middle_block.1.transformer_blocks")
    last_depth = depths[-1] or middle
    if middle != last_depth or middle == 0:
        raise ValueError(
            f"its U-Net has transformers of depths {depths} and {middle} in the middle"
        )
    linear = len(shapes[UNET + "middle_block.1.proj_in.weight"]) == 2
    config: dict[str, Any] = {
        "in_channels": shapes[UNET + "input_blocks.0.0.weight"][1],
        "out_channels": shapes[UNET + "out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in depths[::-1]],
        "transformer_layers_per_block": [depth or 1 for depth in depths[:-1]] + [last_depth],
        "cross_attention_dim": shapes[
            UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
        ][1],
        "use_linear_projection": linear,
        # diffusers' name is misleading: it is the number of heads.
        "attention_head_dim": [c // HEAD_WIDTH for c in channels] if linear else HEADS,
    }
    if UNET + "label_emb.0.0.weight" in shapes:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": TIME_EMBED_DIM,
            "projection_class_embeddings_input_dim": shapes[UNET + "label_emb.0.0.weight"][1],
        }
    return config


# ── VAE ───────────────────────────────────────────────────────────────────────────────────────────


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """Tell the arguments of AutoencoderKL but for the scaling factor, which no tensor tells."""
    levels = count_indexed(shapes, VAE + "encoder.down")
    layers = count_indexed(shapes, VAE + "encoder.down.0.block")
    return {
        "in_channels": shapes[VAE + "encoder.conv_in.weight"][1],
        "out_channels": shapes[VAE + "decoder.conv_out.weight"][0],
        "latent_channels": shapes[VAE + "decoder.conv_in.weight"][1],
        "block_out_channels": [
            shapes[f"{VAE}encoder.down.{i}.block.0.conv2.weight"][0] for i in range(levels)
        ],
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


# ── text encoders ─────────────────────────────────────────────────────────────────────────────────


def clip_config(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """Tell the arguments of CLIPTextConfig for transformers' CLIP at `prefix`."""
    model = prefix + "text_model."
    vocabulary, width = shapes[model + "embeddings.token_embedding.weight"]
    return _text_config(
        vocabulary,
        width,
        intermediate_size=shapes[model + "encoder.layers.0.mlp.fc1.weight"][0],
        num_hidden_layers=count_indexed(shapes, model + "encoder.layers"),
        max_position_embeddings=shapes[model + "embeddings.position_embedding.weight"][0],
        hidden_act="quick_gelu",
        projection_dim=width,
    )


def open_clip_config(shapes: Shapes, prefix: str, *, layers_left_out: int) -> dict[str, Any]:
    """Tell the arguments of CLIPTextConfig for OpenCLIP at `prefix`."""
    vocabulary, width = shapes[prefix + "token_embedding.weight"]
    layers = count_indexed(shapes, prefix + "transformer.resblocks")
    return _text_config(
        vocabulary,
        width,
        intermediate_size=shapes[prefix + "transformer.resblocks.0.mlp.c_fc.weight"][0],
        num_hidden_layers=layers - layers_left_out,
        max_position_embeddings=shapes[prefix + "positional_embedding"][0],
        hidden_act="gelu",
        projection_dim=shapes.get(prefix + "text_projection", (width, width))[1],
    )


def _text_config(vocabulary: int, width: int, **others: Any) -> dict[str, Any]:
    # The end of the text is the last token of the vocabulary. Declaring it as 2, as the original
    # configurations do, makes transformers look for the largest token, which is the same one.
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": width // HEAD_WIDTH,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        **others,
    }
