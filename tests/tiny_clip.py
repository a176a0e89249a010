"""A CLIP folder of random weights, as transformers writes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_tokenizer import write_tokenizer

SIDE = 28


def write_clip(folder: Path, *, eos: int | None = None, side: int = SIDE) -> Path:
    """Write config.json, weights, tokenizer and preprocessor_config.json.

    Args:
        eos: what the configuration says that texts end with; None: what the tokenizer does.
        side: of the pictures that the image tower sees.
    """
    from transformers import CLIPConfig, CLIPModel

    vocab = write_tokenizer(folder)
    tower = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }  # fmt: skip
    special = {"bos_token_id": vocab["<|startoftext|>"], "eos_token_id": vocab["<|endoftext|>"]}
    if eos is not None:
        special["eos_token_id"] = eos
    text = {**tower, **special, "vocab_size": len(vocab), "max_position_embeddings": 16}
    vision = {**tower, "image_size": side, "patch_size": 7}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config)
        with torch.no_grad():  # as drawn, a picture hardly matters beside the biases
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor(side).save_pretrained(folder)
    return folder


def processor(side: int = SIDE) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
