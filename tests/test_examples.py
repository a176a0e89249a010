"""The scripts in examples/ run, on a domain of random weights."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_domain import RESOLUTION, write_tiny_domain

from sdd_fast.domains.faces64.renderer import render, sample_faces
from sdd_fast.images import save_png
from sdd_fast.selection.curve import HQSCurve

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Path:
    return write_tiny_domain(tmp_path_factory.mktemp("domain") / "tiny", tiny_sd)


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_one_edit_and_its_composition_with_another(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for prompt in ("white hair", "old"):
        options = ("--domain", tiny, "--out", tmp_path / prompt, "--steps", 2)
        run(monkeypatch, "one_edit.py", prompt, *options)
        assert HQSCurve.load(tmp_path / prompt / "curve.json").prompt == prompt
        assert size_of(tmp_path / prompt / "before-after.png")[0] > 6 * RESOLUTION
    rng = torch.Generator().manual_seed(0)
    save_png(tmp_path / "face.png", render(sample_faces(1, rng), RESOLUTION)[0])
    runs = (tmp_path / "white hair", tmp_path / "old")
    out = tmp_path / "composed.png"
    run(
        monkeypatch, "compose_edits.py", *runs, tmp_path / "face.png", "--out", out,
        "--domain", tiny,
    )  # fmt: skip
    width, height = size_of(out)
    assert min(width, height) > 3 * RESOLUTION


def test_own_models(
    tiny: Path, tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(
        monkeypatch, "own_models.py", "white hair", "--diffusion", tiny_sd, "--generator",
        tiny / "generator.safetensors", "--steps", 2, "--out", tmp_path,
    )  # fmt: skip
    assert size_of(tmp_path / "before-after.png")[0] > 8 * RESOLUTION
    assert (tmp_path / "mapper.safetensors").exists() and (tmp_path / "curve.png").exists()
