"""Small random models that are built like SD 1.x, 2.x and XL, and the full-size ones.

Unlike `conftest.write_sd_folder`, which is as small as can be, these keep every ratio that the
original checkpoints fix: 32 groups in each norm; 8 heads in a U-Net of SD 1.x, and heads of 64
channels everywhere else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_tokenizer import write_tokenizer

FAMILIES = ("1.x", "2.x", "XL")
PREDICTION_TYPE = {"1.x": "epsilon", "2.x": "v_prediction", "XL": "epsilon"}
SCALING_FACTOR = {"1.x": 0.18215, "2.x": 0.18215, "XL": 0.13025}
RESOLUTION = {"1.x": 512, "2.x": 768, "XL": 1024}

TINY: dict[str, dict[str, dict[str, Any]]] = {
    "1.x": {
        "unet": {
            "block_out_channels": (32, 64, 64),
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 2,
            "cross_attention_dim": 64,
            "attention_head_dim": 8,
        },
        "text_encoder": {"hidden_size": 64, "num_hidden_layers": 2, "hidden_act": "quick_gelu"},
    },
    "2.x": {
        "unet": {
            "block_out_channels": (64, 128),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "cross_attention_dim": 64,
            "attention_head_dim": [1, 2],
            "use_linear_projection": True,
        },
        "text_encoder": {"hidden_size": 64, "num_hidden_layers": 2, "hidden_act": "gelu"},
    },
    "XL": {
        "unet": {
            "block_out_channels": (64, 64, 128),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "transformer_layers_per_block": [1, 1, 2],
            "cross_attention_dim": 64 + 128,
            "attention_head_dim": [1, 1, 2],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 128 + 6 * 256,
        },
        "text_encoder": {"hidden_size": 64, "num_hidden_layers": 3, "hidden_act": "quick_gelu"},
        "text_encoder_2": {"hidden_size": 128, "num_hidden_layers": 3, "hidden_act": "gelu"},
    },
}
TINY_VAE = {"block_out_channels": (32, 64), "layers_per_block": 1}

# The published configurations.
FULL: dict[str, dict[str, dict[str, Any]]] = {
    "1.x": {
        "unet": {"cross_attention_dim": 768, "attention_head_dim": 8},
        "text_encoder": {"hidden_size": 768, "num_hidden_layers": 12, "hidden_act": "quick_gelu"},
    },
    "2.x": {
        "unet": {
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        "text_encoder": {"hidden_size": 1024, "num_hidden_layers": 23, "hidden_act": "gelu"},
    },
    "XL": {
        "unet": {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "text_encoder": {"hidden_size": 768, "num_hidden_layers": 12, "hidden_act": "quick_gelu"},
        "text_encoder_2": {"hidden_size": 1280, "num_hidden_layers": 32, "hidden_act": "gelu"},
    },
}
FULL_VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}


def build_networks(
    family: str, parts: dict[str, dict[str, Any]], vae: dict[str, Any], **text: Any
) -> dict[str, Any]:
    """The networks of one family, of `TINY[family]` or `FULL[family]`, on the default device."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    levels = len(vae["block_out_channels"])
    networks: dict[str, Any] = {
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            scaling_factor=SCALING_FACTOR[family],
            **vae,
        ),
        "unet": UNet2DConditionModel(sample_size=16, **parts["unet"]),
    }
    for name in ("text_encoder", "text_encoder_2"):
        if name in parts:
            width = parts[name]["hidden_size"]
            config = CLIPTextConfig(
                **parts[name],
                intermediate_size=4 * width,
                num_attention_heads=width // 64,
                projection_dim=width,
                **text,
            )
            made = CLIPTextModelWithProjection if name == "text_encoder_2" else CLIPTextModel
            networks[name] = made(config)
    return networks


def write_family_folder(folder: Path, family: str, seed: int = 0) -> Path:
    """A complete random-weight folder of one family; 32x32 images, 16x16 latents."""
    import torch
    from diffusers import EulerDiscreteScheduler

    pad = "!" if family == "2.x" else "<|endoftext|>"
    vocab = write_tokenizer(folder / "tokenizer", first="!", pad=pad)
    if family == "XL":
        write_tokenizer(folder / "tokenizer_2", first="!", pad="!")
    end = vocab["<|endoftext|>"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = build_networks(
            family,
            TINY[family],
            TINY_VAE,
            vocab_size=len(vocab),
            max_position_embeddings=16,
            bos_token_id=end - 1,
            eos_token_id=end,
        )
        for network in networks.values():
            _randomise(network)
    # SDXL names this sampler; only its betas matter.
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=PREDICTION_TYPE[family],
        steps_offset=1,
        timestep_spacing="leading",
    )
    scheduler.save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if family == "XL" else "StableDiffusionPipeline",
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    if family == "XL":
        index |= {
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": True,
        }
    else:
        index |= {"safety_checker": [None, None], "requires_safety_checker": False}
    for name, network in networks.items():
        network.save_pretrained(folder / name)
        library = "transformers" if name.startswith("text") else "diffusers"
        index[name] = [library, type(network).__name__]
    for name in ("feature_extractor", "image_encoder"):
        index[name] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def _randomise(network: Any) -> None:
    """Norms start at 1 and biases at 0, where a mix-up of two of them would not show."""
    import torch

    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
