"""sdd info: what is said of every kind of file and folder."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import foreign_files
import pytest
import torch
from cli_runner import Sdd
from PIL import Image
from tiny_clip import write_clip

from sdd_fast.cli import main
from sdd_fast.domains.domain import EMBEDDED
from sdd_fast.export import export_torchscript
from sdd_fast.files import save_tensors, write_json
from sdd_fast.models import LevelsMapper


@pytest.fixture(scope="module")
def runs(domain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run of two training steps, and one of pictures."""
    folder = tmp_path_factory.mktemp("runs")
    few = ["--steps", "2", "--batch-size", "2", "--measured-images", "4", "--top", "1"]
    for words in (
        ["select", "a bald face", "--images", "2", "--timesteps", "200,500"],
        ["distill", "a bald face", *few],
    ):
        with pytest.raises(SystemExit) as exit_:
            main([*words, "--domain", str(domain), "--out", str(folder / "bald")])
        assert not exit_.value.code
    with pytest.raises(SystemExit):
        main(["render", "--out", str(folder / "faces"), "-n", "6"])
    return folder


def test_the_installation(sdd: Sdd) -> None:
    shown = sdd("info")
    assert shown.code == 0 and torch.__version__ in shown.out and "domain faces64" in shown.out
    named = sdd("info", "faces64")
    assert named.code == 0 and "64 × 64 pixels" in named.out and "a bald face" in named.out
    facts = json.loads(sdd("info", "--json").out)
    assert facts["torch"] == torch.__version__ and "native ops" in facts
    assert facts["dtype auto"].split(" on ")[0] in ("float16", "bfloat16", "float32")
    assert facts["attention auto"].startswith("sdpa on a CPU")


def test_what_this_package_writes(sdd: Sdd, runs: Path, domain: Path, tiny_sd: Path) -> None:
    run = runs / "bald"
    safe = "safe: safetensors"
    for path, expected in (
        (run, ["run ", "a bald face", "2, complete", "report.html", "float32, attention by sdpa"]),
        (run / "run.json", ["a bald face"]),
        (runs, ["folder of runs", "bald"]),
        (run / "curve.json", ["HQS curve", "a bald face", "largest"]),
        (run / "mapper.safetensors",
         ["LevelsMapper", "a bald face", "coarse, medium of W+ 8 × 16", "tiny", safe]),
        (domain, ["domain ", "32 × 32 pixels", "an old face", "white hair", "classifier"]),
        (domain / "domain.json", ["domain ", "32 × 32 pixels", "an old face"]),
        (domain / "generator.safetensors", ["StyleGAN2", "32 × 32, W+ 8 × 16", safe]),
        (domain / "encoder.safetensors", ["Encoder", "W+ 8 × 16", safe]),
        (domain / "classifier.safetensors", ["ConvClassifier", safe]),
        (domain / "latents.safetensors", ["W+ 8 × 16 of 16 images, and 8 held out", safe]),
        (tiny_sd, ["StableDiffusionPipeline", "32 pixels", "4 × 8 × 8", "epsilon", "1000",
                   "ε-prediction"]),
        (runs / "faces", ["folder of pictures", "6"]),
        (next((runs / "faces").glob("*.png")), ["PNG picture", "64 × 64"]),
    ):  # fmt: skip
        shown = sdd("info", path)
        assert shown.code == 0, shown.err
        for text in expected:
            assert text in shown.out, (path, text, shown.out)


def test_only_files_beside_pictures_are_captions(sdd: Sdd, tmp_path: Path) -> None:
    for name in ("a.png", "b.JPG"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    (tmp_path / "license.txt").write_text("of no picture")
    shown = " ".join(sdd("info", tmp_path).out.split())
    assert "pictures 2" in shown and "captions none" in shown
    (tmp_path / "b.TXT").write_text("a cup")
    shown = " ".join(sdd("info", tmp_path).out.split())
    assert "pictures 2" in shown and "captions in files beside 1 of them" in shown


def test_clip_folders(sdd: Sdd, tmp_path: Path) -> None:
    published = write_clip(tmp_path / "published")
    ours = EMBEDDED["faces64"] / "clip"
    for path, length in ((published, "8"), (ours, "128")):
        shown = sdd("info", path)
        assert shown.code == 0, shown.err
        assert "clip " in shown.out and f"vectors of {length} elements" in shown.out, shown.out
    (published / "model.safetensors").unlink()
    assert "it lacks model.safetensors or pytorch_model.bin" in sdd.fails("info", published)


def test_domain_files_and_presets(
    sdd: Sdd, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = str(domain / "generator.safetensors")
    content = {"name": "mine", "source_text": "a boat", "generator": generator}
    (tmp_path / "boats.json").write_text(json.dumps(content))
    shown = sdd("info", tmp_path / "boats.json")
    assert shown.code == 0, shown.err
    assert "a boat" in shown.out and "generator" in shown.out and "size" not in shown.out
    monkeypatch.setenv("SDD_FAST_CHECKPOINTS", str(tmp_path))
    shown = sdd("info", "ffhq-1024")
    assert shown.code == 0, shown.err
    said = " ".join(shown.out.split())
    assert "the generator of ffhq-1024 is missing" in said and "published at https:" in said


def test_a_folder_of_the_api_and_an_unfinished_domain(sdd: Sdd, runs: Path, tmp_path: Path) -> None:
    for name in ("mapper.safetensors", "curve.json"):  # as `distill` and `curve.save` leave them
        (tmp_path / name).write_bytes((runs / "bald" / name).read_bytes())
    assert "LevelsMapper" in sdd("info", tmp_path).out
    write_json(tmp_path / "config.json", {"mapper_sha256": "of another"})
    assert "is not the mapper of the run in" in sdd("info", tmp_path).out
    (tmp_path / "d" / "training").mkdir(parents=True)
    (tmp_path / "d" / "training" / "vae.checkpoint.safetensors").touch()
    assert "not complete" in sdd("info", tmp_path / "d").out
    refused = sdd.fails("distill", "old", "--domain", tmp_path / "d")
    assert "is not complete; the command of `sdd train-domain`" in refused


@pytest.mark.parametrize("name", foreign_files.HOLDS)
def test_foreign_files(name: str, sdd: Sdd, tmp_path: Path) -> None:
    path = foreign_files.write(tmp_path, name)
    shown = sdd("info", path)
    assert shown.code == 0, shown.err
    lines = {line.split("  ")[0]: line for line in shown.out.splitlines()}
    assert str(path) in lines["checkpoint"] and " safe" in lines["safety"]
    assert set(foreign_files.HOLDS[name]) <= set(lines)
    facts = json.loads(sdd("info", path, "--json").out)
    assert facts["checkpoint"] == str(path) and facts["tensors"] > 0


def test_a_converted_file_tells_where_it_is_from(sdd: Sdd, tmp_path: Path) -> None:
    source, target = foreign_files.write(tmp_path, "sdd.pt"), tmp_path / "m.safetensors"
    assert sdd("convert", source, target).code == 0
    shown = sdd("info", target)
    assert "LevelsMapper" in shown.out and "file sdd.pt, format torch, sha256 " in shown.out


class RunsACommand:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch executed",)


def test_a_refused_file_is_described(sdd: Sdd, tmp_path: Path) -> None:
    """Saying what a file is succeeds, also where the answer is that it is not to be loaded."""
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(RunsACommand()))
    shown = sdd("info", path)
    assert shown.code == 0 and not shown.err
    assert "refused: would run posix.system when unpickled" in shown.out
    assert list(tmp_path.iterdir()) == [path] and not Path("executed").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(sdd: Sdd, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    about = {"prompt": "white hair", "lam": 0.1, "timesteps": [800], "domain": "faces64"}
    export_torchscript(LevelsMapper(10, 6), path, **about)  # type: ignore[arg-type]
    shown = sdd("info", path)
    assert shown.code == 0 and "TorchScript of LevelsMapper" in shown.out
    assert "white hair" in shown.out and "800" in shown.out
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))
    shown = sdd("info", path)
    assert shown.code == 0 and "a program: torch.jit.load, and nothing else, runs it" in shown.out


def test_nothing_known(sdd: Sdd, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html>")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    save_tensors(tmp_path / "cut.safetensors", {"a": torch.zeros(9)})
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:40])
    (tmp_path / "nothing.safetensors").write_bytes(b"")
    torch.save({"a": torch.zeros(1)}, tmp_path / "whole")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole").read_bytes()[:-200])
    for name, message in (
        ("none", "no file or folder"),
        ("text.txt", "nor any other kind of weights"),
        ("text.png", "text.png is not an image that can be read"),
        ("page.pt", "a web page, not weights"),
        ("other.json", "JSON, but no HQS curve and no domain"),
        ("empty", "is no run, domain, Stable Diffusion or CLIP folder, or folder of pictures"),
        ("cut.safetensors", "not a complete safetensors file"),
        ("nothing.safetensors", "is empty (0 bytes)"),
        ("cut.pt", "cut.pt: "),
    ):
        assert message in sdd.fails("info", tmp_path / name), name


def test_text_in_files_can_neither_drive_the_terminal_nor_pass_for_a_fact(
    sdd: Sdd, tmp_path: Path
) -> None:
    prompt = "a\x1b[2Jb\nsafety     safe\r\x9bc\u202ed"
    path = tmp_path / "a.safetensors"
    LevelsMapper(10, 4).save(path, metadata={"prompt": json.dumps(prompt), "domain": '"\\u001b"'})
    shown = sdd("info", path)
    assert shown.code == 0 and "\\x1b[2Jb" in shown.out and "\\u202ed" in shown.out
    lines = shown.out.split("\n")
    assert [line for line in lines if line.startswith("safety")] == [
        line for line in lines if line.startswith("safety") and "nothing in it can run" in line
    ]
    assert not set(shown.out) & set("\x1b\r\x9b\u202e")
    assert "\x1b" not in sdd("info", "--json", path).out

    save_tensors(path, {"\x1b[31mred": torch.zeros(2)}, {"network": "ConvEmbedding\x1b[2J"})
    shown = sdd("info", path)
    assert shown.code == 0 and "\x1b" not in shown.out
    shown = sdd("convert", path, tmp_path / "b.safetensors")
    assert shown.code == 1 and "\x1b" not in shown.out + shown.err
    assert "\\x1b[31mred" in shown.err or "\\x1b[2J" in shown.err


@pytest.mark.parametrize("network", ['{"a": 1}', "[1]", "5", "null", "", "x" * 10_000])
def test_a_network_of_any_name(sdd: Sdd, tmp_path: Path, network: str) -> None:
    save_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)}, {"network": network})
    shown = sdd("info", tmp_path / "a.safetensors")
    assert shown.code == 0 and "nothing in it can run" in shown.out and len(shown.out) < 2000


def test_what_looks_like_torchscript(sdd: Sdd, tmp_path: Path) -> None:
    """Only an archive with a program is described as one, and that it is one is said."""
    path = tmp_path / "a.pt"
    extra = json.dumps({"network": "LevelsMapper", "prompt": "harmless"})
    evil = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."
    for prefix, entries in (
        (evil, {"a/extra/sdd.json": extra, "a/constants.pkl": "N."}),
        (b"", {"a/data.pkl": evil.decode("latin-1"), "a/extra/sdd.json": extra}),
    ):
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content.encode("latin-1"))
        path.write_bytes(prefix + target.getvalue())
        shown = sdd("info", path)
        assert "TorchScript of" not in shown.out and "os.system" in shown.out + shown.err
    for content in ("[1]", "{", "[" * 100_000, "\xff"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/constants.pkl", b"\x80\x02).")
            archive.writestr("a/extra/sdd.json", content.encode("latin-1"))
        shown = sdd("info", path)
        assert shown.code == 0 and "a program: torch.jit.load" in shown.out
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/constants.pkl", b"\x80\x02).")
        archive.writestr("a/extra/sdd.json", extra)
    shown = sdd("info", path)
    assert "TorchScript of LevelsMapper" in shown.out and "a program: torch.jit" in shown.out


def test_a_run_tells_that_it_was_compiled(sdd: Sdd, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "bald", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["distill"]["compile"] = "inductor"
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert "attention by sdpa, compiled by inductor" in sdd("info", tmp_path / "run").out
