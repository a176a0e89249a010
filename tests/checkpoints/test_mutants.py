"""Whatever a file holds, a loader gives a network or a ValueError that names the file."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import foreign_files
import nvidia_files
import pytest
import torch
from checkpoints.mutants import mutants
from original_layout import original_file
from sd_families import TINY, TINY_VAE, build_networks
from torch import Tensor, nn

from sdd_fast.checkpoints import inspect, load, stylegan2
from sdd_fast.checkpoints.formats.plain import check_plain
from sdd_fast.checkpoints.formats.read import Checkpoint, read_checkpoint
from sdd_fast.checkpoints.inspect import contents
from sdd_fast.checkpoints.stable_diffusion import family_of
from sdd_fast.models import ConvEmbedding, Encoder, LevelsMapper, StyleGAN2, StyleSpaceMapper
from sdd_fast.models.arcface import ArcFace
from sdd_fast.models.psp import PyramidEncoder

FILE = Path("a.pt")
EACH = 30
EACH_OF_OURS = 150  # of their metadata, which decide all
TRUNK: dict[str, Any] = {"units": (1, 1, 1, 1), "width": 16}
OURS: dict[str, Callable[[], Any]] = {
    "StyleGAN2": lambda: StyleGAN2(8, 4, 4, 1, 32, 2, content_rows=(0, 4), conv_clamp=256),
    "Encoder": lambda: Encoder(32, 8, 4, channel_base=32, channel_max=2, head_channels=1),
    "PyramidEncoder": lambda: PyramidEncoder(4, 4, **TRUNK),
    "ArcFace": lambda: ArcFace(dim=3, **TRUNK),
    "ConvEmbedding": lambda: ConvEmbedding(3, 8, 2),
    "LevelsMapper": lambda: LevelsMapper(10, 4),
    "StyleSpaceMapper": lambda: StyleSpaceMapper([4] * 5),
}


def ours(name: str) -> dict[str, Any]:
    """The tensors of a file of ours, and its metadata, parsed."""
    network = OURS[name]()
    told = {"prompt": "a", "lam": 1.0, "levels": ["fine"], "timesteps": [1], "domain": "b"}
    metadata = {"network": name, "config": network.config, **told}
    return {"tensors": dict(network.state_dict()), "metadata": metadata}


def single_file() -> dict[str, Tensor]:
    networks = build_networks("1.x", TINY["1.x"], TINY_VAE, vocab_size=99)
    return original_file("1.x", networks)


def nvidia() -> Any:
    network = nvidia_files.generator(8, depth=1, num_fp16_res=1, conv_clamp=256)
    with tempfile.TemporaryDirectory() as folder:
        content = {"G_ema": network, "training_set_kwargs": {"a": 1}}
        return read_checkpoint(nvidia_files.write(Path(folder) / "a.pkl", content)).content


CONTENTS: dict[str, Callable[[], Any]] = {
    **{
        name: partial(foreign_files.content, name)
        for name in foreign_files.HOLDS
        if name.endswith((".pt", ".pth"))
    },
    "nvidia": nvidia,
    "styles": lambda: torch.zeros(3, 1, 512 * 5, 1, 1),
    "list of styles": lambda: [torch.zeros(3, 1, 4, 1, 1) for _ in range(5)],
    "named latents": lambda: {"train": torch.zeros(3, 8, 4), "held_out": torch.zeros(1, 8, 4)},
    "stable diffusion": single_file,
    **{name: partial(ours, name) for name in OURS},
}


def calls(checkpoint: Checkpoint) -> dict[str, Callable[[], Any]]:
    return {
        "generator": lambda: load.load_generator(FILE),
        "encoder": lambda: load.load_encoder(FILE, kind="e4e"),
        "identity": lambda: load.load_identity(FILE),
        "mapper": lambda: load.load_mapper(FILE),
        "latents": lambda: load.load_latents(FILE, 8),
        "styles": lambda: load.load_styles(FILE, [4] * 5),
        "family": lambda: family_of(checkpoint),
    }


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> Callable[[Checkpoint], None]:
    """Let every loader find this content in the file that it reads."""

    def put(checkpoint: Checkpoint) -> None:
        monkeypatch.setattr(load, "read_checkpoint", lambda _: checkpoint)

    return put


def checkpoint_of(name: str, content: Any) -> Checkpoint | None:
    """None: no file can hold that."""
    if name not in OURS:
        check_plain(content, 0)
        return Checkpoint(FILE, "torch", content)
    tensors, metadata = content.get("tensors"), content.get("metadata")
    if not isinstance(tensors, dict) or not isinstance(metadata, dict):
        return None
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()):
        return None
    texts = {
        str(k): v if k == "network" and isinstance(v, str) else json.dumps(v, default=str)
        for k, v in metadata.items()
        if not isinstance(v, dict) or all(isinstance(key, str) for key in v)
    }
    return Checkpoint(FILE, "safetensors", tensors, texts)


@pytest.mark.parametrize("name", CONTENTS)
def test_mutants(
    name: str, file: Callable[[Checkpoint], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = CONTENTS[name]()
    monkeypatch.setattr(stylegan2.StyleGAN2, "update_latent_avg", lambda *_: None)  # takes long
    monkeypatch.setattr(load, "summarize", lambda _: "something else")  # tried once for each below
    loaded = refused = 0
    is_ours = name in OURS
    start, count = (content["metadata"], EACH_OF_OURS) if is_ours else (content, EACH)
    for part in mutants(start, seed=3, count=count):
        changed = {**content, "metadata": part} if is_ours else part
        checkpoint = checkpoint_of(name, changed)
        if checkpoint is None:
            continue
        file(checkpoint)
        known = contents(checkpoint)  # once for the two that ask for it
        monkeypatch.setattr(inspect, "contents", lambda _, known=known: known)
        assert isinstance(inspect._contents(checkpoint), dict)
        assert isinstance(inspect.summarize(checkpoint), str)
        for what, call in calls(checkpoint).items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    result = call()
            except ValueError as error:
                assert str(FILE) in str(error), (what, error)
                refused += 1
            else:
                loaded += 1
                if isinstance(result, nn.Module):
                    assert not any(p.requires_grad for p in result.parameters())
    assert loaded and refused
