"""Our own files whose configuration asks for what no machine has, or makes no sense."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdd_fast.checkpoints.formats.read import read_checkpoint
from sdd_fast.checkpoints.inspect import describe_file
from sdd_fast.checkpoints.load import load_encoder, load_generator, load_identity, load_mapper
from sdd_fast.files import load_tensors, read_json, save_tensors
from sdd_fast.models import ConvEmbedding, LevelsMapper
from sdd_fast.models.save import _Counted, outline

SIZES = {"resolution": 64, "w_dim": 8, "z_dim": 8, "n_mlp": 1, "channel_base": 64,
         "channel_max": 2}  # fmt: skip
LOADERS: dict[str, Callable[[Path], Any]] = {
    "StyleGAN2": load_generator,
    "Encoder": load_encoder,
    "PyramidEncoder": load_encoder,
    "ArcFace": load_identity,
    "ConvEmbedding": load_identity,
    "LevelsMapper": load_mapper,
    "StyleSpaceMapper": load_mapper,
}
ABSURD: list[tuple[str, Any]] = [
    ("ConvEmbedding", {"dim": 10**9}),  # 1.3 TB
    ("ConvEmbedding", {"dim": 10**19}),
    ("ConvEmbedding", {"dim": 8, "resolution": 2**2000}),
    ("ConvEmbedding", {"dim": 8, "width": 10**400}),
    ("ArcFace", {"units": [3, 4, 10**9, 3]}),
    ("ArcFace", {"units": [1, 1, 1, 1], "width": 2**40}),
    ("ArcFace", {"units": "abcd"}),
    ("Encoder", {"resolution": 64, "num_layers": 10**12, "w_dim": 512}),
    ("Encoder", {"resolution": None, "num_layers": 8, "w_dim": 8}),
    ("PyramidEncoder", {"num_layers": 10**9}),
    ("PyramidEncoder", {"num_layers": 8, "input_size": 256}),
    ("LevelsMapper", {"num_layers": 18, "depth": 10**9}),
    ("LevelsMapper", {"num_layers": 10**10}),
    ("LevelsMapper", {"num_layers": 18, "levels": [{}]}),
    ("LevelsMapper", {"num_layers": 18, "scale": 3}),
    ("StyleSpaceMapper", {"style_dims": [2**62, 2**62]}),
    ("StyleSpaceMapper", {"style_dims": 3}),
    ("StyleGAN2", {**SIZES, "c_dim": 2**40}),
    ("StyleGAN2", {**SIZES, "resolution": 2**2000, "channel_base": 2**2000}),
    ("StyleGAN2", {**SIZES, "content_rows": [1]}),
    ("StyleGAN2", {**SIZES, "conv_clamp": {}}),
    *[(network, content) for network in LOADERS for content in (None, [1], "text", {"a": 1})],
]


def write(path: Path, network: str, config: str, **metadata: str) -> Path:
    described = {"network": network, "config": config, **metadata}
    save_tensors(path, {"a": torch.zeros(3)}, described)
    return path


@pytest.mark.parametrize(("network", "config"), ABSURD)
def test_configurations(tmp_path: Path, network: str, config: Any) -> None:
    path = write(tmp_path / "a.safetensors", network, json.dumps(config))
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        LOADERS[network](path)
    assert describe_file(path)["safety"].startswith("safe")


@pytest.mark.parametrize("network", LOADERS)
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "{", "\0"])
def test_metadata_that_are_no_json(tmp_path: Path, network: str, text: str) -> None:
    path = write(tmp_path / "a.safetensors", network, text, prompt=text, source=text)
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        LOADERS[network](path)
    assert describe_file(path)["tensors"] == 1


def test_long_metadata_are_not_repeated(tmp_path: Path) -> None:
    config = json.dumps({"num_layers": 10, "levels": ["x" * 10**6]})
    path = write(tmp_path / "a.safetensors", "LevelsMapper", config, prompt='"' + "p" * 10**6 + '"')
    with pytest.raises(ValueError, match=r"no such LevelsMapper") as error:
        load_mapper(path)
    assert len(str(error.value)) < 2000
    assert len(str(describe_file(path))) < 30_000


def test_deep_json_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON: it is nested too deep"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("prompt", ["a"], "prompt must be text"),
        ("domain", 3, "domain must be text"),
        ("lam", "1", "lam must be"),
        ("lam", float("nan"), "NaN, which is no finite number"),
        ("lam", None, "lam is null"),
        ("levels", [1], "levels must be"),
        ("levels", 1, "levels must be a list"),
        ("timesteps", [[]], "timesteps must be"),
    ],
)
def test_what_a_mapper_is_for(tmp_path: Path, field: str, value: Any, message: str) -> None:
    path = tmp_path / "a.safetensors"
    LevelsMapper(10, 4).save(path, metadata={field: json.dumps(value)})
    with pytest.raises(ValueError, match=f"description of its mapper is damaged: .*{message}"):
        load_mapper(path)


def test_outline_has_the_shapes_and_no_memory() -> None:
    network = ConvEmbedding(dim=6, resolution=8, width=4)
    shapes = outline(ConvEmbedding, network.config, network.state_dict())
    assert all(tensor.is_meta for tensor in shapes.state_dict().values())
    assert {k: v.shape for k, v in shapes.state_dict().items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }


def test_outline_counts_what_it_builds() -> None:
    class Deep(nn.Sequential):
        def __init__(self, depth: int) -> None:
            super().__init__(*(nn.Linear(1, 1) for _ in range(depth)))

    assert len(outline(Deep, {"depth": 50}, {str(i): torch.zeros(1) for i in range(100)})) == 50
    with pytest.raises(ValueError, match="more layers than the file has tensors"):
        outline(Deep, {"depth": 10**12}, {"a": torch.zeros(1)})
    for most in range(1000, 1020):  # wherever it stops, be it while gradients are off
        with pytest.raises(ValueError, match="more layers"), torch.device("meta"), _Counted(most):
            Deep(10**12)
        assert torch.is_grad_enabled() and torch.zeros(1).device.type == "cpu"


@pytest.mark.parametrize(
    "header",
    ["(" * 3000, "-" * 9000 + "1", "{'descr': '<f4', 'shape': (2", f"{{'descr': '<f4', "
     f"'fortran_order': False, 'shape': ({2**70},), }}", "{'descr': ',f4', 'fortran_order': False, "
     "'shape': (2,), }", None],
)  # fmt: skip
def test_headers_of_npy_files(tmp_path: Path, header: str | None) -> None:
    text = (header or "").encode()
    start = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text
    path = tmp_path / "a.npy"
    path.write_bytes(b"PK\3\4" if header is None else start + bytes(24))
    with pytest.raises(ValueError, match=r"a\.npy is no complete \.npy file"):
        read_checkpoint(path)


@pytest.mark.parametrize("shape", [[0, 2**63], [2**63, 1, 0], [0, 2, 2**62], [0, 2**40, 2**40]])
def test_empty_tensors_of_any_size(tmp_path: Path, shape: list[int]) -> None:
    header = json.dumps({"a": {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        load_tensors(path)
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        describe_file(path)
