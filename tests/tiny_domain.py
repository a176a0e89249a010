"""A complete domain of random weights, small enough to distill with in a second."""

from __future__ import annotations

from pathlib import Path

import torch
from fashion_files import write_fashion

from sdd_fast.domains.faces64.attributes import HEADS
from sdd_fast.domains.faces64.renderer import render, sample_faces
from sdd_fast.domains.fashion32 import attributes as fashion32
from sdd_fast.domains.fashion32.held_out import save_held_out, to_images
from sdd_fast.domains.fashion32.photographs import read_photographs
from sdd_fast.files import save_tensors, write_json
from sdd_fast.models import ConvClassifier, ConvEmbedding, Encoder, StyleGAN2
from sdd_fast.models.clip import MAX_TOKENS, Clip

RESOLUTION, W_DIM = 32, 16


def write_tiny_domain(
    folder: Path, sd_folder: Path, *, faces: bool = True, clothes: bool = False
) -> Path:
    """Write a domain of 32x32 pixels around the Stable Diffusion folder `sd_folder`.

    Args:
        faces: with an attribute classifier, as the embedded domain has it; else like a domain that
            a user trained on pictures without labels.
        clothes: one of photographs of clothing instead, as fashion32 is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2(
            RESOLUTION, w_dim=W_DIM, z_dim=W_DIM, n_mlp=2, channel_base=256, channel_max=8
        )
        encoder = Encoder(
            RESOLUTION, generator.num_layers, W_DIM, channel_base=256, channel_max=8,
            head_channels=2,
        )  # fmt: skip
        identity = ConvEmbedding(8, RESOLUTION, width=4)
        image_tower = ConvEmbedding(8, RESOLUTION, width=4)
        heads = fashion32.HEADS if clothes else HEADS
        classifier = ConvClassifier(heads, RESOLUTION, width=4)
        clip = _clip(sd_folder, image_tower)
    folder.mkdir(parents=True)
    generator.save(folder / "generator.safetensors")
    encoder.save(folder / "encoder.safetensors")
    identity.save(folder / "identity.safetensors")
    clip.save(folder / "clip")
    if clothes:
        read = read_photographs(write_fashion(folder / "files", 48), "t10k")
        save_held_out(folder, read)
        pictures = to_images(read)
    else:
        pictures = render(sample_faces(24, torch.Generator().manual_seed(0)), RESOLUTION)
    with torch.no_grad():
        # The random encoder maps all faces to nearly the same latent: spread them.
        noise = torch.randn(24, 1, W_DIM, generator=torch.Generator().manual_seed(1))
        w_plus = encoder(pictures) + 0.5 * noise
    save_tensors(folder / "latents.safetensors", {"train": w_plus[:16], "held_out": w_plus[16:]})
    listing = {
        "name": "tiny",
        "resolution": RESOLUTION,
        "source_text": "an old face",
        "generator": "generator.safetensors",
        "encoder": "encoder.safetensors",
        "diffusion": "diffusion",
        "latents": "latents.safetensors",
        "clip": "clip",
        "identity": "identity.safetensors",
        "prompts": ["white hair"],
    }
    if clothes:
        listing |= {
            "name": "wardrobe", "source_text": "a photo of clothes", "prompts": ["dark clothes"]
        }  # fmt: skip
    if faces or clothes:
        classifier.save(folder / "classifier.safetensors")
        listing["classifier"] = "classifier.safetensors"
    (folder / "diffusion").symlink_to(sd_folder, target_is_directory=True)
    write_json(folder / "domain.json", listing)
    return folder


def _clip(sd_folder: Path, image_tower: ConvEmbedding) -> Clip:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(sd_folder / "tokenizer", local_files_only=True)
    text = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            projection_dim=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return Clip(text, tokenizer, image_tower)
