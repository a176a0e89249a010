"""Single files in the original layout: the folder's teacher, or an error that explains."""

from __future__ import annotations

import os
import random
import re
import socket
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from original_layout import original_file
from safetensors.torch import load_file, save_file
from sd_families import FAMILIES, RESOLUTION, SCALING_FACTOR, write_family_folder
from torch import Tensor

from sdd_fast.checkpoints import ldm
from sdd_fast.checkpoints.formats.read import Checkpoint
from sdd_fast.checkpoints.stable_diffusion import build_networks, family_of, predicts_noise
from sdd_fast.teacher import single_file
from sdd_fast.teacher.prior import DiffusionPrior

NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def folders(
    tiny_sd2: Path, tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    one = write_family_folder(tmp_path_factory.mktemp("tiny_sd1") / "sd", "1.x")
    return {"1.x": one, "2.x": tiny_sd2, "XL": tiny_sdxl}


@pytest.fixture(scope="module")
def priors(folders: dict[str, Path]) -> dict[str, DiffusionPrior]:
    return {family: DiffusionPrior.from_pretrained(path) for family, path in folders.items()}


@pytest.fixture(scope="module")
def files(priors: dict[str, DiffusionPrior]) -> dict[str, dict[str, Tensor]]:
    """The tensors of one file of each family. Copy before changing."""
    networks = {
        family: {name: getattr(prior, name) for name in NETWORKS if getattr(prior, name)}
        for family, prior in priors.items()
    }
    return {family: original_file(family, networks[family]) for family in FAMILIES}


def assert_same_weights(ours: Any, theirs: Any) -> None:
    expected, state = theirs.state_dict(), ours.state_dict()
    assert state.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(state[key], expected[key])] == []


# ── the same teacher ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_is_the_same_teacher_as_the_folder(
    family: str, folders: dict[str, Path], priors: dict[str, DiffusionPrior], files, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(files[family], path)
    expected = priors[family]
    prior = DiffusionPrior.from_pretrained(path, tokenizer=folders[family])
    for name in NETWORKS:
        if getattr(expected, name) is not None:
            assert_same_weights(getattr(prior, name), getattr(expected, name))
            assert not any(p.requires_grad for p in getattr(prior, name).parameters())
    assert prior.resolution == RESOLUTION[family]
    assert prior.prediction_type == expected.prediction_type
    assert prior.vae.config.scaling_factor == SCALING_FACTOR[family]
    assert prior.force_zeros_for_empty_prompt == expected.force_zeros_for_empty_prompt
    assert torch.equal(prior.alphas_cumprod, expected.alphas_cumprod)
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = (
            p.predict_noise(z, [50, 700], p.encode_prompt(["white hair", "old"], "hair"), 4.0)
            for p in (prior, expected)
        )
    torch.testing.assert_close(ours, theirs)
    ignored = {"sample_size", "transformer_layers_per_block"}  # told apart above; 1 or [1, 1, 1]
    for name in ("unet", "vae"):
        config = dict(getattr(prior, name).config)
        wanted = dict(getattr(expected, name).config)
        differ = {
            k for k in wanted if not k.startswith("_") and _tuple(wanted[k]) != _tuple(config[k])
        }
        assert differ <= ignored


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_is_the_one_that_diffusers_converts(
    family: str, folders: dict[str, Path], priors: dict[str, DiffusionPrior], files
) -> None:
    """Guards the tests' own writer: diffusers reads from it what the folder holds."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm

    expected, folder = priors[family], str(folders[family])
    for name, network in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        made = network.from_single_file(dict(files[family]), config=folder, subfolder=name)
        assert_same_weights(made, getattr(expected, name))
    for name in ("text_encoder", "text_encoder_2"):
        if (encoder := getattr(expected, name)) is not None:
            made = create_diffusers_clip_model_from_ldm(
                type(encoder),
                checkpoint=dict(files[family]),
                config=folder,
                subfolder=name,
                local_files_only=True,
            )
            assert_same_weights(made, encoder)


def test_half_precision_files_and_older_names(
    folders: dict[str, Path], priors: dict[str, DiffusionPrior], files, tmp_path: Path
) -> None:
    """Pruned to float16, without the level "text_model", the VAE's attention already linear."""
    tensors = {
        key.replace("transformer.text_model.", "transformer."): t.half()
        for key, t in files["1.x"].items()
        if not key.startswith(("betas", "model_ema"))
    }
    for key in [k for k in tensors if "mid.attn_1" in k and tensors[k].ndim == 4]:
        tensors[key] = tensors[key][:, :, 0, 0].contiguous()
    path = tmp_path / "pruned.safetensors"
    save_file(tensors, path)
    prior = DiffusionPrior.from_pretrained(path, tokenizer=folders["1.x"], dtype=torch.bfloat16)
    for name in ("unet", "vae", "text_encoder"):
        for key, tensor in getattr(prior, name).state_dict().items():
            assert tensor.dtype == torch.bfloat16
            exact = getattr(priors["1.x"], name).state_dict()[key]
            assert torch.equal(tensor, exact.half().bfloat16())


# ── .ckpt ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class by the name under which PyTorch Lightning keyed its callbacks."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    made = type("ModelCheckpoint", (), {"__module__": name})
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    sys.modules[name].ModelCheckpoint = made  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("legacy", [False, True])
def test_ckpt_with_what_lightning_left(
    legacy: bool,
    folders: dict[str, Path],
    priors: dict[str, DiffusionPrior],
    files,
    tmp_path: Path,
    lightning: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = {
        "epoch": 25,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": files["1.x"],
        "callbacks": {lightning: {"monitor": "val/loss", "best_model_score": torch.tensor(0.14)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
        "lr_schedulers": [{"last_epoch": 470000, "lr_lambdas": [None]}],
    }
    path = tmp_path / "model.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    for part in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        monkeypatch.delitem(sys.modules, part)
    prior = DiffusionPrior.from_pretrained(path, tokenizer=folders["1.x"])
    assert not any(name.startswith("pytorch_lightning") for name in sys.modules)
    for name in ("unet", "vae", "text_encoder"):
        assert_same_weights(getattr(prior, name), getattr(priors["1.x"], name))


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_ckpt_that_would_run_a_command(files, folders, tmp_path: Path) -> None:
    path, marker = tmp_path / "model.ckpt", tmp_path / "executed"
    torch.save({"state_dict": files["1.x"], "callbacks": _Evil(marker)}, path)
    with pytest.raises(ValueError, match="system"):
        DiffusionPrior.from_pretrained(path, tokenizer=folders["1.x"])
    assert not marker.exists()


# ── every tensor is accounted for ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", FAMILIES)
def test_all_problems_are_listed(family: str, files, folders, tmp_path: Path) -> None:
    tensors = dict(files[family])
    text, weights = {
        "1.x": (
            "cond_stage_model.transformer.text_model.final_layer_norm.weight",
            ["text_encoder.final_layer_norm.weight"],
        ),
        "2.x": (
            "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_bias",
            [f"text_encoder.encoder.layers.1.self_attn.{name}_proj.bias" for name in "qkv"],
        ),
        "XL": ("conditioner.embedders.1.model.text_projection",
               ["text_encoder_2.text_projection.weight"]),
    }[family]  # fmt: skip
    missing = {
        "model.diffusion_model.output_blocks.0.0.emb_layers.1.weight": [
            "unet.up_blocks.0.resnets.0.time_emb_proj.weight"
        ],
        "first_stage_model.decoder.mid.attn_1.proj_out.bias": [
            "vae.decoder.mid_block.attentions.0.to_out.0.bias"
        ],
        text: weights,
    }
    if family == "XL":  # diffusers takes this one for granted
        missing["model.diffusion_model.label_emb.0.2.bias"] = ["unet.add_embedding.linear_2.bias"]
    for key in missing:
        del tensors[key]
    tensors["model.diffusion_model.time_embed.2.weight"] = torch.zeros(3, 5)
    unexpected = ["control_model.time_embed.0.weight", "first_stage_model.more", "lora_unet_x"]
    tensors |= dict.fromkeys(unexpected, torch.zeros(1))
    path = tmp_path / "model.ckpt"
    torch.save(tensors, path)
    with pytest.raises(ValueError, match="does not fit Stable Diffusion") as caught:
        DiffusionPrior.from_pretrained(path, tokenizer=folders[family])
    lines = {line.strip() for line in str(caught.value).splitlines()[1:]}
    assert {line for line in lines if line.startswith("missing")} == {
        f"missing: {weight}" for weights in missing.values() for weight in weights
    }
    assert {line for line in lines if line.startswith("unexpected")} == {
        f"unexpected: {key}" for key in unexpected
    }
    shapes = [line for line in lines if line.startswith("shape")]
    assert len(shapes) == 1 and "unet.time_embedding.linear_2.weight" in shapes[0]
    assert "the file has [3, 5]" in shapes[0]
    assert f"({len(lines)} of its tensors)" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        (
            "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
            lambda t: t[0, 0],
        ),
        (
            "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_bias",
            lambda t: t[1:],
        ),
        ("conditioner.embedders.1.model.text_projection", lambda t: t[None]),
        ("first_stage_model.encoder.mid.attn_1.q.weight", lambda t: t.expand(-1, -1, 3, 3)),
        ("first_stage_model.encoder.mid.attn_1.norm.weight", lambda t: t[:, None, None, None]),
    ],
)
def test_a_misshapen_tensor_is_named_though_diffusers_takes_a_part_of_it(
    key: str, change, files
) -> None:
    tensors = files["XL"] | {key: change(files["XL"][key])}
    message = (
        rf"file does not fit Stable Diffusion.*\n?.*shape of {re.escape(key)}: the file has \["
    )
    with pytest.raises(ValueError, match=message):
        build_networks(Path("file"), tensors, "XL", torch.float32)


def test_a_tensor_that_tells_the_architecture_is_missing(files, folders, tmp_path: Path) -> None:
    tensors = dict(files["1.x"])
    del tensors["model.diffusion_model.out.2.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="lacks the tensor model.diffusion_model.out.2.weight"):
        single_file.load_single_file(tmp_path / "model.safetensors", tokenizer=folders["1.x"])


@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_shapes_and_names_give_value_errors(family: str, files) -> None:
    """Any tensor missing, renamed or of another shape is an error that names the file."""
    rng = random.Random(0)
    path = Path("model.safetensors")
    used = [k for k in files[family] if not ldm.IGNORED.fullmatch(k)]
    used = [k for k in used if ".resblocks.2." not in k or family == "XL"]  # SD 2.x leaves it out
    used = [k for k in used if not (k.endswith("text_projection") and family == "2.x")]
    used = [k for k in used if "embedding" not in k]  # tell how many tokens and positions there are
    for _ in range(20):
        tensors = dict(files[family])
        key = rng.choice(used)
        tensor = tensors.pop(key)
        kind = rng.randrange(5)
        if kind == 1:
            tensors[key] = torch.zeros(())
        elif kind == 2:
            tensors[key] = torch.cat([tensor, tensor[:1]])
        elif kind == 3:
            tensors[key] = tensor[None, :2]
        elif kind == 4:
            tensors[re.sub(r"\d", "123456789", key, count=1) + "x"] = tensor
        with pytest.raises(ValueError, match="model.safetensors"):
            if not (told := family_of(Checkpoint(path, "safetensors", tensors))):
                raise ValueError("model.safetensors holds something else")
            build_networks(path, tensors, told, torch.float32)


def test_a_truncated_file(files, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(files["1.x"], path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="model.safetensors is truncated"):
        DiffusionPrior.from_pretrained(path)


# ── what is no teacher ────────────────────────────────────────────────────────────────────────────


def one(*keys: str) -> dict[str, Tensor]:
    return {key: torch.zeros(1) for key in keys}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (one("model.diffusion_model.input_blocks.0.0.weight"), "it holds a U-Net. Expected"),
        (
            one("first_stage_model.encoder.conv_in.weight"),
            "it holds a VAE, one part .*--vae FILE.*. Expected",
        ),
        (
            one("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.model.x"),
            "it holds a U-Net and text encoders. Expected",
        ),
        (one("down_blocks.0.resnets.0.conv1.weight"), "a U-Net of diffusers' folder layout"),
        (
            one(
                "model.diffusion_model.input_blocks.0.0.weight",
                "conditioner.embedders.0.model.token_embedding.weight",
            ),
            "an SDXL refiner",
        ),
        (one("model.diffusion_model.joint_blocks.0.x_block.attn.proj.weight"), "SD3 and Flux"),
        (one("double_blocks.0.img_attn.proj.weight"), "SD3 and Flux"),
        (
            one("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"),
            "holds a LoRA, which .*--lora FILE",
        ),
        (one("something.else"), "it holds a"),
    ],
)
def test_other_files_are_named(content, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(content, path)
    with pytest.raises(ValueError, match=f"no complete Stable Diffusion.*{message}") as caught:
        DiffusionPrior.from_pretrained(path)
    assert "Stable Diffusion 1.x, 2.x and XL base" in str(caught.value)


def test_other_kinds_of_stable_diffusion(files, folders, tmp_path: Path) -> None:
    path, conv_in = tmp_path / "model.safetensors", "model.diffusion_model.input_blocks.0.0.weight"
    width = files["1.x"][conv_in].shape[0]
    save_file(files["1.x"] | {conv_in: torch.zeros(width, 9, 3, 3)}, path)
    with pytest.raises(ValueError, match="takes 9 channels but the VAE's latents have 4; inpaint"):
        DiffusionPrior.from_pretrained(path)
    save_file(files["XL"] | {"edm_mean": torch.zeros(1, 4, 1, 1)}, path)
    with pytest.raises(ValueError, match="an EDM model .such as Playground"):
        DiffusionPrior.from_pretrained(path)
    label = {key: t for key, t in files["XL"].items() if "label_emb" in key}
    label = {
        key: t[:128, ..., :128] if "0.2.weight" in key else t[:128] for key, t in label.items()
    }
    save_file(files["1.x"] | {key: t.contiguous() for key, t in label.items()}, path)
    with pytest.raises(ValueError, match="takes added conditions"):
        DiffusionPrior.from_pretrained(path, tokenizer=folders["1.x"])
    uneven = {
        key.replace("input_blocks.2.1.", "input_blocks.2.5."): t for key, t in files["1.x"].items()
    }
    save_file(uneven, path)
    with pytest.raises(
        ValueError, match=r"levels of unequal layers, or none: \[\[1, 0\].*supported: "
    ):
        DiffusionPrior.from_pretrained(path, tokenizer=folders["1.x"])


def test_options_that_do_not_apply(tiny_sd: Path, files, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(files["1.x"], path)
    with pytest.raises(ValueError, match="is a single file and has no variant 'fp16'"):
        DiffusionPrior.from_pretrained(path, variant="fp16")
    with pytest.raises(ValueError, match="tokenizer is for single files"):
        DiffusionPrior.from_pretrained(tiny_sd, tokenizer=tiny_sd)


# ── prediction type ───────────────────────────────────────────────────────────────────────────────


def predicting_its_input(unet: Any) -> dict[str, Tensor]:
    """Weights with which the U-Net answers every z_t with z_t (normalized), as if it were all ε.

    conv_in spreads the input as (z, −z) over 8 channels, the last block hands it on, and SiLU(z) −
    SiLU(−z) = z.
    """
    state = {key: torch.zeros_like(tensor) for key, tensor in unet.state_dict().items()}
    for c in range(4):
        state["conv_in.weight"][c, c, 1, 1] = 1
        state["conv_in.weight"][4 + c, c, 1, 1] = -1
        state["conv_out.weight"][c, c, 1, 1] = 1
        state["conv_out.weight"][c, 4 + c, 1, 1] = -1
    last = len(unet.config.block_out_channels) - 1
    layer = unet.config.layers_per_block
    width = unet.config.block_out_channels[0]
    shortcut = state[f"up_blocks.{last}.resnets.{layer}.conv_shortcut.weight"]
    shortcut[:, width:, 0, 0] = torch.eye(width)
    state["conv_norm_out.weight"].fill_(1)
    return state


def test_sd2_prediction_type_is_measured(files, folders, priors, tmp_path: Path) -> None:
    """The published 512 and 768 models of SD 2.x differ in nothing but their weights' values."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(priors["2.x"].unet.config)
    assert not predicts_noise(unet)
    unet.load_state_dict(predicting_its_input(unet))
    z = torch.randn(1, 4, 16, 16)
    text = torch.zeros(1, 77, 64)
    out = unet(z, 10, encoder_hidden_states=text).sample
    assert torch.cosine_similarity(out.flatten(), z.flatten(), dim=0) > 0.99  # the trick works
    assert predicts_noise(unet)
    networks = {"unet": unet, "vae": priors["2.x"].vae, "text_encoder": priors["2.x"].text_encoder}
    path = tmp_path / "512-base-ema.ckpt"
    torch.save({"state_dict": original_file("2.x", networks)}, path)
    prior = DiffusionPrior.from_pretrained(path, tokenizer=folders["2.x"])
    assert (prior.prediction_type, prior.resolution) == ("epsilon", 512)


@pytest.mark.parametrize(
    ("family", "marks", "metadata", "expected"),
    [
        ("1.x", [], {"modelspec.prediction_type": "v"}, ("v_prediction", 512)),
        ("2.x", [], {"modelspec.prediction_type": "epsilon"}, ("epsilon", 512)),
        ("2.x", [], {"modelspec.predict_key": "v"}, ("v_prediction", 768)),
        ("XL", ["v_pred"], {}, ("v_prediction", 1024)),
        ("XL", ["v_pred", "ztsnr"], {}, ("v_prediction", 1024)),
    ],
)
def test_declared_prediction_type(
    family: str, marks: list[str], metadata, expected, files, folders, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(files[family] | {mark: torch.zeros(0) for mark in marks}, path, metadata)
    prior = DiffusionPrior.from_pretrained(path, tokenizer=folders[family])
    assert (prior.prediction_type, prior.resolution) == expected
    assert (float(prior.alphas_cumprod[-1]) < 1e-6) == ("ztsnr" in marks)


# ── tokenizer ─────────────────────────────────────────────────────────────────────────────────────


def test_tokenizers(files, folders, priors, tmp_path: Path, monkeypatch) -> None:
    """Named, beside the file, or in the hub's cache; both of SDXL come from one vocabulary."""
    monkeypatch.setattr(single_file, "CLIP_TOKENIZER", "nobody/has-this-cached")
    path = tmp_path / "model.safetensors"
    save_file(files["XL"], path)
    message = (
        "no tokenizer for .*has-this-cached is not in the hub's cache. .*vocab.json and merges"
    )
    with pytest.raises(FileNotFoundError, match=message):
        DiffusionPrior.from_pretrained(path)
    with pytest.raises(
        FileNotFoundError, match="nothing lacks vocab.json and merges.txt. Put CLIP"
    ):
        DiffusionPrior.from_pretrained(path, tokenizer=tmp_path / "nothing")
    beside = tmp_path / "tokenizer"
    beside.mkdir()
    for name in ("vocab.json", "merges.txt"):
        (beside / name).write_bytes((folders["XL"] / "tokenizer" / name).read_bytes())
    prior = DiffusionPrior.from_pretrained(path)
    words = ["white hair", "old!", ""]
    for name in ("tokenizer", "tokenizer_2"):
        ours, theirs = (
            getattr(p, name)(words, padding="max_length", max_length=16).input_ids
            for p in (prior, priors["XL"])
        )
        assert ours == theirs
    assert prior.tokenizer.pad_token_id != prior.tokenizer_2.pad_token_id == 0
    (beside / "vocab.json").write_text('{"a": ', encoding="utf-8")
    with pytest.raises(ValueError, match="tokenizer in .* could not be read: .*Put CLIP's"):
        DiffusionPrior.from_pretrained(path)
    (beside / "vocab.json").write_text('{"a": 0, "<|endoftext|>": 1}', encoding="utf-8")
    (beside / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer has \d+ tokens but the text encoder \d+"):
        DiffusionPrior.from_pretrained(path)


def test_tokenizers_are_downloaded_only_when_asked(files, folders, tmp_path, monkeypatch) -> None:
    asked = []

    def from_hub(name: str, wanted: Any, known: str) -> Path:
        asked.append((name, wanted([]), known))
        return folders["1.x"] / "tokenizer"

    monkeypatch.setattr(single_file, "from_hub", from_hub)
    monkeypatch.setattr(single_file, "from_cache", lambda name, known: None)
    path, hub = tmp_path / "model.safetensors", "openai/clip-vit-large-patch14"
    save_file(files["1.x"], path)
    with pytest.raises(FileNotFoundError, match=f"or give tokenizer='{hub}' to download them"):
        DiffusionPrior.from_pretrained(path)
    assert asked == []
    prior = DiffusionPrior.from_pretrained(path, tokenizer=hub)
    assert len(prior.tokenizer) == prior.text_encoder.config.vocab_size
    assert asked == [(hub, ["vocab.json", "merges.txt"], "vocab.json")]


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder or file .*model.safetensors"):
        DiffusionPrior.from_pretrained(tmp_path / "model.safetensors")


def test_the_file_is_only_read(files, folders, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(files["1.x"], path)
    prior = DiffusionPrior.from_pretrained(path, tokenizer=folders["1.x"])
    with torch.no_grad():
        prior.unet.conv_in.weight.zero_()
    key = "model.diffusion_model.input_blocks.0.0.weight"
    assert torch.equal(load_file(path)[key], files["1.x"][key])
