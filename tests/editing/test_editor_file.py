"""A whole editor in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sdd_fast.checkpoints.inspect import describe_file
from sdd_fast.editing.editor import Editor
from sdd_fast.files import load_tensors, save_tensors
from sdd_fast.inversion import face_crop
from sdd_fast.manipulator import MapperInfo, save_mapper
from sdd_fast.models import Encoder, LevelsMapper, StyleGAN2, StyleSpaceMapper

INFO = MapperInfo("white hair", 0.3, ("coarse", "medium"), (600, 700), "faces64")


@pytest.fixture(scope="module")
def editor() -> Editor:
    torch.manual_seed(0)
    generator = StyleGAN2(32, w_dim=16, z_dim=16, n_mlp=2, channel_base=256, channel_max=8)
    encoder = Encoder(32, 8, 16, channel_base=256, channel_max=8, head_channels=2)
    mapper = LevelsMapper(8, 16, ["coarse", "medium"], zero_init=False)
    styles = StyleSpaceMapper(generator.style_dims, zero_init=False)
    return Editor(generator, [(mapper, INFO), styles], encoder)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "me.png")
    return tmp_path / "me.png"


def test_a_saved_editor_is_the_same_editor(editor: Editor, photo: Path, tmp_path: Path) -> None:
    path = editor.save(tmp_path / "editor.safetensors")
    loaded = Editor.load(path)
    assert loaded.infos == editor.infos and repr(loaded) == repr(editor)
    for strength in (1.0, [0.5, -2.0]):
        assert torch.equal(loaded.edit(photo, strength), editor.edit(photo, strength))
    assert not any(p.requires_grad for p in loaded.generator.parameters())
    again = Editor.load([str(path)], device="cpu").save(tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()
    facts = describe_file(path)
    assert facts["network"] == "Editor" and facts["prompt"] == ["white hair", ""]
    assert facts["safety"].startswith("safe")


def test_without_an_encoder(editor: Editor, tmp_path: Path) -> None:
    w_plus = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    bare = Editor(editor.generator, [(editor.mappers[0], INFO)])
    loaded = Editor.load(bare.save(tmp_path / "bare.safetensors"))
    assert loaded.encoder is None
    assert torch.equal(loaded.edit(w_plus), bare.edit(w_plus))


def test_photographs_are_still_cropped_to_the_face(
    editor: Editor, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    five = np.array([[20.0, 20.0], [34.0, 20.0], [27.0, 26.0], [22.0, 33.0], [32.0, 33.0]])
    asked = []

    def detector(weights: object) -> Any:
        asked.append(weights)
        return lambda picture: [five]

    def align(picture: Image.Image) -> Image.Image:
        return face_crop.align_face(picture, five, 32)

    aligning = Editor(editor.generator, editor.mappers[0], editor.encoder, align)
    path = aligning.save(tmp_path / "aligning.safetensors")
    # Of YuNet's weights, or of OpenCV where that is not installed.
    with pytest.raises((ValueError, ModuleNotFoundError), match="^finding faces"):
        Editor.load(path).edit(photo)
    monkeypatch.setattr(face_crop, "YuNet", detector)
    loaded = Editor.load(path, detector="yunet.onnx")
    assert torch.equal(loaded.encode(photo), aligning.encode(photo))
    assert not torch.equal(loaded.encode(photo), editor.encode(photo))
    assert asked == ["yunet.onnx"]


def test_what_cannot_be_saved(editor: Editor, tmp_path: Path) -> None:
    class Mine(nn.Module):
        def forward(self, w_plus: Tensor) -> Tensor:
            return torch.zeros_like(w_plus)

    with pytest.raises(ValueError, match="mapper0 is of class Mine, and a file cannot tell"):
        Editor(editor.generator, Mine(), editor.encoder).save(tmp_path / "mine.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a.onnx", "a.pt", "name", "editor-1.0"])
def test_a_name_of_another_format_is_refused(editor: Editor, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}' must end in \.safetensors"):
        editor.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_only_an_editor_is_replaced(editor: Editor, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_mapper(path, editor.mappers[0], INFO)
    mapper = path.read_bytes()
    for mine in (mapper, b"notes", b""):
        path.write_bytes(mine)
        with pytest.raises(
            FileExistsError, match=r"mine\.safetensors is not a file of Editor.save"
        ):
            editor.save(path)
        assert path.read_bytes() == mine
    path.unlink()
    first = editor.save(path).read_bytes()
    editor.save(path, {"note": "second"})
    assert path.read_bytes() != first and repr(Editor.load(path)) == repr(editor)
    with pytest.raises(IsADirectoryError, match="this is a folder"):
        (tmp_path / "folder.safetensors").mkdir()
        editor.save(tmp_path / "folder.safetensors")


def test_what_a_whole_editor_does_not_take(editor: Editor, tmp_path: Path) -> None:
    path = editor.save(tmp_path / "editor.safetensors")
    save_mapper(tmp_path / "mapper.safetensors", editor.mappers[0], INFO)
    with pytest.raises(ValueError, match="is a whole editor, .*load it alone"):
        Editor.load([tmp_path / "mapper.safetensors", path])
    with pytest.raises(ValueError, match="takes no other domain, encoder; leave that out"):
        Editor.load(path, domain="faces64", encoder="e4e.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2 of an editor"),
        ({"networks": {}}, "for 2 edits"),
        ({"edits": []}, "for 0 edits"),
        ({"edits": [{"prompt": "x"}]}, "lam"),
        ({"networks": {"generator": {"network": "Module", "config": {}}}}, "cannot be read"),
    ],
)
def test_a_damaged_file_is_named(
    changes: dict[str, Any], message: str, editor: Editor, tmp_path: Path
) -> None:
    tensors, metadata = load_tensors(editor.save(tmp_path / "editor.safetensors"))
    config = json.loads(metadata["config"]) | changes
    save_tensors(tmp_path / "bad.safetensors", tensors, metadata | {"config": json.dumps(config)})
    with pytest.raises(ValueError, match=rf"bad\.safetensors is damaged(.|\n)*{message}"):
        Editor.load(tmp_path / "bad.safetensors")


def test_tensors_are_exactly_those_of_its_networks(editor: Editor, tmp_path: Path) -> None:
    tensors, metadata = load_tensors(editor.save(tmp_path / "editor.safetensors"))
    first = next(key for key in tensors if key.startswith("encoder."))
    less = {key: value for key, value in tensors.items() if key != first}
    save_tensors(tmp_path / "less.safetensors", less, metadata)
    with pytest.raises(ValueError, match=r"less.safetensors \(encoder\)(.|\n)*missing: "):
        Editor.load(tmp_path / "less.safetensors")
    save_tensors(tmp_path / "more.safetensors", {**tensors, "x.y": torch.zeros(1)}, metadata)
    with pytest.raises(ValueError, match="tensors of no network of its editor, such as 'x.y'"):
        Editor.load(tmp_path / "more.safetensors")
