"""Weights in every form that folders have them in: the same network, or an error that names it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdd_fast.teacher.folder import describe_folder
from sdd_fast.teacher.prior import DiffusionPrior

WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}


@pytest.fixture
def folder(tiny_sdxl: Path, tmp_path: Path) -> Path:
    """A private copy of the folder, to change."""
    return Path(shutil.copytree(tiny_sdxl, tmp_path / "sd"))


def rewrite(folder: Path, part: str, change: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    path = folder / part / f"{WEIGHTS[part]}.safetensors"
    tensors = {key: change(key, t).contiguous() for key, t in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return tensors


def weights_of(network: Any) -> dict[str, Tensor]:
    return {key.removeprefix("text_model."): t for key, t in network.state_dict().items()}


def assert_is(network: Any, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    state = weights_of(network)
    expected = {k.removeprefix("text_model."): t for k, t in tensors.items()}
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {dtype}
    assert all(torch.equal(state[key], expected[key].to(dtype)) for key in expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float16, torch.float8_e4m3fn])
def test_mixed_dtypes_become_the_one_that_was_asked_for(
    stored: torch.dtype, dtype: torch.dtype, folder: Path
) -> None:
    """Norms and biases in float32 beside smaller matrices, as mixed-precision tools write them."""
    written = {
        part: rewrite(folder, part, lambda key, t: t.to(stored) if t.ndim > 1 else t)
        for part in WEIGHTS
    }
    prior = DiffusionPrior.from_pretrained(folder, dtype=dtype)
    for part, tensors in written.items():
        assert_is(getattr(prior, part), tensors, dtype)
    z = prior.encode(torch.zeros(1, 3, 32, 32))
    assert prior.predict_noise(z, 5, prior.encode_prompt("old"), 2.0).isfinite().all()


def test_given_networks_of_mixed_dtypes_are_made_uniform(folder: Path) -> None:
    for kinds, expected in (
        ((torch.float16, torch.float32), torch.float32),
        ((torch.float8_e4m3fn, torch.float16), torch.float16),
        ((torch.bfloat16, torch.float16), torch.float32),
        ((torch.float8_e5m2, torch.float8_e5m2), torch.float32),
    ):
        parts = DiffusionPrior.from_pretrained(folder)
        for name, parameter in parts.unet.named_parameters():
            parameter.data = parameter.data.to(kinds["norm" in name])
        prior = DiffusionPrior(
            parts.vae, parts.unet, parts.text_encoder, parts.tokenizer, parts.scheduler,
            parts.text_encoder_2, parts.tokenizer_2,
        )  # fmt: skip
        assert {p.dtype for p in prior.unet.parameters()} == {expected} == {prior.dtype}


def test_quantized_weights_are_named(folder: Path) -> None:
    rewrite(folder, "unet", lambda key, t: t.to(torch.int8) if key == "conv_in.weight" else t)
    with pytest.raises(ValueError, match="conv_in.weight is torch.int8, as if quantized"):
        DiffusionPrior.from_pretrained(folder)


def test_a_variant_is_taken_part_by_part(folder: Path) -> None:
    unet = folder / "unet/diffusion_pytorch_model.safetensors"
    halved = {key: t / 2 for key, t in load_file(unet).items()}
    save_file(halved, unet.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    vae = folder / "vae/diffusion_pytorch_model.safetensors"
    vae.rename(vae.with_suffix(".fp16.safetensors"))
    plain = DiffusionPrior.from_pretrained(folder)
    prior = DiffusionPrior.from_pretrained(folder, variant="fp16")
    assert torch.equal(prior.unet.conv_in.weight, plain.unet.conv_in.weight / 2)
    assert torch.equal(prior.vae.quant_conv.weight, plain.vae.quant_conv.weight)
    with pytest.raises(FileNotFoundError, match="no weights of the variant 'bf16' in any part"):
        vae.with_suffix(".fp16.safetensors").rename(vae)
        DiffusionPrior.from_pretrained(folder, variant="bf16")


def test_pickled_weights_are_read_without_running_anything(folder: Path, tmp_path: Path) -> None:
    written = {}
    for part, stem in WEIGHTS.items():
        path = folder / part / f"{stem}.safetensors"
        written[part] = load_file(path)
        name = "pytorch_model" if part.startswith("text") else stem
        torch.save(written[part], folder / part / f"{name}.bin")
        path.unlink()
    prior = DiffusionPrior.from_pretrained(folder)
    for part, tensors in written.items():
        assert_is(getattr(prior, part), tensors, torch.float32)
    assert describe_folder(folder)["weights"] == "plain (.bin)"
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {marker}",)

    torch.save({"conv_in.weight": Evil()}, folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="(?s)could not load unet/.*system"):
        DiffusionPrior.from_pretrained(folder)
    assert not marker.exists()


def test_the_attention_of_early_vaes(folder: Path) -> None:
    """diffusers before 0.17 called the projections query, key, value and proj_attn."""
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    expected = load_file(path)
    early = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, tensor in expected.items():
        for now, then in early.items():
            key = key.replace(f".attentions.0.{now}.", f".attentions.0.{then}.")
        renamed[key] = tensor
    assert renamed.keys() != expected.keys()
    save_file(renamed, path, metadata={"format": "pt"})
    assert_is(DiffusionPrior.from_pretrained(folder).vae, expected, torch.float32)


def test_a_folder_saved_with_an_active_lora_is_named(folder: Path) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith("attn1.to_q.weight"))
    tensors[key.replace(".weight", ".base_layer.weight")] = tensors.pop(key)
    tensors[key.replace(".weight", ".lora_A.default.weight")] = torch.zeros(2, 64)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="(?s)unet/.*while a LoRA was active.*fuse_lora.*--lora"):
        DiffusionPrior.from_pretrained(folder)


def test_a_part_of_another_class_is_named(folder: Path, tiny_sdxl: Path) -> None:
    shutil.copy(folder / "unet/config.json", folder / "vae/config.json")
    with pytest.raises(
        ValueError, match="config.json is of class UNet2DConditionModel; expected Auto"
    ):
        DiffusionPrior.from_pretrained(tiny_sdxl, vae=folder / "vae")


def test_the_path_of_the_index_means_its_folder(tiny_sd: Path, tiny_prior: DiffusionPrior) -> None:
    prior = DiffusionPrior.from_pretrained(tiny_sd / "model_index.json")
    assert torch.equal(prior.unet.conv_in.weight, tiny_prior.unet.conv_in.weight)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("content", ["[1]", "{}", '{"block_out_channels": null}', '{"a": '])
def test_damaged_configs(part: str, content: str, tiny_sd: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sd, tmp_path / "sd"))
    (folder / part / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=str(folder)):
        DiffusionPrior.from_pretrained(folder)


def test_a_config_that_claims_endless_layers(tiny_sd: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sd, tmp_path / "sd"))
    config = folder / "text_encoder/config.json"
    text = config.read_text("utf-8")
    config.write_text(text.replace('"num_hidden_layers": 2', '"num_hidden_layers": 1000000000'))
    with pytest.raises(ValueError, match="could not load text_encoder/.*more layers than the file"):
        DiffusionPrior.from_pretrained(folder)
