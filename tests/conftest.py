"""Shared fixtures: a Stable-Diffusion folder small enough to build, save and reload in a second."""

from __future__ import annotations

import gc
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sd_families import write_family_folder
from tiny_tokenizer import write_tokenizer

from sdd_fast.teacher.prior import DiffusionPrior


def pytest_collection_finish() -> None:
    """What is there by now stays: thousands of tests, through which `release` would look each time
    that memory is said to have run out."""
    gc.collect()
    gc.freeze()


TINY_RESOLUTION = 32  # image pixels; the VAE halves twice, so latents are 8x8


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Whoever runs the tests in the background lets them ignore Ctrl-C, and what they start too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="module")
def quick_figures() -> Iterator[None]:
    """Figures that are there, in a tenth of the time: nothing is arranged, and pixels are few.

    For tests whose runs draw some by the way; as they are meant they are drawn in tests of their
    own, in tests/report and tests/selection.
    """
    from matplotlib.figure import Figure

    save = Figure.savefig

    def savefig(figure: Figure, *target: Any, **named: Any) -> None:
        figure.set_layout_engine("none")
        save(figure, *target, **named | {"dpi": 20})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        yield


def write_sd_folder(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """A complete random-weight Stable-Diffusion folder of about 0.3 M parameters.

    Built from the real diffusers and transformers classes, so everything that reads it is the code
    that reads the real thing. Deterministic in `seed`.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vocab = write_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16),
            norm_num_groups=4,
            latent_channels=4,
            sample_size=TINY_RESOLUTION,
        )
        unet = UNet2DConditionModel(
            sample_size=TINY_RESOLUTION // 4,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocab),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=16,
                bos_token_id=vocab["<|startoftext|>"],
                eos_token_id=vocab["<|endoftext|>"],
                pad_token_id=vocab["<|endoftext|>"],
            )
        )
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    vae.save_pretrained(folder / "vae")
    unet.save_pretrained(folder / "unet")
    text_encoder.save_pretrained(folder / "text_encoder")
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.30.0",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random ε-prediction Stable Diffusion (32x32 images, 8x8 latents). Read-only."""
    return write_sd_folder(tmp_path_factory.mktemp("tiny_sd") / "sd")


@pytest.fixture(scope="session")
def tiny_sd_v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder with the same weights, declared as v-prediction. Read-only."""
    return write_sd_folder(
        tmp_path_factory.mktemp("tiny_sd_v") / "sd", prediction_type="v_prediction"
    )


@pytest.fixture(scope="session")
def tiny_prior(tiny_sd: Path) -> DiffusionPrior:
    """`tiny_sd` loaded in float32. Its call counters move: take differences, not values."""
    return DiffusionPrior.from_pretrained(tiny_sd)


@pytest.fixture(scope="session")
def tiny_prior64(tiny_sd: Path) -> DiffusionPrior:
    """`tiny_sd` loaded in float64, for finite differences and float64 references."""
    return DiffusionPrior.from_pretrained(tiny_sd, dtype=torch.float64)


@pytest.fixture(scope="session")
def tiny_sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SD 2.x: v-prediction, OpenCLIP text encoder, 32x32 images. Read-only."""
    return write_family_folder(tmp_path_factory.mktemp("tiny_sd2") / "sd", "2.x")


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SDXL: two text encoders, added conditions, 32x32 images. Read-only."""
    return write_family_folder(tmp_path_factory.mktemp("tiny_sdxl") / "sd", "XL")


@pytest.fixture(scope="session")
def tiny_xl64(tiny_sdxl: Path) -> DiffusionPrior:
    """`tiny_sdxl` loaded in float64."""
    return DiffusionPrior.from_pretrained(tiny_sdxl, dtype=torch.float64)
