from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runner import Result, Sdd

from sdd_fast.cli.invert import show
from sdd_fast.domains import Domain
from sdd_fast.domains.faces64.renderer import render, sample_faces
from sdd_fast.files import load_tensors
from sdd_fast.images import save_png
from sdd_fast.inversion import contact_sheet as contact_sheet_module
from sdd_fast.inversion.invert import Inversion
from sdd_fast.models import Encoder


class Invert(Sdd):
    """Runs `sdd invert` in the tiny domain."""

    domain: Path

    def __call__(self, *words: Any) -> Result:
        return super().__call__("invert", *words, "--domain", self.domain)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_sheet_module, "CELL", 48)


@pytest.fixture
def sdd(capsys: pytest.CaptureFixture[str], domain: Path) -> Invert:
    invert = Invert(capsys)
    invert.domain = domain
    return invert


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    for i, face in enumerate(render(sample_faces(3, torch.Generator().manual_seed(0)), 40)):
        save_png(tmp_path / "faces" / f"face-{i}.png", face)
    return tmp_path / "faces"


def test_a_folder_becomes_latents(sdd: Invert, faces: Path, tmp_path: Path) -> None:
    (faces / "broken.jpg").write_bytes(b"")
    out = tmp_path / "w.safetensors"
    assert "broken.jpg is empty" in sdd.fails(faces, "--out", out, "--strict")
    assert not list(tmp_path.glob("w.*"))
    done = sdd(faces, "--out", out)
    code, text, err = done.code, done.out, done.err
    assert code == 1, err  # one was left out
    tensors, metadata = load_tensors(out)
    assert tensors["w_plus"].shape == (3, 8, 16) and metadata["domain"] == "tiny"
    assert err.strip() == "sdd: warning: skipped: broken.jpg is empty (0 bytes)"
    lines = text.splitlines()
    psnr, names = (json.loads(metadata[key]) for key in ("psnr", "names"))
    mean = sum(psnr) / 3
    worst_first = [name for _, name in sorted(zip(psnr, names, strict=True))]
    assert [line.split()[-1] for line in lines[:3]] == worst_first
    assert lines[3] == f"mean PSNR:     {mean:.1f} dB"
    assert lines[4] == f"latents:       {out} (3 pictures)"
    assert lines[5] == f"contact sheet: {tmp_path / 'w.png'}" and (tmp_path / "w.png").exists()
    assert lines[6] == f"next:          sdd edit runs/RUN {out} --domain {sdd.domain}"


def test_refining(sdd: Invert, faces: Path, tmp_path: Path) -> None:
    done = sdd(
        faces,
        "--out",
        tmp_path / "w.safetensors",
        "--refine",
        2,
        "--l2-weight",
        0.5,
        "--batch-size",
        2,
    )
    code, text, err = done.code, done.out, done.err
    assert code == 0, err
    assert "dB (encoder alone: " in text
    settings = json.loads(load_tensors(tmp_path / "w.safetensors")[1]["settings"])
    assert settings["refinement"] == {"steps": 2, "lr": 0.05, "l2_weight": 0.5, "identity": 0.02}
    assert "identity" in settings  # the domain's network is used


def test_ctrl_c_and_going_on(
    sdd: Invert, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Encoder.forward

    def interrupted(self: Encoder, images: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        return forward(self, images)

    words = [faces, "--out", tmp_path / "w.safetensors", "--batch-size", 1]
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "forward", interrupted)
        message = sdd.fails(*words, code=130)
    assert "stopped after 1 of 3 pictures; they are kept in" in message
    assert sdd(*words).code == 0
    assert not list(tmp_path.glob("*.partial.*"))


def test_other_settings_and_restart(sdd: Invert, faces: Path, tmp_path: Path) -> None:
    words = [faces, "--out", tmp_path / "w.safetensors"]
    assert sdd(*words).code == 0
    message = sdd.fails(*words, "--refine", 1)
    assert "belongs to other pictures or settings" in message
    assert "pass --restart to start over" in message
    assert sdd(*words, "--refine", 1, "--restart").code == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["--aligned", "--detector", __file__],
            2,
            "--aligned and --detector exclude each other",
        ),
        (["--refine", "-1"], 2, "must be 0 or more, got -1"),
        (["--l2-weight", "1"], 2, "--l2-weight is for --refine"),
        (["--out", "w.pt"], 2, "'w.pt' must end in .safetensors"),
        (["--batch-size", "0"], 2, "--batch-size"),
        (["--device", "abacus"], 1, "'abacus' is no device"),
    ],
)
def test_wrong_command_lines(
    sdd: Invert, faces: Path, words: list[str], code: int, message: str
) -> None:
    assert message in sdd.fails(faces, *words, code=code)


def test_no_pictures(sdd: Invert, tmp_path: Path) -> None:
    assert "there is no such folder" in sdd.fails(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no images in" in sdd.fails(tmp_path / "empty")


def test_raw_photographs_need_a_detector(
    sdd: Invert, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    out = ["--out", tmp_path / "w.safetensors"]
    assert "given as the detector, does not exist" in sdd.fails(faces, *out, "--detector", "y")
    (tmp_path / "yunet.onnx").write_bytes(b"weights")
    message = sdd.fails(faces, *out, "--detector", tmp_path / "yunet.onnx")
    assert "needs OpenCV: pip install 'sdd_fast[faces]'" in message and "--aligned" in message
    assert "bug" not in message
    monkeypatch.setattr(Domain, "align", True)
    message = sdd.fails(faces, *out)
    assert "name a file with --detector" in message and "--aligned" in message
    assert sdd(faces, *out, "--aligned").code == 0


def test_help_teaches(sdd: Invert) -> None:
    done = sdd("--help")
    code, text = done.code, done.out
    assert code == 0 and "sdd invert my-faces --out my-faces.safetensors" in text


def test_long_lists_are_cut(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = [f"{i:02d}.png" for i in range(25)]
    done = Inversion(
        tmp_path / "w.safetensors",
        torch.zeros(25, 8, 16),
        names,
        psnr=[30.0 - i for i in range(25)],
        psnr_encoder=[20.0] * 25,
        skipped={f"s{i}": f"s{i} is broken" for i in range(12)},
        notes={"03.png": "2 faces"},
    )
    show(done)
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("PSNR of the 10 furthest") and lines[1] == "    6.0 dB  24.png"
    assert lines[11] == "mean PSNR:     18.0 dB (encoder alone: 20.0 dB)"
    warned = captured.err.splitlines()
    assert len(warned) == 12 and warned[9] == "sdd: warning: skipped: s9 is broken"
    assert warned[10] == "sdd: warning: skipped: 2 more, listed in the file's metadata"
    assert warned[11] == "sdd: warning: note: 03.png: 2 faces"
