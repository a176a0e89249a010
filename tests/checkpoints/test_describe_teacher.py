"""What `sdd info` is told of teachers, without loading their weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from original_layout import original_file
from safetensors.torch import save_file
from sd_families import FAMILIES, TINY, TINY_VAE, build_networks

from sdd_fast.checkpoints.formats.read import read_checkpoint
from sdd_fast.checkpoints.inspect import describe_file
from sdd_fast.checkpoints.stable_diffusion import describe
from sdd_fast.teacher.folder import describe_folder


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), encoding="utf-8")


def test_folders(tiny_sd: Path, tiny_sd2: Path, tiny_sdxl: Path) -> None:
    for folder, expected in (
        (tiny_sd, "1.x architecture, folder of diffusers, 32 × 32, ε-prediction"),
        (tiny_sd2, "2.x architecture, folder of diffusers, 32 × 32, v-prediction"),
        (tiny_sdxl, "XL architecture, folder of diffusers, 32 × 32, ε-prediction"),
    ):
        told = describe_folder(folder)
        assert (told["teacher"], told["weights"]) == (f"Stable Diffusion {expected}", "plain")
        assert "incomplete" not in told


def test_folder_without_its_weights(tiny_sdxl: Path, tmp_path: Path) -> None:
    """The weights are not even opened; what is not supported is said so."""
    folder = Path(shutil.copytree(tiny_sdxl, tmp_path / "sd"))
    unet = folder / "unet/diffusion_pytorch_model.safetensors"
    unet.write_bytes(b"")
    unet.rename(unet.with_suffix(".fp16.safetensors"))
    facts = describe_folder(folder)
    assert facts is not None and facts["weights"] == "fp16"
    unet.with_suffix(".fp16.safetensors").unlink()
    facts = describe_folder(folder)
    assert facts["weights"] == "none" and "lacks unet/diffusion_pyt" in facts["incomplete"]
    edit_json(folder / "scheduler/scheduler_config.json", prediction_type="sample")
    told = describe_folder(folder)["teacher"]
    assert told.startswith("not supported: ") and "prediction type 'sample' is" in told
    index = folder / "model_index.json"
    edit_json(index, requires_aesthetics_score=True)
    assert "is an SDXL refiner, which only" in describe_folder(folder)["teacher"]
    edit_json(index, _class_name="FluxPipeline")
    assert "holds a pipeline of class 'FluxPipeline'; supp" in describe_folder(folder)["teacher"]


@pytest.fixture(scope="module")
def files() -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of one file of each family."""
    with torch.random.fork_rng(devices=[]):
        networks = {f: build_networks(f, TINY[f], TINY_VAE, vocab_size=99) for f in FAMILIES}
    return {family: original_file(family, networks[family]) for family in FAMILIES}


@pytest.mark.parametrize(
    ("family", "metadata", "expected"),
    [
        ("1.x", {}, "512 × 512, ε-prediction"),
        ("1.x", {"modelspec.prediction_type": "v"}, "512 × 512, v-prediction"),
        ("XL", {}, "1024 × 1024, ε-prediction"),
        ("2.x", {"modelspec.prediction_type": "v"}, "768 × 768, v-prediction"),
        (
            "2.x",
            {},
            "512 × 512 with ε-prediction or 768 × 768 with v-prediction "
            "(measured when it is loaded)",
        ),
    ],
)
def test_single_files(family: str, metadata, expected: str, files, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = files[family]
    save_file(tensors, path, metadata)
    unet = sum(t.numel() for key, t in tensors.items() if key.startswith("model.diffusion_model."))
    wanted = {
        "teacher": f"Stable Diffusion {family}, single file of the original layout, {expected}",
        "U-Net": f"{unet:,} parameters",
    }
    assert describe(read_checkpoint(path)) == wanted
    if not metadata:
        torch.save({"state_dict": tensors, "global_step": 1}, tmp_path / "model.ckpt")
        assert describe(read_checkpoint(tmp_path / "model.ckpt")) == wanted


def test_other_files(files, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"mapper.weight": torch.zeros(3)}, path)
    assert describe(read_checkpoint(path)) is None
    torch.save([torch.zeros(3)], tmp_path / "latents.pt")
    assert describe(read_checkpoint(tmp_path / "latents.pt")) is None
    key = "model.diffusion_model.input_blocks.0.0.weight"
    width = len(files["1.x"][key])
    for channels in (8, 9):
        save_file(files["1.x"] | {key: torch.zeros(width, channels, 3, 3)}, path)
        facts = describe(read_checkpoint(path))
        assert facts is not None and facts["teacher"].startswith("not supported: ")
        assert f"{channels} channels" in facts["teacher"]
    incomplete = {k: t for k, t in files["1.x"].items() if not k.endswith("out.2.weight")}
    for tensors in (incomplete, files["1.x"] | {"control_model.x": torch.zeros(1)}):
        save_file(tensors, path)
        assert describe_file(path)["teacher"].startswith(f"not supported: {path}")
