"""What `sdd info` is told of teachers, without loading their weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdd_fast.checkpoints.formats.read import read_checkpoint
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
        assert describe_folder(folder) == {
            "teacher": f"Stable Diffusion {expected}",
            "weights": "plain",
        }


def test_folder_without_its_weights(tiny_sdxl: Path, tmp_path: Path) -> None:
    """The weights are not even opened; what is not supported is said so."""
    folder = Path(shutil.copytree(tiny_sdxl, tmp_path / "sd"))
    unet = folder / "unet/diffusion_pytorch_model.safetensors"
    unet.write_bytes(b"")
    unet.rename(unet.with_suffix(".fp16.safetensors"))
    facts = describe_folder(folder)
    assert facts is not None and facts["weights"] == "fp16"
    unet.with_suffix(".fp16.safetensors").unlink()
    edit_json(folder / "scheduler/scheduler_config.json", prediction_type="sample")
    facts = describe_folder(folder)
    assert facts is not None and facts["weights"] == "no safetensors"
    assert facts["teacher"].endswith("'sample' prediction, which is not supported")
    index = folder / "model_index.json"
    edit_json(index, requires_aesthetics_score=True)
    facts = describe_folder(folder)
    assert facts is not None and facts["teacher"].startswith("an SDXL refiner, which is not supp")
    edit_json(index, _class_name="FluxPipeline")
    facts = describe_folder(folder)
    assert facts is not None
    assert facts["teacher"].startswith("a FluxPipeline, which is not supported; supported: Stable")


def single(family: str) -> dict[str, torch.Tensor]:
    """The few tensors that tell the family; the U-Net counts 4·8 + 8 parameters."""
    text = {
        "1.x": ["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"],
        "2.x": ["cond_stage_model.model.token_embedding.weight"],
        "XL": [
            "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
            "conditioner.embedders.1.model.token_embedding.weight",
        ],
    }[family]
    keys = [*text, "first_stage_model.encoder.conv_in.weight", "first_stage_model.x"]
    return {key: torch.zeros(3) for key in keys} | {
        "first_stage_model.decoder.conv_in.weight": torch.zeros(8, 4),
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4),
        "model.diffusion_model.input_blocks.0.0.bias": torch.zeros(8),
    }


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
def test_single_files(family: str, metadata, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(single(family), path, metadata)
    wanted = {
        "teacher": f"Stable Diffusion {family}, single file of the original layout, {expected}",
        "U-Net": "40 parameters",
    }
    assert describe(read_checkpoint(path)) == wanted
    if not metadata:
        torch.save({"state_dict": single(family), "global_step": 1}, tmp_path / "model.ckpt")
        assert describe(read_checkpoint(tmp_path / "model.ckpt")) == wanted


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"mapper.weight": torch.zeros(3)}, path)
    assert describe(read_checkpoint(path)) is None
    torch.save([torch.zeros(3)], tmp_path / "latents.pt")
    assert describe(read_checkpoint(tmp_path / "latents.pt")) is None
    inpainting = single("1.x")
    inpainting["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(8, 9)
    save_file(inpainting, path)
    facts = describe(read_checkpoint(path))
    assert facts is not None
    assert facts["teacher"].startswith("not supported: ") and "9 channels" in facts["teacher"]
