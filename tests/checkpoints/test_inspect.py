"""What files are called in error messages and by `sdd info`."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any

import foreign_files
import pytest
import torch

from sdd_fast.checkpoints.formats.read import Checkpoint, PickledObject, read_checkpoint
from sdd_fast.checkpoints.inspect import contents, describe_file, summarize
from sdd_fast.checkpoints.load import load_generator
from sdd_fast.files import save_tensors
from sdd_fast.models import ConvClassifier


class RunsACommand:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch executed",)


@pytest.mark.parametrize("name", [n for n in foreign_files.HOLDS if not n.endswith(".npy")])
def test_every_kind_is_told(name: str, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(foreign_files.write(tmp_path, name))
    assert [kind for kind in contents(checkpoint) if kind in foreign_files.KINDS] == (
        foreign_files.HOLDS[name]
    )
    words = summarize(checkpoint)
    names = {"generator": "a generator (", "encoder": "an encoder (", "mapper": "a latent mapper (",
             "identity": "an identity network (", "latents": "a set of latents ("}  # fmt: skip
    assert words.startswith(names[foreign_files.HOLDS[name][0]])
    for kind in foreign_files.HOLDS[name]:
        assert names[kind] in words


@pytest.mark.parametrize("name", foreign_files.HOLDS)
def test_files_are_described(name: str, tmp_path: Path) -> None:
    facts = describe_file(foreign_files.write(tmp_path, name))
    for kind in foreign_files.HOLDS[name]:
        assert facts[kind]
    formats = {".npy": "NumPy array", ".pkl": "Python pickle", ".safetensors": "safetensors"}
    assert facts["format"] == formats.get(Path(name).suffix, "PyTorch (zip)")
    safety = {
        ".npy": "safe: numbers, nothing in it can run",
        ".safetensors": "safe: safetensors, nothing in it can run",
        ".pkl": "safe to read here: the source code in this pickle is left alone; Python's own "
        "unpickler would run it",
    }
    plain = "safe to read here: a pickle with tensors and plain data only"
    assert facts["safety"] == safety.get(Path(name).suffix, plain)
    assert facts["tensors"] > 0 and facts["size"].endswith(("KiB", "MiB"))


def test_facts_of_a_mapper(tmp_path: Path) -> None:
    facts = describe_file(foreign_files.write(tmp_path, "styleclip.pt"))
    assert facts["prompt"] == "purple hair"
    assert facts["mapper"] == "coarse, medium of W+ 8 × 12 (StyleCLIP)"


def test_a_refused_file_is_described(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"weights": torch.zeros(2), "more": RunsACommand()}, path)
    facts = describe_file(path)
    assert facts["safety"] in (
        "refused: would run posix.system when unpickled",
        "refused: would run nt.system when unpickled",
    )
    assert any("_rebuild_tensor" in name for name in facts["refers to"])
    assert facts["format"] == "PyTorch (zip)"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps([RunsACommand(), print, eval, open, exec, compile, vars, dir]))
    facts = describe_file(path)
    assert facts["safety"].startswith("refused: would run posix.system, builtins.print")
    assert facts["safety"].endswith("and 2 more when unpickled")
    assert not (Path.cwd() / "executed").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "a.pt"))
    facts = describe_file(tmp_path / "a.pt")
    assert facts["format"] == "TorchScript" and facts["safety"].startswith("a program")


def test_unknown_content(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    content = {"a": [torch.zeros(2), {"b": torch.zeros(3, 4)}], "step": 3}
    content["args"] = [torch.zeros(1)] * 8
    torch.save(content, path)
    facts = describe_file(path)
    assert facts["holds"].startswith("10 tensors: a.0 [2], a.1.b [3, 4], args.0 [1], ")
    assert facts["holds"].endswith(", …") and facts["tensors"] == 10
    for content, words in (
        (torch.zeros(3, 4), "a PyTorch (zip) file with one tensor [3, 4]"),
        ({"step": 3}, "a PyTorch (zip) file with no tensors but an object of type dict"),
        (PickledObject("argparse.Namespace", {"size": 3}),
         "a PyTorch (zip) file with no tensors but an object of type argparse.Namespace"),
        (PickledObject("Net", {"w": torch.zeros(2)}), "a PyTorch (zip) file with 1 tensors: w [2]"),
    ):  # fmt: skip
        assert summarize(Checkpoint(Path("a.pt"), "torch", content)) == words


def test_networks_of_ours_that_no_loader_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    ConvClassifier({"hair": 2}, resolution=16, width=4).save(path)
    assert summarize(read_checkpoint(path)) == "a network of this package (ConvClassifier)"
    facts = describe_file(path)
    assert facts["network"] == "ConvClassifier" and "hair" in str(facts["config"])


def test_a_diffusion_model_in_a_single_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    names = {
        "model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3),
        "first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3),
        "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (9, 8),
    }
    save_tensors(path, {name: torch.zeros(shape) for name, shape in names.items()})
    assert summarize(read_checkpoint(path)).startswith("a diffusion model (Stable Diffusion 1.x, s")
    # What is described as a teacher loads: this one lacks most of its tensors.
    assert describe_file(path)["teacher"].startswith(f"not supported: {path} does not fit")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    for name, content in (
        ("a.txt", b"hello"),
        ("b.pt", b""),
        ("c.safetensors", b"\x20" + b"\0" * 7 + b"{"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            describe_file(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        describe_file(tmp_path / "none.pt")


def _refers_to(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode() + b"(tR."


@pytest.mark.parametrize(
    "content",
    [
        _refers_to("os", "system" * 200),
        _refers_to("😀" * 100, "é" * 300),
        _refers_to("\x1b[31m" * 100, "x"),
        b"Np" + b"9" * 3000 + b"x\n.",
        pickle.dumps({"é" * 3000: 1, "state_dict": torch.zeros(1)}),
    ],
)
def test_what_a_file_calls_things_is_told_short(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(content if content[:1] == b"\x80" else b"\x80\x02" + content)
    told = []
    with contextlib.suppress(ValueError):
        told += [str(fact) for fact in describe_file(path).values()]
    with pytest.raises(ValueError, match="a.pkl") as error:
        load_generator(path)
    told.append(str(error.value).replace(str(path), ""))
    assert max(map(len, told)) < 400 and all(text.isprintable() for text in told)
