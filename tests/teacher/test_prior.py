"""DiffusionPrior against diffusers' own pipeline and the equations; its messages on bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file

from sdd_fast import quiet
from sdd_fast.checkpoints.load import load_clip
from sdd_fast.teacher.folder import check_folder
from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.teacher.text import PromptEmbeds


@pytest.fixture(scope="module")
def pipeline(tiny_sd: Path):
    """The folder opened by diffusers itself."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def broken(tiny_sd: Path, tmp_path: Path) -> Path:
    """A private copy of the folder, to damage."""
    return Path(shutil.copytree(tiny_sd, tmp_path / "sd"))


def latents(prior: DiffusionPrior, count: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, *prior.latent_shape, generator=rng, dtype=prior.compute_dtype)


# ── what was loaded ───────────────────────────────────────────────────────────────────────────────


def test_without_docstrings_no_file_is_blamed(
    tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "sys", SimpleNamespace(flags=SimpleNamespace(optimize=2)))
    message = "Python runs with -OO .*: use -O at most"
    for load in (DiffusionPrior.from_pretrained, load_clip):
        with pytest.raises(ValueError, match=f"^{message}"):
            load(tiny_sd)
    with pytest.raises(ValueError, match=message):
        check_folder(tiny_sd, xl=False)


def test_attributes_describe_the_model(tiny_prior: DiffusionPrior) -> None:
    assert tiny_prior.num_train_timesteps == 1000
    assert tiny_prior.resolution == 32
    assert tiny_prior.vae_scale_factor == 4
    assert tiny_prior.latent_shape == (4, 8, 8)
    assert tiny_prior.prediction_type == "epsilon"
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    expected = torch.cumprod(1 - betas, 0)
    assert tiny_prior.alphas_cumprod.dtype == torch.float32
    torch.testing.assert_close(tiny_prior.alphas_cumprod.double(), expected, rtol=1e-4, atol=1e-7)


def test_every_network_is_frozen_and_in_eval_mode(tiny_prior: DiffusionPrior) -> None:
    for network in (tiny_prior.vae, tiny_prior.unet, tiny_prior.text_encoder):
        assert not any(p.requires_grad for p in network.parameters())
        assert not any(m.training for m in network.modules())
    embeds = tiny_prior.encode_prompt("white hair")
    assert not embeds.cond.requires_grad


@pytest.mark.parametrize("part", ["vae", "scheduler"])
def test_parts_that_others_are_made_of_cannot_be_exchanged(
    tiny_prior: DiffusionPrior, part: str
) -> None:
    before = getattr(tiny_prior, part)
    with pytest.raises(AttributeError, match=f"the {part} of a teacher cannot be exchanged; make"):
        setattr(tiny_prior, part, object())
    assert getattr(tiny_prior, part) is before


def test_modules_are_light_to_import() -> None:
    code = (
        "import sys, sdd_fast.teacher.prior, sdd_fast.gradients.image_gradient\n"
        "import sdd_fast.selection.hqs\n"
        "print([m for m in ('diffusers', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout.strip() == "[]"


def test_loading_is_quiet(tiny_sd: Path, capfd: pytest.CaptureFixture[str]) -> None:
    DiffusionPrior.from_pretrained(tiny_sd)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_the_only_variant_need_not_be_named(broken: Path, tiny_prior: DiffusionPrior) -> None:
    unet = broken / "unet/diffusion_pytorch_model.safetensors"
    unet.rename(unet.with_suffix(".fp16.safetensors"))
    for variant in (None, "fp16"):
        prior = DiffusionPrior.from_pretrained(broken, variant=variant)
        assert torch.equal(prior.unet.conv_in.weight, tiny_prior.unet.conv_in.weight)
    shutil.copy(unet.with_suffix(".fp16.safetensors"), unet.with_suffix(".bf16.safetensors"))
    message = r"unet/\S*model.safetensors \(there is: variant='bf16', variant='fp16'\)"
    with pytest.raises(FileNotFoundError, match=message):
        DiffusionPrior.from_pretrained(broken)


@pytest.mark.parametrize("suffix", ["", ".fp16"])
def test_sharded_weights(broken: Path, tiny_prior: DiffusionPrior, suffix: str) -> None:
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        whole = broken / part / f"{stem}.safetensors"
        tensors, weight_map = load_file(whole), {}
        for i in (1, 2):
            name = f"{stem}{suffix}-0000{i}-of-00002.safetensors"
            some = {key: tensors[key] for key in sorted(tensors)[i - 1 :: 2]}
            save_file(some, broken / part / name, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(some, name)
        index = whole.with_name(f"{stem}.safetensors.index{suffix}.json")
        size = sum(tensor.nbytes for tensor in tensors.values())
        content = {"metadata": {"total_size": size}, "weight_map": weight_map}
        index.write_text(json.dumps(content), encoding="utf-8")
        whole.unlink()
    if suffix:
        (broken / "vae/diffusion_pytorch_model.safetensors").rename(
            broken / f"vae/diffusion_pytorch_model{suffix}.safetensors"
        )
    prior = DiffusionPrior.from_pretrained(broken)
    for part in ("unet", "text_encoder"):
        expected = getattr(tiny_prior, part).state_dict()
        state = getattr(prior, part).state_dict()
        assert all(torch.equal(state[key], expected[key]) for key in expected)
    (broken / f"unet/diffusion_pytorch_model{suffix}-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks unet/.*-00002-of-00002.safetensors"):
        DiffusionPrior.from_pretrained(broken)
    index.write_text("[1]", encoding="utf-8")
    with pytest.raises(ValueError, match="must name the file of each weight in weight_map"):
        DiffusionPrior.from_pretrained(broken)


# ── text ──────────────────────────────────────────────────────────────────────────────────────────


def test_encode_prompt_equals_diffusers(tiny_prior: DiffusionPrior, pipeline) -> None:
    embeds = tiny_prior.encode_prompt(["white hair", "old"], negative_prompt="hair")
    cond, uncond = pipeline.encode_prompt(
        ["white hair", "old"], "cpu", 1, True, negative_prompt=["hair", "hair"]
    )
    torch.testing.assert_close(embeds.cond, cond)
    torch.testing.assert_close(embeds.expand(2)[1], uncond)
    assert embeds.prompts == ("white hair", "old") and embeds.negative_prompt == "hair"


@pytest.mark.parametrize("prompt", ["", "  \n", [], ["hair", ""]])
def test_empty_prompt(tiny_prior: DiffusionPrior, prompt) -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        tiny_prior.encode_prompt(prompt)


def test_prompt_of_wrong_kind_or_number(tiny_prior: DiffusionPrior) -> None:
    with pytest.raises(TypeError, match="prompt must be a string"):
        tiny_prior.encode_prompt([3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="2 negative prompts for 3 prompts"):
        tiny_prior.encode_prompt(["a", "b", "c"], ["d", "e"])
    two = tiny_prior.encode_prompt(["a", "b"])
    with pytest.raises(ValueError, match="2 prompts for a batch of 3"):
        tiny_prior.predict_noise(latents(tiny_prior, 3), 10, two, 2.0)


def test_long_prompt_warns_and_is_cut(tiny_prior: DiffusionPrior) -> None:
    cut = r"only 16 are used and the rest is cut off: '(hair ){25}hair'"
    with pytest.warns(UserWarning, match=cut):
        embeds = tiny_prior.encode_prompt("hair " * 40)
    assert embeds.cond.shape == (1, 16, 16)


# ── images and latents ────────────────────────────────────────────────────────────────────────────


def test_encode_is_the_scaled_posterior_mean(tiny_prior64: DiffusionPrior) -> None:
    y = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    moments = tiny_prior64.vae.quant_conv(tiny_prior64.vae.encoder(y))
    torch.testing.assert_close(tiny_prior64.encode(y), 0.18215 * moments[:, :4])
    z = tiny_prior64.encode(y)
    decoded = tiny_prior64.vae.decoder(tiny_prior64.vae.post_quant_conv(z / 0.18215))
    torch.testing.assert_close(tiny_prior64.decode(z), decoded)


def test_encode_resizes_by_averaging_at_factor_two(tiny_prior: DiffusionPrior) -> None:
    y = torch.rand(1, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(
        tiny_prior.encode(y), tiny_prior.encode(F.avg_pool2d(y, 2)), rtol=1e-4, atol=1e-5
    )
    assert tiny_prior.encode(y[..., :16, :16]).shape == (1, 4, 8, 8)


def test_strong_downscaling_does_not_alias(tiny_prior64: DiffusionPrior) -> None:
    """Plain bilinear sampling at factor 4 would leave three quarters of the pixels unseen."""
    y = torch.rand(1, 3, 128, 128, dtype=torch.float64).requires_grad_()
    (seen,) = torch.autograd.grad(tiny_prior64.encode(y).square().sum(), y)
    assert (seen != 0).all()


@pytest.mark.parametrize(("height", "width"), [(24, 32), (32, 16), (48, 64), (6, 8)])
def test_rectangular_images_keep_their_proportions(
    tiny_prior64: DiffusionPrior, height: int, width: int
) -> None:
    """The longer side gets the native resolution; noise and predictions follow the latent."""
    y = torch.rand(2, 3, height, width, dtype=torch.float64) * 2 - 1
    z = tiny_prior64.encode(y)
    size = (32 * height // max(height, width), 32 * width // max(height, width))
    assert z.shape == (2, 4, size[0] // 4, size[1] // 4)
    assert z.shape[1:] == tiny_prior64.latent_shape_for(height, width)
    resized = F.interpolate(y, size, mode="bilinear", align_corners=False)
    moments = tiny_prior64.vae.quant_conv(tiny_prior64.vae.encoder(resized))
    torch.testing.assert_close(z, 0.18215 * moments[:, :4])
    eps = tiny_prior64.predict_noise(z, 500, tiny_prior64.encode_prompt("old"), 2.0)
    assert eps.shape == z.shape
    assert tiny_prior64.decode(z).shape == (2, 3, *size)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "floating-point.*uint8"),
        ([[0.0]], TypeError, "got list"),
        (torch.zeros(3, 32, 32), ValueError, r"\[B, 3, H, W\], got \(3, 32, 32\)"),
        (torch.zeros(1, 4, 32, 32), ValueError, r"got \(1, 4, 32, 32\)"),
        (torch.zeros(1, 3, 32, 20), ValueError, "32x20 would become 32x20.*multiples of 8"),
        (torch.zeros(1, 3, 3, 64), ValueError, "3x64 would become 1.5x32 .*multiples of 8"),
        (torch.zeros(1, 3, 0, 0), ValueError, r"\[B, 3, H, W\], got \(1, 3, 0, 0\)"),
    ],
)
def test_encode_bad_images(tiny_prior: DiffusionPrior, images, error, message: str) -> None:
    with pytest.raises(error, match=message):
        tiny_prior.encode(images)


# ── diffusion ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "timesteps", [[0, 500, 999], (0, 500, 999), torch.tensor([0, 500, 999], dtype=torch.int32)]
)
def test_add_noise_per_sample(tiny_prior64: DiffusionPrior, timesteps) -> None:
    z, noise = latents(tiny_prior64, 3, 0), latents(tiny_prior64, 3, 1)
    z_t = tiny_prior64.add_noise(z, noise, timesteps)
    for i, t in enumerate((0, 500, 999)):
        abar = float(tiny_prior64.alphas_cumprod[t])
        torch.testing.assert_close(z_t[i], abar**0.5 * z[i] + (1 - abar) ** 0.5 * noise[i])
    with pytest.raises(ValueError, match="noise has shape"):
        tiny_prior64.add_noise(z, noise[:1], 3)


def test_guided_prediction_is_eq_cfg(tiny_prior64: DiffusionPrior) -> None:
    prior = tiny_prior64
    z_t, t = latents(prior, 3), torch.tensor([10, 500, 900])
    embeds = prior.encode_prompt("white hair")
    calls, rows = prior.unet_calls, prior.unet_rows
    guided = prior.predict_noise(z_t, t, embeds, 7.0)
    assert (prior.unet_calls - calls, prior.unet_rows - rows) == (1, 6)
    plain = prior.predict_noise(z_t, t, embeds, 1)
    assert (prior.unet_calls - calls, prior.unet_rows - rows) == (2, 9)
    for i in range(3):
        one = [
            prior.unet(z_t[i : i + 1], t[i], encoder_hidden_states=text).sample[0]
            for text in (embeds.uncond, embeds.cond)
        ]
        torch.testing.assert_close(plain[i], one[1])
        torch.testing.assert_close(guided[i], one[0] + 7.0 * (one[1] - one[0]))


def test_one_prompt_per_row(tiny_prior64: DiffusionPrior) -> None:
    z_t = latents(tiny_prior64, 2)
    both = tiny_prior64.encode_prompt(["white hair", "old"])
    rows = tiny_prior64.predict_noise(z_t, 300, both, 5.0)
    for i, prompt in enumerate(["white hair", "old"]):
        embeds = tiny_prior64.encode_prompt(prompt)
        one = tiny_prior64.predict_noise(z_t[i : i + 1], 300, embeds, 5.0)
        torch.testing.assert_close(rows[i : i + 1], one)


def test_v_prediction_becomes_a_noise_prediction(tiny_sd_v: Path) -> None:
    """With v = √ᾱ ε − √(1−ᾱ) z, the ε returned must rebuild both v and z_t."""
    prior = DiffusionPrior.from_pretrained(tiny_sd_v, dtype=torch.float64)
    assert prior.prediction_type == "v_prediction"
    z_t, t = latents(prior, 2), torch.tensor([100, 800])
    embeds = prior.encode_prompt("old")
    eps = prior.predict_noise(z_t, t, embeds, 1)
    v = prior.unet(z_t, t, encoder_hidden_states=embeds.cond.expand(2, -1, -1)).sample
    abar = prior.alphas_cumprod[t].double().view(2, 1, 1, 1)
    z = (z_t - (1 - abar).sqrt() * eps) / abar.sqrt()
    torch.testing.assert_close(abar.sqrt() * eps - (1 - abar).sqrt() * z, v)


def test_half_precision_networks_give_float32_predictions(tiny_sd: Path, tiny_prior) -> None:
    prior = DiffusionPrior.from_pretrained(tiny_sd, dtype=torch.bfloat16)
    assert {
        p.dtype for m in (prior.unet, prior.vae, prior.text_encoder) for p in m.parameters()
    } == {torch.bfloat16}
    y = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = prior.encode(y)
    eps = prior.predict_noise(z, 500, prior.encode_prompt("old"), 1)
    assert z.dtype == eps.dtype == prior.decode(z).dtype == torch.float32
    exact = tiny_prior.predict_noise(tiny_prior.encode(y), 500, tiny_prior.encode_prompt("old"), 1)
    assert F.cosine_similarity(eps.flatten(), exact.flatten(), dim=0) > 0.99


@pytest.mark.parametrize(
    ("timesteps", "error", "message"),
    [
        (1000, ValueError, "timestep 1000 is out of range.*0 to 999"),
        ([5, -1], ValueError, "timestep -1 is out of range"),
        (torch.tensor([5, 2000]), ValueError, "timestep 2000 is out of range"),
        ([1, 2, 3], ValueError, "3 timesteps for a batch of 2"),
        (0.5, TypeError, "must be integers"),
        (True, TypeError, "must be integers"),
    ],
)
def test_bad_timesteps(tiny_prior: DiffusionPrior, timesteps, error, message: str) -> None:
    with pytest.raises(error, match=message):
        tiny_prior.predict_noise(
            latents(tiny_prior, 2), timesteps, tiny_prior.encode_prompt("old"), 1
        )


def test_latents_of_wrong_shape(tiny_prior: DiffusionPrior) -> None:
    with pytest.raises(ValueError, match=r"\[B, 4, h, w\], got \(2, 3, 8, 8\)"):
        tiny_prior.predict_noise(torch.zeros(2, 3, 8, 8), 5, tiny_prior.encode_prompt("old"), 1)


@pytest.mark.parametrize("folder", ["tiny_sd", "tiny_sd_v"])
def test_sample_equals_diffusers(folder: str, request: pytest.FixtureRequest, pipeline) -> None:
    from diffusers import DDIMScheduler

    path = request.getfixturevalue(folder)
    prior = DiffusionPrior.from_pretrained(path)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    images = prior.sample(["white hair", "old"], 4, 3.0, rng=torch.Generator().manual_seed(3))
    # Both folders hold the same weights; only the scheduler's prediction type differs.
    pipeline.scheduler = DDIMScheduler.from_pretrained(path, subfolder="scheduler")
    expected = pipeline(
        ["white hair", "old"],
        num_inference_steps=4,
        guidance_scale=3.0,
        latents=noise,
        output_type="pt",
    ).images
    torch.testing.assert_close((images + 1) / 2, expected, rtol=1e-3, atol=1e-4)
    assert images.shape == (2, 3, 32, 32) and images.abs().max() <= 1


def test_sample_checks_the_number_of_steps(tiny_prior: DiffusionPrior) -> None:
    with pytest.raises(ValueError, match="num_inference_steps must be 1 to 1000, got 0"):
        tiny_prior.sample("old", 0)


# ── folders that cannot be loaded ─────────────────────────────────────────────────────────────────


def test_no_such_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="(?s)no folder.*nothing.*model_index.json"):
        DiffusionPrior.from_pretrained(tmp_path / "nothing")
    # A mistyped relative path below an existing folder is no hub id: nothing is downloaded.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match="no folder"):
        DiffusionPrior.from_pretrained("runs/model")
    with pytest.raises(FileNotFoundError, match="no folder"):
        DiffusionPrior.from_pretrained("model")


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "vae/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
    ],
)
def test_missing_file_is_named(broken: Path, name: str) -> None:
    (broken / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        DiffusionPrior.from_pretrained(broken)
    first_line, *rest = str(caught.value).splitlines()
    assert name in first_line
    assert "A Stable Diffusion folder contains" in rest[0]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "unet"),
        ("vae/config.json", "vae"),
        ("text_encoder/model.safetensors", "text_encoder"),
        ("tokenizer/vocab.json", "tokenizer"),
        ("scheduler/scheduler_config.json", "scheduler"),
    ],
)
def test_truncated_file_is_named(broken: Path, name: str, part: str) -> None:
    data = (broken / name).read_bytes()
    (broken / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=f"(?s)could not load {part}/.*A Stable Diffusion folder"):
        DiffusionPrior.from_pretrained(broken)


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model", "text_encoder/model"])
@pytest.mark.parametrize("damage", ["missing", "reshaped"])
def test_weights_that_do_not_fit(broken: Path, name: str, damage: str) -> None:
    path = broken / f"{name}.safetensors"
    tensors = load_file(path)
    key = sorted(k for k in tensors if k.endswith("weight"))[0]
    weight = tensors.pop(key)
    if damage == "reshaped":
        tensors[key] = torch.cat([weight, weight])
    save_file(tensors, path, metadata={"format": "pt"})
    part = name.split("/")[0]
    with pytest.raises(ValueError, match=f"could not load {part}/"):
        DiffusionPrior.from_pretrained(broken)


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), encoding="utf-8")


def test_unsupported_kinds_list_the_supported_ones(broken: Path) -> None:
    index, scheduler = broken / "model_index.json", broken / "scheduler/scheduler_config.json"
    edit_json(index, _class_name="FluxPipeline")
    with pytest.raises(ValueError, match="'FluxPipeline'.*supported are StableDiffusionPipeline"):
        DiffusionPrior.from_pretrained(broken)
    edit_json(index, _class_name="StableDiffusionPipeline", unet=["diffusers", "UNet1DModel"])
    with pytest.raises(ValueError, match="UNet1DModel.*supported: UNet2DConditionModel"):
        DiffusionPrior.from_pretrained(broken)
    edit_json(index, unet=["diffusers", "UNet2DConditionModel"])
    edit_json(scheduler, prediction_type="sample")
    with pytest.raises(ValueError, match="'sample'.*supported: epsilon, v_prediction"):
        DiffusionPrior.from_pretrained(broken)
    scheduler.write_text('{"_class_name": "FlowMatchEulerDiscreteScheduler"}', encoding="utf-8")
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler.*no beta_schedule"):
        DiffusionPrior.from_pretrained(broken)


def test_parts_of_different_models(broken: Path) -> None:
    """The VAE of one model beside the U-Net of another: caught although each part loads."""
    from diffusers import UNet2DConditionModel

    config = json.loads((broken / "unet/config.json").read_text("utf-8"))
    config = {k: v for k, v in config.items() if not k.startswith("_")}
    UNet2DConditionModel(**(config | {"in_channels": 9})).save_pretrained(broken / "unet")
    with pytest.raises(ValueError, match="takes 9 channels but the VAE's latents have 4"):
        DiffusionPrior.from_pretrained(broken)


def test_pndm_schedulers_are_read(broken: Path, tiny_prior: DiffusionPrior) -> None:
    """SD 1.x ships a PNDM config; its betas are what matters, and its other fields do no harm."""
    edit_json(
        broken / "scheduler/scheduler_config.json", _class_name="PNDMScheduler", skip_prk_steps=True
    )
    prior = DiffusionPrior.from_pretrained(broken)
    assert torch.equal(prior.alphas_cumprod, tiny_prior.alphas_cumprod)


def test_bad_dtype_and_device(tiny_sd: Path) -> None:
    with pytest.raises(ValueError, match="bfloat16, float64 or auto, got torch.int8"):
        DiffusionPrior.from_pretrained(tiny_sd, dtype=torch.int8)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="this machine and torch have none"):
            DiffusionPrior.from_pretrained(tiny_sd, device="cuda")


def test_embeds_can_be_made_by_hand(tiny_prior: DiffusionPrior) -> None:
    cond, uncond = PromptEmbeds(torch.ones(1, 16, 16), torch.zeros(1, 16, 16)).expand(3)
    assert cond.shape == uncond.shape == (3, 16, 16)
