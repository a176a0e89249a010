from __future__ import annotations

import errno
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sdd_fast.export import export_torchscript, load_torchscript, torchscript
from sdd_fast.models import LevelsMapper, StyleSpaceMapper

ABOUT = {"prompt": "white hair", "lam": 0.1, "timesteps": [800, 850], "domain": "faces64"}


def build() -> LevelsMapper:
    torch.manual_seed(0)
    return LevelsMapper(10, 6, zero_init=False, scale=torch.rand(1, 6))


@pytest.mark.parametrize("levels", [None, ["fine"], ["coarse", "medium"]])
def test_round_trip(levels: list[str] | None, tmp_path: Path) -> None:
    mapper, path = build(), tmp_path / "mapper.pt"
    export_torchscript(mapper, path, levels=levels, extra={"steps": 80}, **ABOUT)
    module, metadata = load_torchscript(path)
    w_plus = torch.randn(3, 10, 6)
    assert torch.equal(module(w_plus), mapper(w_plus, levels))
    assert {key: metadata[key] for key in ABOUT} == ABOUT
    assert metadata["levels"] == (levels or ["coarse", "medium", "fine"])
    assert metadata["network"] == "LevelsMapper"
    assert metadata["config"]["w_dim"] == 6
    assert metadata["extra"] == {"steps": 80}
    assert [p.name for p in tmp_path.iterdir()] == ["mapper.pt"]  # no temporary file is left
    assert not any(p.requires_grad for p in module.parameters())
    assert all(p.requires_grad for p in mapper.parameters())  # the original still trains


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_readable_without_this_package(tmp_path: Path) -> None:
    path = tmp_path / "mapper.pt"
    export_torchscript(build(), path, **ABOUT)
    files = {"sdd.json": ""}
    torch.jit.load(str(path), _extra_files=files)
    assert json.loads(files["sdd.json"])["prompt"] == "white hair"


def test_style_space_mapper(tmp_path: Path) -> None:
    mapper = StyleSpaceMapper([8, 8, 6, 6, 6], to_rgb=False, zero_init=False)
    export_torchscript(mapper, tmp_path / "mapper.pt", **ABOUT)
    module, metadata = load_torchscript(tmp_path / "mapper.pt")
    styles = [torch.randn(2, dim) for dim in mapper.style_dims]
    for actual, expected in zip(module(styles), mapper(styles), strict=True):
        assert torch.equal(actual, expected)
    assert metadata["levels"] is None and metadata["network"] == "StyleSpaceMapper"
    with pytest.raises(ValueError, match="levels belong to a LevelsMapper"):
        export_torchscript(mapper, tmp_path / "fine.pt", levels=["fine"], **ABOUT)


def test_a_mapper_of_another_program(tmp_path: Path) -> None:
    """No prompt, timesteps and domain are told, nor how many layers the generator has."""
    mapper = LevelsMapper(None, 6, ["medium", "fine"], zero_init=False, pixel_norm="layers")
    path = tmp_path / "mapper.pt"
    export_torchscript(mapper, path, prompt="", lam=0.1, timesteps=(), domain="")
    module, metadata = load_torchscript(path)
    assert metadata["timesteps"] == [] and metadata["config"]["num_layers"] is None
    for layers in (10, 18):
        w_plus = torch.randn(2, layers, 6)
        assert torch.equal(module(w_plus), mapper(w_plus))


def test_numpy_timesteps(tmp_path: Path) -> None:
    about = {**ABOUT, "timesteps": np.array([800, 50])}
    export_torchscript(build(), tmp_path / "mapper.pt", **about)
    assert load_torchscript(tmp_path / "mapper.pt")[1]["timesteps"] == [800, 50]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": 7}, "prompt must be a text, got 7"),
        ({"domain": None}, "domain must be a text, got None"),
        ({"lam": float("nan")}, "lam must be a finite number, got nan"),
        ({"timesteps": [1.5]}, r"must be integers of at least 0, got \[1.5\]"),
        ({"timesteps": [-1]}, r"must be integers of at least 0, got \[-1\]"),
        ({"extra": {"x": torch.zeros(1)}}, "must be JSON values"),
        ({"extra": {"x": float("inf")}}, "must be JSON values"),
        ({"levels": ["hair"]}, r"not \['hair'\]"),
    ],
)
def test_bad_metadata(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export_torchscript(build(), tmp_path / "mapper.pt", **{**ABOUT, **changes})
    assert list(tmp_path.iterdir()) == []


class Unscriptable(torch.nn.Module):
    def forward(self, w_plus, *rest):  # type: ignore[no-untyped-def]
        return w_plus


def test_module_that_cannot_be_scripted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot compile Unscriptable"):
        export_torchscript(Unscriptable(), tmp_path / "mapper.pt", **ABOUT)


def test_a_file_is_replaced_when_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "mapper.pt"
    export_torchscript(build(), path, **ABOUT)
    before = path.read_bytes()
    other = {**ABOUT, "prompt": "beard"}
    with pytest.raises(FileExistsError, match=r"mapper\.pt would be replaced; .*overwrite=True"):
        export_torchscript(build(), path, **other)
    assert path.read_bytes() == before
    export_torchscript(build(), path, **other, overwrite=True)
    assert load_torchscript(path)[1]["prompt"] == "beard"


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mapper.pt"
    export_torchscript(build(), path, **ABOUT)
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"(?i)space"):
        export_torchscript(build(), path, **{**ABOUT, "prompt": "beard"}, overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["mapper.pt"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mapper.pt"
    with pytest.raises(FileNotFoundError, match=r"mapper\.pt: a file that does not exist"):
        load_torchscript(path)
    with pytest.raises(FileNotFoundError, match="a folder"):
        load_torchscript(tmp_path)

    build().save(tmp_path / "mapper.safetensors")
    (tmp_path / "mapper.safetensors").replace(path)
    with pytest.raises(ValueError, match="not a complete TorchScript file"):
        load_torchscript(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not a complete TorchScript file"):
        load_torchscript(path)
    export_torchscript(build(), path, **ABOUT, overwrite=True)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="not a complete TorchScript file"):
        load_torchscript(path)

    torch.jit.script(build()).save(str(path))
    with pytest.raises(ValueError, match=r"without the metadata .*sdd\.json"):
        load_torchscript(path)
    torch.jit.script(build()).save(str(path), _extra_files={"sdd.json": "{"})
    with pytest.raises(ValueError, match=r"sdd\.json is not valid JSON"):
        load_torchscript(path)
    monkeypatch.setattr(torchscript, "VERSION", 2)
    export_torchscript(build(), path, **ABOUT, overwrite=True)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format version 2, this sdd_fast reads up to 1"):
        load_torchscript(path)


def test_temporary_name_stays_out_of_the_archive(tmp_path: Path) -> None:
    export_torchscript(build(), tmp_path / "mapper.pt", **ABOUT)
    with zipfile.ZipFile(tmp_path / "mapper.pt") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"archive"}
