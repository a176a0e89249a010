"""The original layout of single-file checkpoints: what the tensors are called, and what they tell.

    model.diffusion_model.*                     the U-Net
    first_stage_model.*                         the VAE
    cond_stage_model.transformer.text_model.*   the text encoder of SD 1.x (transformers' CLIP)
    cond_stage_model.model.*                    the text encoder of SD 2.x (OpenCLIP)
    conditioner.embedders.0.transformer.*       the first text encoder of SDXL (transformers' CLIP)
    conditioner.embedders.1.model.*             the second text encoder of SDXL (OpenCLIP)

diffusers' `from_single_file` converts the same layout, but leaves a weight that is missing at its
random initial value and drops one that it does not know. Here each weight of the network asks for
its tensor by name, so that both are noticed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
CLIP_XL = "conditioner.embedders.0.transformer."
OPEN_CLIP_XL = "conditioner.embedders.1.model."

HEAD_WIDTH = 64  # of every CLIP text encoder, and of the U-Nets of SD 2.x and XL
HEADS = 8  # of the U-Net of SD 1.x, at every level
TIME_EMBED_DIM = 256  # sinusoidal features of each of SDXL's image sizes

# Known to belong to something else: buffers of the noise schedule, averaged weights, training.
# Known to belong to something else: buffers of the noise schedule, averaged weights, training.
IGNORED = re.compile(
    r"betas|\w*alphas_cumprod\w*|posterior_\w+|lvlb_weights|logvar|denoiser\.sigmas|v_pred|ztsnr"
    r"|model_ema\..+|first_stage_model\.(loss|model_ema)\..+|embedding_manager\..+"
    r"|.+\.position_ids|.+\.logit_scale|.+\.model\.attn_mask"
    r"|(cond_stage_model|conditioner\.embedders\.0)\.(transformer\.)?text_projection(\.weight)?"
)


def family(keys: Any) -> str | None:
    """ "1.x", "2.x" or "XL", by the text encoder; None if this is no complete checkpoint."""
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


# ── U-Net ─────────────────────────────────────────────────────────────────────────────────────────


def unet_config(shapes: Shapes) -> dict[str, Any]:
    """Arguments of UNet2DConditionModel but for sample_size, which no tensor tells.

    Raises:
        ValueError: the blocks are not arranged as in any Stable Diffusion.
    """
    levels: list[list[int]] = [[]]  # level → depth of the transformer (0: none) of each layer
    channels: list[int] = []
    for i in range(1, _count(shapes, UNET + r"input_blocks\.(\d+)\.")):
        block = f"{UNET}input_blocks.{i}."
        if block + "0.op.weight" in shapes:
            levels.append([])
            continue
        levels[-1].append(_count(shapes, re.escape(block) + r"1\.transformer_blocks\.(\d+)\."))
        channels[len(levels) - 1 :] = [shapes[block + "0.out_layers.3.weight"][0]]
    depths = [level[0] if level else 0 for level in levels]
    layers = len(levels[0])
    if not layers or any(
        level != [depth] * layers for level, depth in zip(levels, depths, strict=True)
    ):
        raise ValueError(f"its U-Net has levels of unequal layers, or none: {levels}")
    middle = _count(shapes, re.escape(UNET) + r"middle_block\.1\.transformer_blocks\.(\d+)\.")
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


_UNET_ENDS = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(
    r"(down_blocks|mid_block|up_blocks)\.(?:(\d+)\.)?"
    r"(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)


def unet_source(key: str, config: Mapping[str, Any]) -> str:
    """The original name of the U-Net's weight `key`."""
    for ours, theirs in _UNET_ENDS.items():
        if key.startswith(ours):
            return UNET + theirs + key.removeprefix(ours)
    match = _BLOCK.fullmatch(key)
    assert match, key
    part, level, what, index = match[1], int(match[2] or 0), match[3], int(match[4])
    name, rest = _renamed(match[5], _UNET_RESNET if what == "resnets" else {})
    if part == "mid_block":
        return f"{UNET}middle_block.{2 * index if what == 'resnets' else 1}.{name}.{rest}"
    layers = config["layers_per_block"]
    if part == "down_blocks":
        start = 1 + level * (layers + 1)
        if what == "downsamplers":
            return f"{UNET}input_blocks.{start + layers}.0.op.{rest}"
        return f"{UNET}input_blocks.{start + index}.{int(what == 'attentions')}.{name}.{rest}"
    start = level * (layers + 1)
    if what == "upsamplers":  # it comes third, or second in a block without a transformer
        slot = 2 if config["up_block_types"][level].startswith("CrossAttn") else 1
        return f"{UNET}output_blocks.{start + layers}.{slot}.conv.{rest}"
    return f"{UNET}output_blocks.{start + index}.{int(what == 'attentions')}.{name}.{rest}"


# ── VAE ───────────────────────────────────────────────────────────────────────────────────────────


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """Arguments of AutoencoderKL but for the scaling factor, which no tensor tells."""
    levels = _count(shapes, VAE + r"encoder\.down\.(\d+)\.")
    layers = _count(shapes, VAE + r"encoder\.down\.0\.block\.(\d+)\.")
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


_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out": "proj_out",
}


def vae_source(key: str, config: Mapping[str, Any]) -> str:
    """The original name of the VAE's weight `key`."""
    side, _, inner = key.partition(".")
    match = _BLOCK.fullmatch(inner)
    if match is None:
        return VAE + key.replace("conv_norm_out", "norm_out")
    part, level, what, index = match[1], int(match[2] or 0), match[3], int(match[4])
    if what == "attentions":
        name, rest = _renamed(match[5].replace("to_out.0", "to_out"), _VAE_ATTENTION)
        return f"{VAE}{side}.mid.attn_{index + 1}.{name}.{rest}"
    name, rest = _renamed(match[5], {"conv_shortcut": "nin_shortcut"})
    if part == "mid_block":
        return f"{VAE}{side}.mid.block_{index + 1}.{name}.{rest}"
    # The decoder's levels are counted from the finest.
    up = part == "up_blocks"
    place = f"up.{len(config['block_out_channels']) - 1 - level}" if up else f"down.{level}"
    if what == "resnets":
        return f"{VAE}{side}.{place}.block.{index}.{name}.{rest}"
    return f"{VAE}{side}.{place}.{'upsample' if up else 'downsample'}.{name}.{rest}"


# ── text encoders ─────────────────────────────────────────────────────────────────────────────────


def clip_config(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """Arguments of CLIPTextConfig for transformers' CLIP at `prefix`."""
    model = prefix + "text_model."
    vocabulary, width = shapes[model + "embeddings.token_embedding.weight"]
    return _text_config(
        vocabulary,
        width,
        intermediate_size=shapes[model + "encoder.layers.0.mlp.fc1.weight"][0],
        num_hidden_layers=_count(shapes, re.escape(model) + r"encoder\.layers\.(\d+)\."),
        max_position_embeddings=shapes[model + "embeddings.position_embedding.weight"][0],
        hidden_act="quick_gelu",
        projection_dim=width,
    )


def open_clip_config(shapes: Shapes, prefix: str, *, layers_left_out: int) -> dict[str, Any]:
    """Arguments of CLIPTextConfig for OpenCLIP at `prefix`."""
    vocabulary, width = shapes[prefix + "token_embedding.weight"]
    layers = _count(shapes, re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.")
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


_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def open_clip_source(key: str, prefix: str) -> tuple[str, int | None]:
    """The original name of the weight `key` (without "text_model."), and which third of it.

    OpenCLIP stores the projections to queries, keys and values below each other in one tensor.
    """
    if key in _OPEN_CLIP:
        return prefix + _OPEN_CLIP[key], None
    if key == "text_projection.weight":
        return prefix + "text_projection", None
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
    assert match, key
    layer = f"{prefix}transformer.resblocks.{match[1]}."
    if third := re.fullmatch(r"self_attn\.([qkv])_proj", match[2]):
        return f"{layer}attn.in_proj_{match[3]}", "qkv".index(third[1])
    return f"{layer}{_OPEN_CLIP_LAYER[match[2]]}.{match[3]}", None


def _renamed(key: str, names: Mapping[str, str]) -> tuple[str, str]:
    name, _, rest = key.partition(".")
    return names.get(name, name), rest


def _count(shapes: Shapes, pattern: str) -> int:
    """How many numbers there are where the pattern has its group. They count from 0."""
    found = (re.match(pattern, key) for key in shapes)
    return len({match[1] for match in found if match})
