"""Checkpoints in the layouts that people hold, by path, through the whole method.

The files are written as other programs write them: a generator of the PyTorch port, an e4e encoder,
an ArcFace, latents as StyleCLIP wants them, one of its mappers, and a Stable Diffusion folder; of
random weights at small width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from irse_reference import arcface_shapes, pyramid_shapes, random_state
from stylegan2_reference import port_state
from tiny_clip import write_clip

import sdd_fast as sdd
from sdd_fast.cli import main
from sdd_fast.images import load_image, save_png
from sdd_fast.models.psp import PyramidEncoder

SIDE, W_DIM, WIDTH, LAYERS = 128, 12, 16, 12
SHORT = ["--steps", "2", "--batch-size", "2", "--measured-images", "0", "--timesteps", "500"]


pytestmark = pytest.mark.usefixtures("quick_figures")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    rng = torch.Generator().manual_seed(0)
    average = torch.randn(W_DIM, generator=rng)
    generator = port_state(SIDE, w_dim=W_DIM)
    torch.save({"g_ema": generator, "latent_avg": average}, folder / "stylegan2.pt")
    encoder = random_state(pyramid_shapes(LAYERS, W_DIM, (1, 2, 1, 1), WIDTH))
    state = {f"encoder.{key}": value for key, value in encoder.items()}
    state |= {f"decoder.{key}": value for key, value in generator.items()}
    opts = {"encoder_type": "Encoder4Editing", "start_from_latent_avg": True}
    torch.save(
        {"state_dict": state, "opts": opts, "latent_avg": average.expand(LAYERS, -1)},
        folder / "e4e.pt",
        _use_new_zipfile_serialization=False,
    )
    torch.save(random_state(arcface_shapes(width=WIDTH, dim=8), seed=1), folder / "arcface.pth")
    torch.save(torch.randn(20, 1, LAYERS, W_DIM, generator=rng), folder / "train_faces.pt")
    mapper = {
        f"mapper.{level}_mapping.mapping.{i}.{kind}": torch.randn(*shape, generator=rng) * scale
        for level in ("course", "medium", "fine")
        for i in (1, 2, 3, 4)
        for kind, shape, scale in (("weight", (W_DIM, W_DIM), 100.0), ("bias", (W_DIM,), 30.0))
    }
    styleclip = {"state_dict": mapper, "opts": {"description": "purple hair"}}
    torch.save(styleclip, folder / "purple_hair.pt")
    (folder / "photos").mkdir()
    for i in range(2):
        save_png(folder / "photos" / f"{i}.png", torch.rand(3, 150, 140, generator=rng) * 2 - 1)
    write_clip(folder / "clip")
    return folder


@pytest.fixture(autouse=True)
def folder_of_checkpoints(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run may name files for an edit to open."""
    monkeypatch.setenv("SDD_FAST_CHECKPOINTS", str(files))


def run(*words: Any) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    assert not exit_.value.code


def parts(files: Path, diffusion: Path) -> list[Any]:
    return [
        "--generator", files / "stylegan2.pt", "--encoder", files / "e4e.pt",
        "--identity", files / "arcface.pth", "--latents", files / "train_faces.pt",
        "--diffusion", diffusion, "--source-text", "old", "--clip", files / "clip",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(files: Path, tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "hair"
    run("distill", "old hair", *parts(files, tiny_sd), *SHORT, "--out", out)
    return out


def test_select(files: Path, tiny_sd: Path, tmp_path: Path) -> None:
    words = ["--timesteps", "300,700", "--images", "2", "--out", tmp_path]
    run("select", "old hair", *parts(files, tiny_sd), *words)
    curve = sdd.HQSCurve.load(tmp_path / "curve.json")
    domain = sdd.load_domain(
        {
            "name": "x", "source_text": "old", "generator": str(files / "stylegan2.pt"),
            "latents": str(files / "train_faces.pt"), "diffusion": str(tiny_sd),
        }
    )  # fmt: skip
    want = sdd.hqs(
        domain.prior, domain.held_out[:2], "old hair", [300, 700], generator=domain.generator
    )
    torch.testing.assert_close(curve.mean, want.mean)


def test_a_run_remembers_its_checkpoints(trained: Path, files: Path, tmp_path: Path) -> None:
    record = json.loads((trained / "run.json").read_text(encoding="utf-8"))
    assert record["domain"] == "stylegan2" and record["resolution"] == SIDE
    assert record["monitor"]["identity"] > 0.9  # two steps change nobody; ArcFace was in use
    assert -1 <= record["monitor"]["direction"] <= 1 and "clip_gain" in record["monitor"]
    assert f"--clip {files / 'clip'}" in record["command"]
    run("edit", trained, files / "photos", "--strength", "0.5", "--out", tmp_path)
    editor = sdd.Editor.load(trained)
    assert isinstance(editor.encoder, PyramidEncoder) and editor.input_size == (256, 256)
    want = editor.edit([files / "photos" / "0.png"], 0.5)[0]
    assert want.shape == (3, SIDE, SIDE)
    assert (load_image(tmp_path / "0.png") - want).abs().max() <= 1.01 / 255
    grid = load_image(tmp_path / "grid" / "before-after.png")
    assert min(grid.shape[1:]) > 2 * SIDE


def test_latents_are_edited_like_pictures(trained: Path, files: Path, tmp_path: Path) -> None:
    run("edit", trained, files / "train_faces.pt", "--out", tmp_path)
    assert len(list(tmp_path.glob("train_faces-00*.png"))) == 20
    editor = sdd.Editor.load(trained)
    want = editor.edit(sdd.load_latents(files / "train_faces.pt")[4:5])[0]
    assert (load_image(tmp_path / "train_faces-0005.png") - want).abs().max() <= 1.01 / 255


def test_a_mapper_of_styleclip_edits(files: Path, tmp_path: Path) -> None:
    words = ["--generator", files / "stylegan2.pt", "--encoder", files / "e4e.pt"]
    run("edit", files / "purple_hair.pt", files / "photos" / "1.png", *words, "--out", tmp_path)
    generator, encoder = (
        sdd.load_generator(files / "stylegan2.pt"),
        sdd.load_encoder(files / "e4e.pt"),
    )
    mapper, info = sdd.load_mapper(files / "purple_hair.pt")
    assert (info.prompt, info.lam) == ("purple hair", 0.1)
    w_plus = encoder(load_image(files / "photos" / "1.png", (256, 256))[None])
    want = generator.synthesis(w_plus + 0.1 * mapper(w_plus)).clamp(-1, 1)[0]
    assert (load_image(tmp_path / "1.png") - want).abs().max() <= 1.01 / 255


def test_photographs_become_latents(files: Path, tmp_path: Path) -> None:
    words = ["--generator", files / "stylegan2.pt", "--encoder", files / "e4e.pt"]
    run("invert", files / "photos", *words, "--out", tmp_path / "w.safetensors")
    w_plus = sdd.load_latents(tmp_path / "w.safetensors")
    pictures = [load_image(files / "photos" / f"{i}.png", (256, 256)) for i in range(2)]
    torch.testing.assert_close(w_plus, sdd.load_encoder(files / "e4e.pt")(torch.stack(pictures)))
    run("edit", files / "purple_hair.pt", tmp_path / "w.safetensors", *words, "--out", tmp_path)
    assert (tmp_path / "0.png").exists() and (tmp_path / "1.png").exists()


def test_one_domain_file_instead_of_many_options(
    trained: Path, files: Path, tiny_sd: Path, tmp_path: Path
) -> None:
    content = {
        "name": "people",
        "source_text": "old",
        "generator": "stylegan2.pt",
        "encoder": "e4e.pt",
        "identity": "arcface.pth",
        "latents": "train_faces.pt",
        "diffusion": str(tiny_sd),
        "prompt_templates": {"attribute": "old {}"},
    }
    listing = files / "people.json"
    listing.write_text(json.dumps(content), encoding="utf-8")
    out = tmp_path / "again"
    words = ["--domain", listing, "--template", "attribute", *SHORT, "--out", out]
    run("distill", "hair", *words)
    same = [sdd.load_mapper(folder / "mapper.safetensors")[0] for folder in (trained, out)]
    for (name, a), (_, b) in zip(*(m.state_dict().items() for m in same), strict=True):
        assert torch.equal(a, b), name
    assert sdd.load_mapper(out / "mapper.safetensors")[1].prompt == "old hair"


def test_rows_without_content_are_seen_by_nobody(
    files: Path, tiny_sd: Path, tmp_path: Path
) -> None:
    content = {
        "name": "cars", "source_text": "old", "generator": "stylegan2.pt",
        "latents": "train_faces.pt", "diffusion": str(tiny_sd), "content_rows": [16, 112],
    }  # fmt: skip
    listing = files / "cars.json"
    listing.write_text(json.dumps(content), encoding="utf-8")
    run("distill", "old hair", "--domain", listing, *SHORT, "--out", tmp_path / "run")
    run("edit", tmp_path / "run", files / "train_faces.pt", "--out", tmp_path / "edited")
    picture = load_image(tmp_path / "edited" / "train_faces-0001.png")
    assert picture.shape == (3, 96, 128)


def test_what_is_missing_or_does_not_fit_is_said(
    trained: Path, files: Path, tiny_sd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = files / "photos" / "0.png"
    torch.save(torch.zeros(2, 10, W_DIM), tmp_path / "other.pt")
    generator = ["--generator", files / "stylegan2.pt"]
    for words, message in (
        (["distill", "hair", *generator, *SHORT], "has no diffusion; name a file with --diffusion"),
        (["distill", "hair", "--encoder", files / "no.pt"], "given as the encoder, does not exist"),
        (["distill", "hair", "--domain", "ffhq-1024"], "published at https://"),
        (["edit", files / "purple_hair.pt", photo, *generator], "no encoder"),
        (["edit", files / "purple_hair.pt", photo], "another generator"),
        (["edit", trained, tmp_path / "other.pt"], "another resolution"),
        (["edit", files / "arcface.pth", photo], "is an identity network (ArcFace on IR-SE50"),
        (["select", "hair", "--template", "color"], "no prompt template 'color'"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main([str(word) for word in (*words, "--out", tmp_path / "out")])
        said = " ".join(capsys.readouterr().err.split())
        assert exit_.value.code == 1 and message in said, (words, said)
        assert not (tmp_path / "out").exists()
