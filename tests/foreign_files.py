"""One small file of every kind that users hold, in its exact layout, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import nvidia_files
import stylegan2_reference
import torch
from irse_reference import arcface_shapes, pyramid_shapes, random_state
from torch import Tensor

from sdd_fast.checkpoints import load
from sdd_fast.checkpoints.formats.read import Checkpoint
from sdd_fast.files import save_tensors
from sdd_fast.models import StyleGAN2

_UNITS, _WIDTH = (1, 1, 1, 1), 16
_E4E = {"encoder_type": "Encoder4Editing", "dataset_type": "ffhq_encode"}


def _encoder(seed: int = 0) -> dict[str, Tensor]:
    return random_state(pyramid_shapes(8, 12, _UNITS, _WIDTH), seed)


def _decoder() -> dict[str, Tensor]:
    return {f"decoder.{k}": v for k, v in stylegan2_reference.port_state(32).items()}


def _mapper(*names: str) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(2)
    state = {}
    for name in names:
        for layer in (1, 2, 3, 4):
            state[f"{name}.mapping.{layer}.weight"] = torch.randn(12, 12, generator=rng) * 100
            state[f"{name}.mapping.{layer}.bias"] = torch.randn(12, generator=rng)
    return state


def _latents() -> Tensor:
    return torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(3))


def _port() -> Any:
    return {"g_ema": stylegan2_reference.port_state(32), "latent_avg": torch.randn(12)}


def _e4e() -> Any:
    state = {f"encoder.{key}": value for key, value in _encoder().items()} | _decoder()
    return {"state_dict": state, "opts": _E4E, "latent_avg": torch.randn(12).repeat(8, 1)}


def _styleclip() -> Any:
    state = {f"mapper.{k}": v for k, v in _mapper("course_mapping", "medium_mapping").items()}
    return {"state_dict": state | _decoder(), "opts": {"description": "purple hair"}}


def _sdd() -> Any:
    return {"mapper": _mapper("medium_mapping"), "optimizer": {"state": {}}}


def _arcface() -> Any:
    return random_state(arcface_shapes(_UNITS, _WIDTH, 24))


_CONTENTS: dict[str, Callable[[], Any]] = {
    "stylegan2.pt": _port,
    "e4e.pt": _e4e,
    "encoder_alone.pt": _encoder,
    "model_ir_se50.pth": _arcface,
    "styleclip.pt": _styleclip,
    "sdd.pt": _sdd,
    "train_faces.pt": _latents,
}

KINDS = ("generator", "encoder", "identity", "mapper", "latents")
HOLDS = {
    "stylegan2.pt": ["generator"],
    "ffhq.pkl": ["generator"],
    "e4e.pt": ["generator", "encoder"],
    "encoder_alone.pt": ["encoder"],
    "model_ir_se50.pth": ["identity"],
    "styleclip.pt": ["generator", "mapper"],
    "sdd.pt": ["mapper"],
    "train_faces.pt": ["latents"],
    "train_faces.npy": ["latents"],
    "train_faces.safetensors": ["latents"],
}
"""File name → what is in it."""


def content(name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return _CONTENTS[name]()


def write(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".pkl"):
        nvidia_files.write(path, nvidia_files.snapshot(nvidia_files.generator(32)))
    elif name.endswith(".npy"):
        import numpy as np

        np.save(path, _latents().numpy())
    elif name.endswith(".safetensors"):
        save_tensors(path, {"latents": _latents()})
    else:
        torch.save(content(name), path)
    return path


def generator_from(checkpoint: Checkpoint, **told: Any) -> StyleGAN2:
    """`load_generator` of a file with that content."""
    with mock.patch.object(load, "read_checkpoint", lambda _: checkpoint):
        return load.load_generator(checkpoint.path, **told)
