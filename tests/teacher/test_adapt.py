"""LoRAs and VAEs beside a teacher, number by number against W + scale · α/r · B A in float64."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from original_layout import original_unet, original_vae
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdd_fast.checkpoints.load import load_generator
from sdd_fast.checkpoints.stable_diffusion import A_LORA, A_VAE
from sdd_fast.cli.describe import describe
from sdd_fast.teacher.lora import split_scale
from sdd_fast.teacher.prior import DiffusionPrior

RANK, ALPHA, SCALE = 3, 1.5, 0.7
NETWORKS = ("unet", "text_encoder", "text_encoder_2")


def layers(prior: DiffusionPrior, **only: str) -> dict[tuple[str, str], Any]:
    """Every linear layer and convolution, or those whose names match, by network and name."""
    return {
        (network, name.removeprefix("text_model.")): module
        for network in NETWORKS
        if getattr(prior, network) is not None
        for name, module in getattr(prior, network).named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and re.search(only.get(network, ""), name)
    }


def factors(module: Any, seed: int) -> tuple[Tensor, Tensor]:
    """A [r, in, …] and B [out, r, …] of a layer."""
    rng = torch.Generator().manual_seed(seed)
    a = torch.randn(RANK, *module.weight.shape[1:], generator=rng)
    ones = (1,) * (module.weight.ndim - 2)
    return a, torch.randn(len(module.weight), RANK, *ones, generator=rng)


def check(
    path: Path, made: dict[tuple[str, str], tuple[Tensor, Tensor]], factor: float, source: Path
) -> None:
    """Compare a teacher with the LoRA to one without; what the LoRA does not name is as it was."""
    plain = DiffusionPrior.from_pretrained(source, dtype=torch.float64)
    prior = DiffusionPrior.from_pretrained(source, dtype=torch.float64, lora=f"{path}:{SCALE}")
    for network in NETWORKS:
        if getattr(plain, network) is None:
            continue
        before, after = (getattr(p, network).state_dict() for p in (plain, prior))
        for key, weight in before.items():
            name = key.removeprefix("text_model.").removesuffix(".weight")
            if (network, name) in made and key.endswith(".weight"):
                a, b = (t.double() for t in made[network, name])
                change = torch.einsum("or,r...->o...", b.flatten(1), a).view_as(weight)
                expected = weight + SCALE * factor * change
                torch.testing.assert_close(after[key], expected, rtol=1e-12, atol=1e-12)
                assert not torch.equal(after[key], weight)
            else:
                assert torch.equal(after[key], weight), key


# ── layouts ───────────────────────────────────────────────────────────────────────────────────────


def numbered(found: dict[tuple[str, str], Any]) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    return {key: factors(module, i) for i, (key, module) in enumerate(found.items())}


def test_kohya_names_of_sd1(tiny_sd: Path, tiny_prior: DiffusionPrior, tmp_path: Path) -> None:
    """Every layer, convolutions of 3 × 3 too, with an alpha of its own beside each."""
    made = numbered(layers(tiny_prior))
    tensors = {}
    for i, ((network, name), (a, b)) in enumerate(made.items()):
        start = "lora_unet_" if network == "unet" else "lora_te_text_model_"
        joined = start + name.replace(".", "_")
        tensors |= {
            f"{joined}.lora_down.weight": a,
            f"{joined}.lora_up.weight": b / 2 ** (i % 3),
            f"{joined}.alpha": torch.tensor(ALPHA * 2 ** (i % 3)),
        }
    save_file(tensors, tmp_path / "lora.safetensors", {"ss_network_dim": "3"})
    check(tmp_path / "lora.safetensors", made, ALPHA / RANK, tiny_sd)


def test_kohya_names_of_sdxl(tiny_sdxl: Path, tiny_xl64: DiffusionPrior, tmp_path: Path) -> None:
    """Where kohya trains SDXL, the U-Net's layers have their original names."""
    made = numbered(layers(tiny_xl64))
    state = tiny_xl64.unet.state_dict()
    numbers = {key: torch.tensor(i) for i, key in enumerate(state)}

    class Unet:
        config = tiny_xl64.unet.config

        def state_dict(self) -> dict[str, Tensor]:
            return numbers

    keys = list(state)
    original = {keys[int(t)]: key for key, t in original_unet(Unet()).items()}
    tensors = {}
    for (network, name), (a, b) in made.items():
        if network == "unet":
            joined = original[name + ".weight"].removeprefix("model.diffusion_model.")
            joined = "lora_unet_" + joined.removesuffix(".weight").replace(".", "_")
        else:
            start = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}[network]
            middle = "" if name == "text_projection" else "text_model_"
            joined = start + middle + name.replace(".", "_")
        tensors |= {f"{joined}.lora_down.weight": a, f"{joined}.lora_up.weight": b}
        tensors[f"{joined}.alpha"] = torch.tensor(ALPHA)
    torch.save(tensors, tmp_path / "lora.pt")
    check(tmp_path / "lora.pt", made, ALPHA / RANK, tiny_sdxl)


ATTENTION = {"unet": r"attn\d\.to_", "text_encoder": "self_attn", "text_encoder_2": "self_attn"}


@pytest.mark.parametrize("metadata", [None, {"lora_alpha": ALPHA}, {"lora_alpha": ALPHA, "rs": 1}])
def test_diffusers_names(metadata, tiny_sdxl: Path, tiny_xl64: DiffusionPrior, tmp_path) -> None:
    """As save_lora_weights writes them, α in the metadata, or, if nothing is said, r."""
    made = numbered(layers(tiny_xl64, **ATTENTION))
    tensors = {}
    for (network, name), (a, b) in made.items():
        middle = "" if network == "unet" else "text_model."
        tensors[f"{network}.{middle}{name}.lora_A.weight"] = a
        tensors[f"{network}.{middle}{name}.lora_B.weight"] = b
    header, factor = {"format": "pt"}, 1.0
    if metadata:
        told = {
            f"{network}.{key}": value
            for network in NETWORKS
            for key, value in {
                "r": RANK, "lora_alpha": ALPHA, "use_rslora": "rs" in metadata, "use_dora": False,
            }.items()
        }  # fmt: skip
        header["lora_adapter_metadata"] = json.dumps(told)
        factor = ALPHA / (RANK**0.5 if "rs" in metadata else RANK)
    (tmp_path / "lora").mkdir()
    save_file(tensors, tmp_path / "lora/pytorch_lora_weights.safetensors", header)
    check(tmp_path / "lora", made, factor, tiny_sdxl)


def test_patterns_of_alpha(tiny_sd: Path, tiny_prior: DiffusionPrior, tmp_path: Path) -> None:
    """peft's folder: α by the end of a layer's name."""
    made = numbered(layers(tiny_prior, unet=r"attn2\.to_[qk]$", text_encoder="^$"))
    tensors = {}
    for (_, name), (a, b) in made.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    first = next(name for network, name in made if name.endswith("to_q"))
    config = {"r": RANK, "lora_alpha": 6}
    config["alpha_pattern"] = {
        "^attn2.to_k$": 7,  # the whole name
        f"^{first}": 2,
        r"attn2\.to_q$": 2,
        "o_k": 7,  # no name between points
        "to_k": 2,
        "attn2.to_k": 7,  # the first that fits is meant
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    check(tmp_path, made, 2 / RANK, tiny_sd)


def test_early_names_of_diffusers(tiny_sd: Path, tiny_prior: DiffusionPrior, tmp_path) -> None:
    made = numbered(layers(tiny_prior, **ATTENTION))
    tensors = {}
    for (network, name), (a, b) in made.items():
        if network == "unet":
            name = re.sub(r"(attn\d)\.to_(\w+)(\.0)?$", r"\1.processor.to_\2_lora", name)
        else:
            name = "text_model." + re.sub(r"(\w+)_proj$", r"to_\1_lora", name)
        tensors |= {f"{network}.{name}.down.weight": a, f"{network}.{name}.up.weight": b}
    save_file(tensors, tmp_path / "lora.safetensors")
    check(tmp_path / "lora.safetensors", made, 1.0, tiny_sd)
    later = {
        key.replace("to_q_lora.", "q_proj.lora_linear_layer."): t
        for key, t in tensors.items()
        if "to_q_lora" in key and key.startswith("text_encoder")
    }
    save_file(later, tmp_path / "lora.safetensors")
    some = {key: ab for key, ab in made.items() if key[0] != "unet" and "q_proj" in key[1]}
    check(tmp_path / "lora.safetensors", some, 1.0, tiny_sd)


def half_ulp(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """How far a number that is rounded to a dtype may be from itself."""
    _, exponent = torch.frexp(exact)  # of a number of 0.5 … 1
    return torch.finfo(dtype).eps / 4 * 2.0 ** exponent.double()


def test_several_loras_add_up_and_half_precision_rounds_once(
    tiny_sd: Path, tiny_prior: DiffusionPrior, tmp_path: Path
) -> None:
    name, module = next(
        (name, m) for (n, name), m in layers(tiny_prior).items() if n == "unet" and "to_q" in name
    )
    given, change = [], torch.zeros_like(module.weight).double()
    for i, scale in enumerate((0.5, -2.0)):
        a, b = factors(module, i)
        path = tmp_path / f"{i}:odd name.safetensors"
        save_file({f"unet.{name}.lora_A.weight": a, f"unet.{name}.lora_B.weight": b}, path)
        given.append(f"{path}:{scale}")
        change += scale * (b.double() @ a.double())
    prior = DiffusionPrior.from_pretrained(tiny_sd, lora=given)
    fused, exact = prior.unet.get_submodule(name).weight, module.weight.double() + change
    torch.testing.assert_close(fused.double(), exact, atol=1e-5, rtol=0)
    for dtype in (torch.bfloat16, torch.float16):  # of float32 weights as they are in the files
        half = DiffusionPrior.from_pretrained(tiny_sd, lora=given, dtype=dtype)
        assert half.dtype == half.vae.dtype == half.text_encoder.dtype == dtype
        fused = half.unet.get_submodule(name).weight
        assert bool(((fused.double() - exact).abs() <= 1.01 * half_ulp(exact, dtype)).all())
        untouched = half.unet.conv_in.weight
        assert torch.equal(untouched, tiny_prior.unet.conv_in.weight.to(dtype))
    # A pipeline has its weights in half precision.
    parts = {k: getattr(half, k) for k in ("vae", "unet", "text_encoder", "tokenizer", "scheduler")}
    pipeline = StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    exact = fused.double() + change
    again = DiffusionPrior.from_pretrained(pipeline, lora=given).unet.get_submodule(name).weight
    assert again.dtype == torch.float16
    assert bool(((again.double() - exact).abs() <= 1.01 * half_ulp(exact, torch.float16)).all())


# ── what is refused ───────────────────────────────────────────────────────────────────────────────


def test_loras_that_do_not_fit(tiny_sd: Path, tiny_prior: DiffusionPrior, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"

    def refused(tensors: dict[str, Tensor], message: str, header: dict[str, str] | None = None):
        save_file(tensors, path, header)
        with pytest.raises(ValueError, match=message):
            DiffusionPrior.from_pretrained(tiny_sd, lora=path)

    start = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    a, b = torch.zeros(2, 32), torch.zeros(32, 2)
    good = {f"{start}.lora_A.weight": a, f"{start}.lora_B.weight": b}
    refused({k.replace("blocks.1", "blocks.7"): t for k, t in good.items()}, "unet has no layer do")
    refused(good | {f"{start}.lora_A.weight": torch.zeros(2, 33)}, r"A \[2, 33\] and B \[32, 2\]")
    refused(good | {f"{start}.lora_A.weight": torch.zeros(3, 32)}, r"do not make \[32, 32\]")
    refused({f"{start}.lora_B.weight": b}, "A none and B")
    refused(
        good | {f"{start}.lora_magnitude_vector": torch.zeros(32)}, "not supported .DoRA.*magnitude"
    )
    refused(good | {f"{start}.dora_scale": torch.zeros(32)}, "not supported .DoRA.*dora_scale")
    refused({"lora_unet_mid_block_x.hada_w1_a": a}, "is a LoRA.*expected a LoRA|not supported")
    header = {"lora_adapter_metadata": json.dumps({"unet.use_dora": True})}
    refused(good, "a LoRA with unet.use_dora, which is not supported", header)
    refused({k.replace("unet.", "text_encoder_2."): t for k, t in good.items()}, "text_encoder_2")
    refused({"first_stage_model.encoder.x": a}, "is a VAE, one part .*expected a LoRA")
    with pytest.raises(FileNotFoundError, match="nothing.safetensors does not exist.*FILE:scale"):
        DiffusionPrior.from_pretrained(tiny_sd, lora=tmp_path / "nothing.safetensors:2")
    with pytest.raises(ValueError, match="must be a finite number"):
        split_scale(f"{path}:nan")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="is no folder of one LoRA"):
        DiffusionPrior.from_pretrained(tiny_sd, lora=tmp_path / "empty")


def test_several_loras_in_one_file(tiny_sd: Path, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    joined = "lora_unet_" + name.removeprefix("unet.").replace(".", "_")
    a, b = torch.ones(2, 32), torch.ones(32, 2)

    def of(*starts: str, between: str = "") -> dict[str, Tensor]:
        return {
            f"{start}.lora_{side}{between}.weight": tensor.clone()
            for start in starts
            for side, tensor in (("A", a), ("B", b))
        }

    kohya = {f"{joined}.lora_down.weight": a, f"{joined}.lora_up.weight": b}
    for tensors, told in (
        (of(name, between=".style") | of(name, between=".face"), "several LoRAs .face, style."),
        (of(name) | of(name.replace("to_q", "to_k"), between=".face"), "face, one without a name"),
        (of(name) | {f"{name}.lora.down.weight": a}, "some layers are there twice"),
        (of(name) | kohya, r"several LoRAs .mid_block.* by another name"),
    ):
        save_file(tensors, path)
        with pytest.raises(ValueError, match=f"{told}.* file of its own .*--lora FILE:scale"):
            DiffusionPrior.from_pretrained(tiny_sd, lora=path)
    save_file(of(name, between=".style"), path)
    weight = DiffusionPrior.from_pretrained(tiny_sd, lora=path).unet.get_submodule(name[5:]).weight
    plain = DiffusionPrior.from_pretrained(tiny_sd).unet.get_submodule(name[5:]).weight
    torch.testing.assert_close(weight - plain, torch.full_like(plain, 2.0))


def test_damaged_loras(tiny_sd: Path, tmp_path: Path) -> None:
    """Each field that is read says what is wrong with it, and of which file."""
    path = tmp_path / "adapter_model.safetensors"
    start = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    a, b = torch.ones(2, 32), torch.ones(32, 2)

    def refused(
        message: str, a: Tensor = a, b: Tensor = b, alpha: Tensor | None = None, **metadata: Any
    ) -> None:
        tensors = {f"{start}.lora_A.weight": a, f"{start}.lora_B.weight": b}
        tensors |= {} if alpha is None else {f"{start}.alpha": alpha}
        header = {f"unet.{key}": value for key, value in metadata.items()}
        save_file(tensors, path, {"lora_adapter_metadata": json.dumps(header)} if header else None)
        with pytest.raises(ValueError, match=message):
            DiffusionPrior.from_pretrained(tiny_sd, lora=path)

    refused(r"A \[0, 32\] and B \[32, 0\]", a[:0], b[:, :0])
    refused(r"A \[2, 32\] and B \[32\] do not", b=b[:, 0].clone())
    refused(r"A \[2, 32\] and B \[\] do not", b=torch.tensor(1.0))
    refused("the LoRA .*adapter_model.safetensors holds NaN", a * float("nan"))
    refused("the LoRA .*adapter_model.safetensors holds NaN", alpha=torch.tensor(float("inf")))
    refused("are neither A", a.to(torch.complex64))
    refused("quantized.*are neither A", a.to(torch.int8))
    for wrong in (0.5, [0.5, path], {"a": path}):
        with pytest.raises(TypeError, match="a LoRA is given as a path or 'FILE:scale', got"):
            DiffusionPrior.from_pretrained(tiny_sd, lora=wrong)
    for value in ("x", [1], {}, True, 10**200):
        refused("adapter_metadata in .*: unet.lora_alpha must be a finite number", lora_alpha=value)
    slow = r"(\w+\.?)+!"  # on any name of a layer: longer than anybody waits
    for value in (["x"], "x", {"(": 1}, {"to_q": "x"}, {"to_q": None}, {slow: 1}, {".*to_q": 1}):
        refused("unet.alpha_pattern must be an object of a number for each", alpha_pattern=value)
    refused("unet.use_rslora must be true or false, got 'no'", use_rslora="no")
    config = tmp_path / "adapter_config.json"
    for text, message in (("[]", "expected an object"), ('{"lora_alpha": "4"}', "got '4'")):
        config.write_text(text, encoding="utf-8")
        refused(f"adapter_config.json: .*{message}")


def test_in_the_place_of_a_teacher_or_generator_they_are_named(
    tiny_sd: Path, tmp_path: Path
) -> None:
    path = tmp_path / "file.safetensors"
    lora = "a LoRA, which changes a diffusion model: .*--lora FILE"
    vae = "a VAE, one part of a diffusion model: .*--vae FILE"
    for key, message in (
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight", lora),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a", lora),
        ("unet.mid_block.attentions.0.proj_in.lora_A.weight", lora),
        ("text_encoder.text_model.x.q_proj.lora_linear_layer.up.weight", lora),
        ("unet.mid_block.attn1.processor.to_q_lora.down.weight", lora),
        ("base_model.model.mid_block.x.lora_B.weight", lora),
        ("first_stage_model.encoder.conv_in.weight", vae),
        ("encoder.down.0.block.0.conv1.weight", vae),
        ("encoder.down_blocks.0.resnets.0.conv1.weight", vae),
    ):
        save_file({key: torch.zeros(2, 2)}, path)
        for load in (DiffusionPrior.from_pretrained, load_generator):
            with pytest.raises(ValueError, match=message):
                load(path)
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    with pytest.raises(FileNotFoundError, match=f"has no model_index.json: it holds {lora}"):
        DiffusionPrior.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"has no model_index.json: it holds {vae}"):
        DiffusionPrior.from_pretrained(tiny_sd / "vae")
    assert describe(tmp_path)["holds"] == A_LORA and describe(tiny_sd / "vae")["holds"] == A_VAE
    assert describe(path)["holds"] == A_VAE


# ── another VAE ───────────────────────────────────────────────────────────────────────────────────


def test_a_vae_in_every_layout(tiny_sd: Path, tmp_path: Path) -> None:
    other = DiffusionPrior.from_pretrained(tiny_sd).vae
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    named = original_vae(other)
    bare = {key.removeprefix("first_stage_model."): t.contiguous() for key, t in named.items()}
    save_file({key: t.contiguous() for key, t in named.items()}, tmp_path / "named.safetensors")
    save_file(bare | {"loss.logvar": torch.zeros(1)}, tmp_path / "bare.safetensors")
    torch.save({"state_dict": bare, "epoch": 3}, tmp_path / "bare.ckpt")
    other.save_pretrained(tmp_path / "folder")
    saved = tmp_path / "folder/diffusion_pytorch_model.safetensors"
    save_file(load_file(saved), tmp_path / "renamed.safetensors")
    half = {key: t.half() for key, t in load_file(tiny_sd / "vae" / saved.name).items()}
    save_file(half, saved.with_suffix(".fp16.safetensors"))  # another, which was not asked for
    (tmp_path / "whole").mkdir()
    other.save_pretrained(tmp_path / "whole/vae")
    expected = other.state_dict()
    for given in (
        "named.safetensors", "bare.safetensors", "bare.ckpt", "folder", "renamed.safetensors",
        "folder/diffusion_pytorch_model.safetensors", "whole",
    ):  # fmt: skip
        with pytest.warns(UserWarning, match="VAE .* makes other latents than the teacher's own"):
            prior = DiffusionPrior.from_pretrained(tiny_sd, vae=tmp_path / given)
        state = prior.vae.state_dict()
        assert all(torch.equal(state[key], expected[key]) for key in expected), given
        assert prior.vae.config.scaling_factor == 0.18215
    named = DiffusionPrior.from_pretrained(tiny_sd, vae=saved.with_suffix(".fp16.safetensors"))
    assert torch.equal(named.vae.quant_conv.weight, half["quant_conv.weight"].float())
    with pytest.warns(UserWarning, match="other latents"):
        bf16 = DiffusionPrior.from_pretrained(
            tiny_sd, vae=tmp_path / "bare.ckpt", dtype=torch.bfloat16
        )
    assert bf16.vae.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_vae_whose_latents_are_the_teacher_s(
    tiny_sd: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    """It was trained further, the decoder alone or all of it."""
    path = tmp_path / "better.safetensors"
    tensors = load_file(tiny_sd / "vae/diffusion_pytorch_model.safetensors")
    rng = torch.Generator().manual_seed(0)
    for key, weight in tensors.items():
        noise = torch.randn(weight.shape, generator=rng)
        weight.mul_(1 + (0.5 if key.startswith("decoder") else 0.01) * noise)
    save_file(tensors, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior = DiffusionPrior.from_pretrained(tiny_sd, vae=path, dtype=dtype)
    weight = prior.vae.decoder.conv_in.weight
    assert torch.equal(weight, tensors["decoder.conv_in.weight"].to(dtype))


def test_vaes_that_do_not_fit(tiny_sd: Path, tiny_sdxl: Path, tmp_path: Path) -> None:
    def refused(given: Path, message: str, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error, match=message):
            DiffusionPrior.from_pretrained(tiny_sd, vae=given)

    refused(tiny_sdxl / "vae", "scaling_factor of 0.13025, the teacher's own 0.18215.*family")
    refused(tmp_path / "nothing", "VAE .*nothing does not exist", FileNotFoundError)
    refused(tmp_path, "is no VAE: expected config.json", FileNotFoundError)
    odd = Path(shutil.copytree(tiny_sd / "vae", tmp_path / "odd"))
    config = json.loads((odd / "config.json").read_text(encoding="utf-8"))
    (odd / "config.json").write_text(json.dumps(config | {"scaling_factor": None}))
    refused(odd, "scaling_factor is None; expected a positive number")
    named = original_vae(DiffusionPrior.from_pretrained(tiny_sd).vae)
    marks = (
        "model.diffusion_model.input_blocks.0.0.weight",
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
        "conditioner.embedders.1.model.token_embedding.weight",
    )
    whole = {key: t.contiguous() for key, t in named.items()} | dict.fromkeys(marks, torch.ones(1))
    torch.save(whole, tmp_path / "xl.ckpt")
    refused(tmp_path / "xl.ckpt", "scaling_factor of 0.13025, the teacher's own 0.18215.*family")
    path = tmp_path / "file.safetensors"
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(2, 2)}, path)
    refused(path, "is a LoRA, .*expected a VAE")
    tensors = load_file(tiny_sd / "vae/diffusion_pytorch_model.safetensors")
    del tensors["quant_conv.bias"]
    save_file(tensors, path)
    refused(path, "(?s)file.safetensors: .*missing: vae.quant_conv.bias")
