from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from irse_reference import arcface, arcface_shapes, pyramid_shapes, random_state
from torch import Tensor

from sdd_fast.checkpoints.arcface import IDENTITY
from sdd_fast.checkpoints.formats.read import Checkpoint, read_checkpoint
from sdd_fast.checkpoints.load import load_identity
from sdd_fast.models import ConvEmbedding
from sdd_fast.models.arcface import ArcFace

UNITS, WIDTH, DIM = (1, 2, 1, 1), 16, 24


def flat(excitation: bool = True) -> dict[str, Tensor]:
    return random_state(arcface_shapes(UNITS, WIDTH, DIM, excitation))


def without(*starts: str) -> dict[str, Tensor]:
    return {k: v for k, v in flat().items() if not k.startswith(starts)}


def write(path: Path, content: Any, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("excitation", [True, False])
def test_flat_file(tmp_path: Path, excitation: bool, legacy: bool) -> None:
    state = flat(excitation)
    network = load_identity(write(tmp_path / "model_ir_se50.pth", state, legacy))
    assert isinstance(network, ArcFace)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    images = torch.rand(1, 3, 256, 256) * 2 - 1
    found = network(images).double()
    torch.testing.assert_close(found, arcface(state, images, UNITS), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": flat()},
        {f"module.{k}": v for k, v in flat().items()},
        {"state_dict": {f"module.{k}": v for k, v in flat().items()}, "epoch": 3},
        {k: v.half() if v.is_floating_point() else v for k, v in flat().items()},
        {k: v for k, v in flat().items() if not k.endswith("num_batches_tracked")},
    ],
)
def test_wrapped_half_and_old_files(tmp_path: Path, content: Any) -> None:
    network = load_identity(write(tmp_path / "arcface.pth", content))
    stored = network.state_dict()
    assert list(stored) == list(flat())
    for key, value in flat().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(stored[key], value, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("network", [ArcFace, ConvEmbedding])
def test_our_own(tmp_path: Path, network: type) -> None:
    path = tmp_path / "identity.safetensors"
    made: Any = ArcFace(UNITS, WIDTH, DIM) if network is ArcFace else network(8, 16, width=4)
    made.save(path)
    again = load_identity(path)
    assert type(again) is network and again.config == made.config
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    for key, value in made.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_wrong_tensors_are_all_named(tmp_path: Path) -> None:
    state = without("output_layer.4.weight", "body.1.shortcut_layer.0")
    state["output_layer.3.weight"] = torch.zeros(DIM, 8 * WIDTH * 14 * 14)  # of 224 pixels
    state["kernel"] = torch.zeros(2)
    path = write(tmp_path / "arcface.pth", state)
    with pytest.raises(ValueError) as error:
        load_identity(path)
    message = str(error.value)
    assert message.startswith(f"{path} does not fit ArcFace (4 of its tensors):")
    for line in (
        "missing: output_layer.4.weight",
        "missing: body.1.shortcut_layer.0.weight",
        "unexpected: kernel",
        "shape of output_layer.3.weight: the file has [24, 25088], the network [24, 6272]",
    ):
        assert f"\n  {line}" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (flat() | {"output_layer.3.weight": torch.zeros(3)}, "must have 2 dimensions"),
        (  # would be terabytes if allocated
            flat() | {"output_layer.3.weight": torch.zeros(10**9, 0)},
            r"shape of output_layer.3.weight: the file has \[1000000000, 0\]",
        ),
        (without("body."), r"its units have \[\]"),
        (
            flat() | {"output_layer.3.bias": torch.zeros(DIM, dtype=torch.int8)},
            "quantized network is not supported.*\n  output_layer.3.bias: int8",
        ),
        (random_state(pyramid_shapes(2, 8, UNITS, WIDTH)), "expected an identity network"),
        (without("output_layer."), "expected an identity network"),
        ({"g_ema": {"input.input": torch.zeros(1)}}, "expected an identity network"),
        (torch.zeros(2, 18, 512), "expected an identity network"),
        ([], "expected an identity network"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "file.pth", content)
    with pytest.raises(ValueError, match=message) as error:
        load_identity(path)
    assert str(error.value).startswith(str(path))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_identity(tmp_path / "nothing.pth")


def test_describe(tmp_path: Path) -> None:
    full = {k: torch.empty(s, device="meta") for k, s in arcface_shapes().items()}
    checkpoint = Checkpoint(Path("model_ir_se50.pth"), "torch", full)
    assert IDENTITY.describe(checkpoint) == {"identity": "ArcFace on IR-SE50, vectors of 512"}
    plain = Checkpoint(Path("ir.pth"), "torch", flat(excitation=False))
    assert IDENTITY.describe(plain) == {"identity": "ArcFace on IR of 5 units, vectors of 24"}
    assert IDENTITY.describe(Checkpoint(Path("x.pt"), "torch", torch.zeros(2, 18, 512))) is None
    broken = Checkpoint(Path("x.pt"), "torch", without("body."))
    assert "units have []" in IDENTITY.describe(broken)["identity"]

    ArcFace(UNITS, WIDTH, DIM).save(tmp_path / "a.safetensors")
    assert IDENTITY.describe(read_checkpoint(tmp_path / "a.safetensors")) == {
        "identity": "ArcFace on IR-SE of 5 units, vectors of 24"
    }
    ConvEmbedding(8, 16, width=4).save(tmp_path / "c.safetensors")
    assert IDENTITY.describe(read_checkpoint(tmp_path / "c.safetensors")) == {
        "identity": "of this package, vectors of 8, input 16 × 16"
    }


def test_a_tensor_with_and_without_prefix_is_not_lost(tmp_path: Path) -> None:
    content = flat() | {"module.input_layer.0.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"unexpected: module\.input_layer\.0\.weight"):
        load_identity(write(tmp_path / "arcface.pth", content))
