"""diffusers' networks written as the original single files name their tensors.

Independent of diffusers' conversion, which the package uses: it goes the other way, through the
original blocks in their order. `teacher/test_full_size.py` checks it against the published keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def original_unet(unet: Any) -> dict[str, Tensor]:
    state, config = dict(unet.state_dict()), unet.config
    out: dict[str, Tensor] = {}

    def move(new: str, old: str, names: dict[str, str] | None = None) -> None:
        for key in [key for key in state if key.startswith(old + ".")]:
            rest = key.removeprefix(old + ".")
            for theirs, ours in (names or {}).items():
                if rest.startswith(ours + "."):
                    rest = theirs + rest.removeprefix(ours)
            out[f"model.diffusion_model.{new}.{rest}"] = state.pop(key)

    for new, old in (
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("label_emb.0.0", "add_embedding.linear_1"),
        ("label_emb.0.2", "add_embedding.linear_2"),
        ("input_blocks.0.0", "conv_in"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
    ):
        move(new, old)
    block = 1
    for level in range(len(config.block_out_channels)):
        for layer in range(config.layers_per_block):
            move(f"input_blocks.{block}.0", f"down_blocks.{level}.resnets.{layer}", RESNET)
            move(f"input_blocks.{block}.1", f"down_blocks.{level}.attentions.{layer}")
            block += 1
        if level < len(config.block_out_channels) - 1:
            move(f"input_blocks.{block}.0.op", f"down_blocks.{level}.downsamplers.0.conv")
            block += 1
    move("middle_block.0", "mid_block.resnets.0", RESNET)
    move("middle_block.1", "mid_block.attentions.0")
    move("middle_block.2", "mid_block.resnets.1", RESNET)
    block = 0
    for level in range(len(config.block_out_channels)):
        for layer in range(config.layers_per_block + 1):
            last = layer == config.layers_per_block
            attention = f"up_blocks.{level}.attentions.{layer}"
            slots = [f"up_blocks.{level}.resnets.{layer}"]
            slots += [attention] if any(key.startswith(attention + ".") for key in state) else []
            slots += [f"up_blocks.{level}.upsamplers.0"] if last else []
            for slot, old in enumerate(slots):
                move(f"output_blocks.{block}.{slot}", old, RESNET if slot == 0 else None)
            block += 1
    assert not state, sorted(state)
    return out


def original_vae(vae: Any) -> dict[str, Tensor]:
    levels = len(vae.config.block_out_channels)
    out = {}
    for key, tensor in vae.state_dict().items():
        new = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        for level in range(levels):
            new = new.replace(f"down_blocks.{level}.resnets", f"down.{level}.block")
            new = new.replace(f"down_blocks.{level}.downsamplers.0", f"down.{level}.downsample")
            up = levels - 1 - level
            new = new.replace(f"up_blocks.{level}.resnets", f"up.{up}.block")
            new = new.replace(f"up_blocks.{level}.upsamplers.0", f"up.{up}.upsample")
        new = new.replace("mid_block.resnets.0", "mid.block_1")
        new = new.replace("mid_block.resnets.1", "mid.block_2")
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1").replace(
                "to_out.0", "proj_out"
            )
            new = new.replace("group_norm", "norm")
            for name in "qkv":
                new = new.replace(f"to_{name}", name)
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        out["first_stage_model." + new] = tensor
    return out


def original_clip(text_encoder: Any, prefix: str) -> dict[str, Tensor]:
    """As transformers named it then: everything below text_model, and the positions kept."""
    out = {
        f"{prefix}text_model.{key.removeprefix('text_model.')}": tensor
        for key, tensor in text_encoder.state_dict().items()
    }
    length = text_encoder.config.max_position_embeddings
    return out | {f"{prefix}text_model.embeddings.position_ids": torch.arange(length)[None]}


def original_open_clip(text_encoder: Any, prefix: str, *, more_layers: int) -> dict[str, Tensor]:
    """OpenCLIP's text tower; `more_layers` follow that the diffusers folder leaves out."""
    state = {k.removeprefix("text_model."): v for k, v in text_encoder.state_dict().items()}
    config = text_encoder.config
    width, layers = config.hidden_size, config.num_hidden_layers
    out = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
        "attn_mask": torch.zeros(3, 3),
        "text_projection": torch.randn(width, width),
    }
    if "text_projection.weight" in state:
        out["text_projection"] = state["text_projection.weight"].T
    for layer in range(layers + more_layers):
        theirs = f"transformer.resblocks.{layer}."
        ours = f"encoder.layers.{min(layer, layers - 1)}."  # what is left out may be anything
        for leaf in ("weight", "bias"):
            parts = [state[f"{ours}self_attn.{name}_proj.{leaf}"] for name in "qkv"]
            out[f"{theirs}attn.in_proj_{leaf}"] = torch.cat(parts)
            for new, old in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                out[f"{theirs}{new}.{leaf}"] = state[f"{ours}{old}.{leaf}"]
    return {prefix + key: tensor for key, tensor in out.items()}


def original_file(family: str, networks: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors of a single file, with the usual left-overs of training."""
    tensors = original_unet(networks["unet"]) | original_vae(networks["vae"])
    if family == "1.x":
        tensors |= original_clip(networks["text_encoder"], "cond_stage_model.transformer.")
    elif family == "2.x":
        tensors |= original_open_clip(
            networks["text_encoder"], "cond_stage_model.model.", more_layers=1
        )
    else:
        tensors |= original_clip(networks["text_encoder"], "conditioner.embedders.0.transformer.")
        tensors |= original_open_clip(
            networks["text_encoder_2"], "conditioner.embedders.1.model.", more_layers=0
        )
    extra = ("betas", "alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_mean_coef1")
    tensors |= dict.fromkeys(extra, torch.zeros(1000))
    tensors["model_ema.decay"] = torch.tensor(0.9999)
    tensors["model_ema.diffusion_modelout2bias"] = torch.zeros(4)
    return {key: tensor.clone().contiguous() for key, tensor in tensors.items()}
