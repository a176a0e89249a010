"""Saving and loading of every network, and what a file that does not fit is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from sdd_fast.files import load_tensors, save_tensors
from sdd_fast.models import (
    ConvClassifier,
    ConvEmbedding,
    Encoder,
    LevelsMapper,
    StyleGAN2,
    StyleSpaceMapper,
)
from sdd_fast.models.save import load_exactly

NETWORKS: list[Callable[[], nn.Module]] = [
    lambda: StyleGAN2(16, w_dim=8, z_dim=6, n_mlp=2, channel_base=64, channel_max=8),
    lambda: Encoder(32, 8, 12, channel_base=64, channel_max=8, head_channels=2),
    lambda: LevelsMapper(10, 8, ("medium", "fine"), pixel_norm="layers", scale=torch.rand(1, 8)),
    lambda: StyleSpaceMapper([8, 8, 8, 8, 4], to_rgb=False, depth=2, zero_init=False),
    lambda: ConvClassifier({"hair": 6, "glasses": 2}, resolution=16, width=4),
    lambda: ConvEmbedding(5, resolution=16, width=4),
]


@pytest.mark.parametrize("build", NETWORKS)
def test_round_trip(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    network = build()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.normal_()
    path = tmp_path / "network.safetensors"
    network.save(path)
    state = torch.random.get_rng_state()
    again = type(network).load(path)
    assert torch.equal(torch.random.get_rng_state(), state)  # loading draws no random numbers
    assert again.config == network.config
    assert json.loads(json.dumps(again.config)) == again.config
    assert list(again.state_dict()) == list(network.state_dict())
    for key, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_stored_in_half_precision(tmp_path: Path) -> None:
    network = ConvEmbedding(5, resolution=16, width=4)
    path = tmp_path / "network.safetensors"
    network.save(path, dtype=torch.float16)
    tensors, _ = load_tensors(path)
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    for key, value in ConvEmbedding.load(path).state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, network.state_dict()[key].half().float())
    with torch.no_grad():
        network.head.bias[0] = 1e6
    path.unlink()
    with pytest.raises(ValueError, match=r"head\.bias has values beyond torch\.float16's range"):
        network.save(path, dtype=torch.float16)
    assert not path.exists()


def test_metadata_of_ones_own(tmp_path: Path) -> None:
    network = ConvEmbedding(5, resolution=16, width=4)
    path = tmp_path / "network.safetensors"
    network.save(path, metadata={"source": "somewhere", "network": "not that"})
    _, metadata = load_tensors(path)
    assert metadata["source"] == "somewhere" and metadata["network"] == "ConvEmbedding"
    assert json.loads(metadata["config"]) == network.config


def test_differences_in_the_words_of_the_file() -> None:
    network = nn.Linear(2, 3)
    tensors = {"weight": torch.zeros(2, 2), "extra": torch.zeros(1)}
    names = {"weight": "fc.w", "bias": "fc.b"}
    with pytest.raises(ValueError) as caught:
        load_exactly(network, tensors, "a.pt", lambda key: names.get(key, key))
    assert str(caught.value).splitlines() == [
        "a.pt does not fit Linear (3 of its tensors):",
        "  missing: fc.b",
        "  unexpected: extra",
        "  shape of fc.w: the file has [2, 2], the network [3, 2]",
    ]


def test_every_difference_is_named(tmp_path: Path) -> None:
    network = ConvEmbedding(5, resolution=16, width=4)
    path = tmp_path / "network.safetensors"
    network.save(path)
    tensors, metadata = load_tensors(path)
    tensors["extra.weight"] = torch.zeros(1)
    tensors["head.weight"] = torch.zeros(5, 3)
    del tensors["trunk.stem.bias"], tensors["norm.bias"]
    save_tensors(path, tensors, metadata)
    with pytest.raises(ValueError) as caught:
        ConvEmbedding.load(path)
    message = str(caught.value)
    assert "does not fit ConvEmbedding" in message and str(path) in message
    for line in (
        "missing: trunk.stem.bias",
        "missing: norm.bias",
        "unexpected: extra.weight",
        "shape of head.weight: the file has [5, 3], the network [5, 24]",
    ):
        assert line in message


def test_files_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    with pytest.raises(FileNotFoundError):
        Encoder.load(path)

    ConvEmbedding(5, resolution=16, width=4).save(path)
    with pytest.raises(ValueError, match=r"ConvEmbedding\.load\(\), not Encoder\.load"):
        Encoder.load(path)

    save_tensors(path, {"a": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match=r"not one written by Encoder\.save"):
        Encoder.load(path)

    path.write_bytes(b"no tensors here")
    with pytest.raises(ValueError, match=r"file\.safetensors"):
        Encoder.load(path)

    torch.save({"weight": torch.zeros(1)}, path)  # a pickle in disguise
    with pytest.raises(ValueError, match=r"file\.safetensors"):
        Encoder.load(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "must be a JSON object"),
        ('{"dim": 5, "color": 3}', "no such ConvEmbedding can be built.*color"),
        ('{"dim": 5, "resolution": 17}', "no such ConvEmbedding can be built.*got 17"),
    ],
)
def test_damaged_configurations(config: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    metadata = {"network": "ConvEmbedding", "config": config}
    save_tensors(path, {"a": torch.zeros(1)}, metadata)
    with pytest.raises(ValueError, match=message):
        ConvEmbedding.load(path)
