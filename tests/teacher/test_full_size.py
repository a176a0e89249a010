"""The full-size networks on the meta device: without memory or arithmetic, but for the shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from original_layout import original_file
from sd_families import FAMILIES, FULL, FULL_VAE, RESOLUTION, build_networks
from torch import Tensor

from sdd_fast.checkpoints import ldm, stable_diffusion
from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.teacher.text import PromptEmbeds

PUBLISHED = Path(__file__).parent / "published" / "sd_original_keys.json"
VAE = (83_653_863, 248)
CLIP_L = (123_060_480, 196)
# Parameters and tensors, as ports of these models to other frameworks count them.
COUNTS = {
    "1.x": {"unet": (859_520_964, 686), "vae": VAE, "text_encoder": CLIP_L},
    "2.x": {"unet": (865_910_724, 686), "vae": VAE, "text_encoder": (340_387_840, 372)},
    "XL": {
        "unet": (2_567_463_684, 1680),
        "vae": VAE,
        "text_encoder": CLIP_L,
        "text_encoder_2": (694_659_840, 517),
    },
}


@pytest.fixture(scope="module")
def networks() -> dict[str, dict[str, Any]]:
    with torch.device("meta"):
        return {family: build_networks(family, FULL[family], FULL_VAE) for family in FAMILIES}


@pytest.fixture(scope="module")
def files(networks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Tensor]]:
    """What the original single files hold, as tensors without numbers."""
    with torch.device("meta"):
        return {family: original_file(family, networks[family]) for family in FAMILIES}


def published(network: str) -> set[str]:
    groups = json.loads(PUBLISHED.read_text("utf-8"))[network]
    return {
        f"{block}.{tensor}".removeprefix(".")
        for group in groups
        for block in group["blocks"]
        for tensor in group["tensors"]
    }


def below(tensors: dict[str, Tensor], *prefixes: str) -> set[str]:
    return {key for key in tensors if key.startswith(prefixes)}


@pytest.mark.parametrize("family", FAMILIES)
def test_single_files_have_the_published_keys(family: str, files) -> None:
    tensors = files[family]
    unet = "U-Net of SDXL" if family == "XL" else "U-Net of SD 1.x and 2.x"
    assert below(tensors, "model.diffusion_model.") == published(unet)
    assert below(tensors, "first_stage_model.") == published("VAE")
    if family == "1.x":
        text = below(tensors, "cond_stage_model.")
        positions = "cond_stage_model.transformer.text_model.embeddings.position_ids"
        assert text - {positions} == published("text encoder of SD 1.x")
    if family == "XL":
        first = "conditioner.embedders.0.transformer.text_model."
        # The source lists what it reads, which ends before the last layer.
        rest = below(tensors, first + "encoder.layers.11.", first + "final_layer_norm.")
        positions = {first + "embeddings.position_ids"}
        expected = published("first text encoder of SDXL, without its last layer")
        assert below(tensors, first) - rest - positions == expected
        second = "conditioner.embedders.1.model."
        extra = {second + "logit_scale", second + "attn_mask"}
        assert below(tensors, second) - extra == published("second text encoder of SDXL")


@pytest.mark.parametrize("family", FAMILIES)
def test_full_size_file_becomes_the_published_networks(family: str, networks, files) -> None:
    """The architecture told from shapes alone is the published one, tensor by tensor."""
    shapes = {key: tuple(tensor.shape) for key, tensor in files[family].items()}
    assert ldm.family(shapes) == family
    built = stable_diffusion.build_networks(Path("file"), files[family], family, torch.float32)
    assert built.keys() == COUNTS[family].keys()
    for name, network in built.items():
        state = network.state_dict()
        assert (sum(t.numel() for t in state.values()), len(state)) == COUNTS[family][name]
        expected = networks[family][name].state_dict()
        assert {k: t.shape for k, t in state.items()} == {k: t.shape for k, t in expected.items()}
        assert not any(b.is_meta for b in network.buffers())
        for key in ("num_attention_heads", "hidden_act", "projection_dim", "intermediate_size"):
            if name.startswith("text"):
                assert getattr(network.config, key) == getattr(networks[family][name].config, key)
    assert built["unet"].config.attention_head_dim == FULL[family]["unet"]["attention_head_dim"]
    if family == "XL":
        assert built["unet"].config.transformer_layers_per_block == [1, 2, 10]


class Tokens(dict[str, int]):
    """What a teacher asks of a tokenizer before there is a text."""

    model_max_length = 77


@pytest.mark.parametrize("family", FAMILIES)
def test_full_size_teacher_has_the_known_shapes(family: str, networks) -> None:
    from diffusers import DDIMScheduler

    parts = networks[family]
    side = RESOLUTION[family] // 8
    parts["unet"].register_to_config(sample_size=side)
    tokens = Tokens({str(i): i for i in range(parts["text_encoder"].config.vocab_size)})
    second = {}
    if family == "XL":
        second = {"text_encoder_2": parts["text_encoder_2"], "tokenizer_2": tokens}
    prior = DiffusionPrior(
        parts["vae"], parts["unet"], parts["text_encoder"], tokens, DDIMScheduler(), **second
    )
    assert prior.latent_shape == (4, side, side)
    y = torch.zeros(2, 3, 1024, 1024, device="meta", requires_grad=True)
    z = prior.encode(y)
    width = parts["unet"].config.cross_attention_dim
    text = torch.zeros(1, 77, width, device="meta")
    pooled = torch.zeros(1, 1280, device="meta") if second else None
    embeds = PromptEmbeds(text, text, pooled=pooled, uncond_pooled=pooled)
    eps = prior.predict_noise(z, [100, 900], embeds, 100.0)
    assert z.shape == eps.shape == (2, 4, side, side)
    assert torch.autograd.grad(z, y, eps.detach())[0].shape == y.shape
    cars = prior.encode(y[:, :, 128:896].detach())  # 3 : 4, as the pictures of LSUN cars
    assert cars.shape == (2, 4, side * 3 // 4, side)
    assert prior.predict_noise(cars, 500, embeds, 7.5).shape == cars.shape
