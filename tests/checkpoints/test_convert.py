"""Conversion: what comes out is bit for bit what the loaders make of the input."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_files
import pytest
import torch
from torch import nn

import sdd_fast
from sdd_fast.checkpoints import convert as convert_module
from sdd_fast.checkpoints.convert import convert
from sdd_fast.checkpoints.inspect import describe_file
from sdd_fast.checkpoints.load import (
    load_encoder,
    load_generator,
    load_identity,
    load_latents,
    load_mapper,
)
from sdd_fast.files import load_tensors

LOADERS: dict[str, Callable[[Path], Any]] = {
    "generator": load_generator,
    "encoder": load_encoder,
    "identity": load_identity,
    "mapper": lambda path: load_mapper(path)[0],
    "latents": load_latents,
}
CASES = [
    (name, part) for name, parts in foreign_files.HOLDS.items() for part in parts
    if name != "encoder_alone.pt"
]  # fmt: skip


def assert_equal(first: Any, second: Any) -> None:
    assert type(first) is type(second)
    if isinstance(first, nn.Module):
        assert first.config == second.config
        assert list(first.state_dict()) == list(second.state_dict())
        for key, value in first.state_dict().items():
            assert torch.equal(value, second.state_dict()[key]), key
        assert not second.training and not any(p.requires_grad for p in second.parameters())
    else:
        assert torch.equal(first, second)


@pytest.mark.parametrize(("name", "part"), CASES)
def test_what_comes_out_is_what_went_in(name: str, part: str, tmp_path: Path) -> None:
    source, target = foreign_files.write(tmp_path, name), tmp_path / "out.safetensors"
    before = source.read_bytes()
    only = len(foreign_files.HOLDS[name]) == 1
    assert convert(source, target, None if only else part) == part
    load = LOADERS[part]
    assert_equal(load(source), load(target))
    assert source.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {name, "out.safetensors"}

    told = json.loads(load_tensors(target)[1]["source"])
    assert told["file"] == name and told["sdd_fast"] == sdd_fast.__version__
    assert told["sha256"] == hashlib.sha256(before).hexdigest()
    facts = describe_file(target)
    assert facts["source"] == told and part in facts
    assert facts["safety"] == "safe: safetensors, nothing in it can run"

    again = tmp_path / "again.safetensors"  # a file of ours can be converted too
    assert convert(target, again) == part
    assert_equal(load(source), load(again))
    assert json.loads(load_tensors(again)[1]["source"])["file"] == "out.safetensors"


def test_a_mapper_keeps_what_it_is_for(tmp_path: Path) -> None:
    source, target = foreign_files.write(tmp_path, "styleclip.pt"), tmp_path / "o.safetensors"
    convert(source, target, "mapper")
    info = load_mapper(target)[1]
    assert info == load_mapper(source)[1]
    assert info.prompt == "purple hair" and info.lam == 0.1 and info.levels == ("coarse", "medium")


def test_latents_as_all_our_files_have_them(tmp_path: Path) -> None:
    source, target = foreign_files.write(tmp_path, "train_faces.pt"), tmp_path / "o.safetensors"
    convert(source, target)
    tensors, metadata = load_tensors(target)
    assert list(tensors) == ["w_plus"] and metadata["kind"] == "w_plus latents"


def test_an_encoder_that_does_not_say_which(tmp_path: Path) -> None:
    source, target = foreign_files.write(tmp_path, "encoder_alone.pt"), tmp_path / "o.safetensors"
    with pytest.raises(ValueError, match="e4e or pSp"):
        convert(source, target)
    assert not target.exists()
    generator = foreign_files.write(tmp_path, "stylegan2.pt")
    for kind, deltas in (("e4e", True), ("psp", False)):
        with pytest.raises(ValueError, match="missing: latent_avg.*convert --generator"):
            convert(source, target, kind, overwrite=True)
        assert convert(source, target, kind, generator=generator, overwrite=True) == "encoder"
        made = load_encoder(target)
        assert made.config["deltas"] is deltas
        assert torch.equal(made.latent_avg[1], load_generator(generator).latent_avg)
    with pytest.raises(ValueError, match="generator .* an encoder.* but this is a generator"):
        convert(generator, target, generator=generator, overwrite=True)


def test_several_parts_are_named(tmp_path: Path) -> None:
    target = tmp_path / "o.safetensors"
    source = foreign_files.write(tmp_path, "e4e.pt")
    with pytest.raises(ValueError, match=r"e4e\.pt holds a generator and an encoder: say which"):
        convert(source, target)
    with pytest.raises(ValueError, match=r"e4e\.pt is a generator \(.*\) and an encoder \(.*\); "
                                         "expected an identity network"):  # fmt: skip
        convert(source, target, "identity")
    assert not target.exists()


def test_bad_arguments(tmp_path: Path) -> None:
    source = foreign_files.write(tmp_path, "sdd.pt")
    with pytest.raises(ValueError, match="no part 'hair'; parts are generator, encoder, identity"):
        convert(source, tmp_path / "o.safetensors", "hair")
    with pytest.raises(ValueError, match=r"o\.pt' must end in \.safetensors"):
        convert(source, tmp_path / "o.pt")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "none.pt", tmp_path / "o.safetensors")
    torch.save({"a": torch.zeros(3, 4)}, source)
    with pytest.raises(ValueError, match=r"1 tensors: a \[3, 4\]; expected one of generator,"):
        convert(source, tmp_path / "o.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["sdd.pt"]


def test_a_file_is_replaced_when_asked_to(tmp_path: Path) -> None:
    source, target = foreign_files.write(tmp_path, "sdd.pt"), tmp_path / "o.safetensors"
    target.write_text("mine")
    with pytest.raises(FileExistsError, match=r"o\.safetensors would be replaced; .*overwrite"):
        convert(source, target)
    assert target.read_text() == "mine"
    assert convert(source, target, overwrite=True) == "mapper"


@pytest.mark.parametrize("way", ["same", "symlink", "hardlink"])
def test_the_input_is_never_overwritten(way: str, tmp_path: Path) -> None:
    foreign_files.write(tmp_path, "sdd.pt")
    source = tmp_path / "a.safetensors"
    convert(tmp_path / "sdd.pt", source)
    target, before = tmp_path / "b.safetensors", source.read_bytes()
    if way == "same":
        target = source
    elif way == "symlink":
        target.symlink_to(source)
    else:
        target.hardlink_to(source)
    with pytest.raises(ValueError, match="is the input, which is never overwritten"):
        convert(source, target)
    assert source.read_bytes() == before


@pytest.mark.parametrize(("name", "part"), [("stylegan2.pt", None), ("styleclip.pt", "mapper"),
                                            ("train_faces.npy", None)])  # fmt: skip
def test_a_full_disk_leaves_the_old_file(
    name: str, part: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = foreign_files.write(tmp_path, name), tmp_path / "out.safetensors"
    target.write_bytes(b"old")

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"(?i)space"):
        convert(source, target, part, overwrite=True)
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out.safetensors"])


def test_a_file_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    content = foreign_files.content("model_ir_se50.pth")
    content.pop("body.0.res_layer.1.weight")
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"missing: body\.0\.res_layer\.1\.weight"):
        convert(tmp_path / "model.pth", tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_the_digest_covers_large_files(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 9000)
    told = convert_module._source(path, "torch")
    assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
