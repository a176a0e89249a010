"""SD 2.x and SDXL teachers against diffusers' own pipelines and independent float64 arithmetic."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.distill import distill
from sdd_fast.gradients.balance import balanced_guidance_scale
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.gradients.image_gradient import guidance
from sdd_fast.gradients.sds import residual
from sdd_fast.selection.hqs import hqs
from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.teacher.text import PromptEmbeds


@pytest.fixture(scope="module")
def tiny_2_64(tiny_sd2: Path) -> DiffusionPrior:
    return DiffusionPrior.from_pretrained(tiny_sd2, dtype=torch.float64)


@pytest.fixture(scope="module")
def xl_pipeline(tiny_sdxl: Path) -> Any:
    """The folder opened by diffusers itself."""
    from diffusers import StableDiffusionXLPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
    pipe = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def broken_xl(tiny_sdxl: Path, tmp_path: Path) -> Path:
    """A private copy of the SDXL folder, to damage."""
    return Path(shutil.copytree(tiny_sdxl, tmp_path / "sd"))


def latents(count: int, h: int = 16, w: int = 16, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, h, w, generator=rng, dtype=torch.float64)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), encoding="utf-8")


def abar_by_definition(t: int) -> float:
    """ᾱ_t of every Stable Diffusion: √β is linear in t."""
    abar = 1.0
    for i in range(t + 1):
        abar *= 1 - (0.00085**0.5 + i / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2
    return abar


# ── text ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("negative", ["", "hair"])
def test_xl_prompts_equal_diffusers(
    tiny_sdxl: Path, xl_pipeline: Any, tiny_xl64: DiffusionPrior, negative: str
) -> None:
    """Penultimate states of both encoders, pooled vector of the second; "" is zero by default."""
    prompts = ["white hair", "old"]
    embeds = tiny_xl64.encode_prompt(prompts, negative)
    cond, uncond, pooled, uncond_pooled = xl_pipeline.encode_prompt(
        prompts, negative_prompt=[negative] * 2 if negative else None, device="cpu"
    )
    assert embeds.pooled is not None and embeds.uncond_pooled is not None
    for ours, theirs in (
        (embeds.cond, cond),
        (embeds.expand(2)[1], uncond),
        (embeds.pooled, pooled),
        (embeds.expand_pooled(2)[1], uncond_pooled),
    ):
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-5)
    assert bool((embeds.uncond == 0).all()) == (negative == "")
    assert cond.abs().max() > 0.1 and pooled.abs().max() > 0.1


def test_xl_without_forced_zeros_encodes_the_empty_text(broken_xl: Path, xl_pipeline: Any) -> None:
    edit_json(broken_xl / "model_index.json", force_zeros_for_empty_prompt=False)
    embeds = DiffusionPrior.from_pretrained(broken_xl).encode_prompt("old")
    _, uncond, _, pooled = xl_pipeline.encode_prompt("old", negative_prompt=[""], device="cpu")
    torch.testing.assert_close(embeds.uncond, uncond)
    torch.testing.assert_close(embeds.uncond_pooled, pooled)


def test_sd2_prompts_equal_diffusers(tiny_sd2: Path, tiny_2_64: DiffusionPrior) -> None:
    """SD 2.x pads with "!", so the rows after the text differ from SD 1.x."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd2)
    assert pipe.tokenizer.pad_token_id == 0
    cond, uncond = pipe.encode_prompt(["white hair", "old"], "cpu", 1, True)
    embeds = tiny_2_64.encode_prompt(["white hair", "old"])
    torch.testing.assert_close(embeds.cond.float(), cond, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embeds.expand(2)[1].float(), uncond, rtol=1e-4, atol=1e-5)
    assert embeds.pooled is None


def test_embeddings_of_another_family_are_refused(
    tiny_xl64: DiffusionPrior, tiny_2_64: DiffusionPrior
) -> None:
    plain = PromptEmbeds(torch.zeros(1, 16, 192), torch.zeros(1, 16, 192))
    with pytest.raises(ValueError, match="no pooled vector, which SDXL needs"):
        tiny_xl64.predict_noise(latents(1), 10, plain, 1)
    two = tiny_xl64.encode_prompt(["a", "b"])
    with pytest.raises(ValueError, match="2 prompts for a batch of 3"):
        tiny_xl64.predict_noise(latents(3), 10, two, 2.0)


def test_long_prompt_warns_where_it_was_given(tiny_xl64: DiffusionPrior) -> None:
    with pytest.warns(UserWarning, match="only 16 are used") as caught:
        tiny_xl64.encode_prompt("hair " * 40)
    assert {Path(warning.filename).name for warning in caught} == {Path(__file__).name}


# ── the residual ──────────────────────────────────────────────────────────────────────────────────


def reference_residual(
    prior: DiffusionPrior, z: torch.Tensor, t: int, noise: torch.Tensor, prompt: str, g: float
) -> torch.Tensor:
    """w (ε̂ − ε) row by row through the raw modules, in float64, from the folder's definitions."""
    text, xl = [], prior.text_encoder_2 is not None
    for words in ("", prompt):
        states, pooled = [], torch.zeros(1, 0)
        for tokenizer, encoder in (
            (prior.tokenizer, prior.text_encoder),
            (prior.tokenizer_2, prior.text_encoder_2),
        )[: 2 if xl else 1]:
            ids = tokenizer(words, padding="max_length", max_length=16).input_ids
            out = encoder(torch.tensor([ids]), output_hidden_states=True)
            states.append(out.hidden_states[-2] if xl else out.last_hidden_state)
            pooled = out.text_embeds if "text_embeds" in out else pooled
        scale = 0.0 if xl and not words else 1.0
        text.append((scale * torch.cat(states, -1), scale * pooled))
    abar = abar_by_definition(t)
    h, w = (side * 2 for side in z.shape[2:])
    rows = []
    for z_i, noise_i in zip(z, noise, strict=True):
        z_t = abar**0.5 * z_i + (1 - abar) ** 0.5 * noise_i
        eps = []
        for tokens, pooled in text:
            added: dict[str, Any] = {}
            if xl:
                sizes = torch.tensor([[h, w, 0, 0, h, w]], dtype=torch.float64)
                added["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
            out = prior.unet(z_t[None], t, encoder_hidden_states=tokens, **added).sample[0]
            is_v = prior.scheduler.config.prediction_type == "v_prediction"
            eps.append(abar**0.5 * out + (1 - abar) ** 0.5 * z_t if is_v else out)
        rows.append((1 - abar) * (eps[0] + g * (eps[1] - eps[0]) - noise_i))
    return torch.stack(rows)


@pytest.mark.parametrize("size", [(16, 16), (8, 16)])
@pytest.mark.parametrize(
    ("fixture", "kind"),
    [("tiny_2_64", "v_prediction"), ("tiny_xl64", "epsilon"), ("tiny_xl64", "v_prediction")],
)
@torch.no_grad()
def test_residual_is_the_same_definition_for_all(
    fixture: str, kind: str, size: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    from diffusers import DDIMScheduler

    given = request.getfixturevalue(fixture)
    scheduler = DDIMScheduler.from_config(given.scheduler.config, prediction_type=kind)
    prior = DiffusionPrior(
        given.vae,
        given.unet,
        given.text_encoder,
        given.tokenizer,
        scheduler,
        given.text_encoder_2,
        given.tokenizer_2,
        given.force_zeros_for_empty_prompt,
    )
    z, noise = latents(2, *size, seed=1), latents(2, *size, seed=2)
    embeds = prior.encode_prompt("white hair")
    for t, g in ((50, 7.5), (700, 1.0)):
        r = residual(prior, z, embeds, t, noise, GuidanceConfig(guidance_scale=g))
        expected = reference_residual(prior, z, t, noise, "white hair", g)
        torch.testing.assert_close(r, expected, rtol=1e-4, atol=1e-5)  # ᾱ is kept in float32


def test_xl_added_conditions_matter(tiny_xl64: DiffusionPrior) -> None:
    """The pooled text and the image's size both reach the U-Net."""
    embeds = tiny_xl64.encode_prompt(["white hair", "old"])
    assert embeds.pooled is not None
    swapped = PromptEmbeds(
        embeds.cond, embeds.uncond, pooled=embeds.pooled.flip(0), uncond_pooled=embeds.uncond_pooled
    )
    z = latents(2)
    change = tiny_xl64.predict_noise(z, 500, embeds, 1) - tiny_xl64.predict_noise(
        z, 500, swapped, 1
    )
    assert change.abs().max() > 1e-6
    wide = tiny_xl64._size_conditions(8, 16)
    assert wide.tolist() == [[16, 32, 0, 0, 16, 32]]


def test_guidance_and_hqs_need_not_know_the_family(tiny_xl64: DiffusionPrior) -> None:
    """On rectangular images, through the VAE, with the full Jacobian; the gradient is the slope."""
    images = torch.rand(2, 3, 24, 32, dtype=torch.float64) * 2 - 1
    images.requires_grad_()
    config = GuidanceConfig(guidance_scale=5.0, jacobian="full", weighting="uniform")
    rng = torch.Generator().manual_seed(0)
    out = guidance(tiny_xl64, images, "white hair", 400, config=config, rng=rng)
    assert out.noise.shape == out.residual.shape == (2, 4, 12, 16)
    out.loss.backward()
    step = torch.randn(images.shape, dtype=torch.float64)
    embeds = tiny_xl64.encode_prompt("white hair")

    @torch.no_grad()
    def loss(y: torch.Tensor) -> torch.Tensor:
        z_t = tiny_xl64.add_noise(tiny_xl64.encode(y), out.noise, 400)
        return (tiny_xl64.predict_noise(z_t, 400, embeds, 5.0) - out.noise).square().sum() / 2

    h = 1e-5
    slope = (loss(images + h * step) - loss(images - h * step)) / (2 * h)
    torch.testing.assert_close((images.grad * step).sum(), slope, rtol=1e-4, atol=1e-8)
    assert balanced_guidance_scale(tiny_xl64, images.detach(), embeds, [300, 600]) >= 1
    curve = hqs(tiny_xl64, images.detach().float(), embeds, [300, 600], batch_size=1)
    assert curve.entropy.shape == (2, 2) and curve.entropy.isfinite().all()


def test_distillation_need_not_know_the_family(tiny_sdxl: Path) -> None:
    prior = DiffusionPrior.from_pretrained(tiny_sdxl)
    mapper = torch.nn.Conv2d(3, 3, 1)
    before = mapper.weight.detach().clone()
    config = DistillConfig(
        steps=2, batch_size=2, guidance=GuidanceConfig(guidance_scale=5.0), l2_weight=0.0
    )
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    distill(prior, None, images, "old", [300, 600], mapper=mapper, config=config, progress=False)
    assert (mapper.weight - before).abs().max() > 0 and mapper.weight.isfinite().all()


# ── sampling ──────────────────────────────────────────────────────────────────────────────────────


def test_xl_sample_equals_diffusers(tiny_sdxl: Path, xl_pipeline: Any) -> None:
    from diffusers import DDIMScheduler

    prior = DiffusionPrior.from_pretrained(tiny_sdxl)
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    images = prior.sample(["white hair", "old"], 4, 3.0, rng=torch.Generator().manual_seed(3))
    xl_pipeline.scheduler = DDIMScheduler.from_config(prior.scheduler.config)
    expected = xl_pipeline(
        ["white hair", "old"],
        height=32,
        width=32,
        num_inference_steps=4,
        guidance_scale=3.0,
        latents=noise,
        output_type="pt",
    ).images
    torch.testing.assert_close((images + 1) / 2, expected, rtol=1e-3, atol=1e-4)


def test_zero_terminal_snr(tiny_sd2: Path, tmp_path: Path) -> None:
    """ᾱ_T = 0: v-prediction stays defined, for the residual and from the first sampling step."""
    folder = Path(shutil.copytree(tiny_sd2, tmp_path / "sd"))
    config = folder / "scheduler/scheduler_config.json"
    edit_json(config, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    prior = DiffusionPrior.from_pretrained(folder)
    assert float(prior.alphas_cumprod[-1]) < 1e-6
    z, noise = latents(1).float(), latents(1, seed=1).float()
    r = residual(prior, z, prior.encode_prompt("old"), 999, noise)
    torch.testing.assert_close(r, torch.zeros_like(r), rtol=0, atol=1e-5)  # z_T = ε: it is given
    assert prior.sample("old", 2, 2.0).isfinite().all()
    edit_json(config, prediction_type="epsilon")
    with pytest.raises(ValueError, match="zero terminal SNR.*but predicts epsilon"):
        DiffusionPrior.from_pretrained(folder)


# ── precision ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("upcast", "expected"), [(True, torch.float32), (False, torch.float16)])
def test_xl_vae_stays_in_float32_where_it_must(
    broken_xl: Path, upcast: bool, expected: torch.dtype
) -> None:
    edit_json(broken_xl / "vae/config.json", force_upcast=upcast)
    prior = DiffusionPrior.from_pretrained(broken_xl, dtype=torch.float16)
    assert prior.vae.dtype == expected
    assert prior.unet.dtype == prior.text_encoder_2.dtype == torch.float16
    z = prior.encode(torch.zeros(1, 3, 32, 32))
    eps = prior.predict_noise(z, 500, prior.encode_prompt("old"), 2.0)
    assert z.dtype == eps.dtype == prior.decode(z).dtype == torch.float32
    assert torch.isfinite(eps).all()


# ── what is not supported ─────────────────────────────────────────────────────────────────────────


def test_folders_that_are_no_teacher(broken_xl: Path) -> None:
    index = broken_xl / "model_index.json"
    for pipeline in (
        "StableDiffusion3Pipeline",
        "FluxPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionDepth2ImgPipeline",
        "KandinskyPipeline",
    ):
        edit_json(index, _class_name=pipeline)
        with pytest.raises(ValueError, match=f"'{pipeline}'.*supported are .*XL base"):
            DiffusionPrior.from_pretrained(broken_xl)
    edit_json(index, _class_name="StableDiffusionXLImg2ImgPipeline")
    assert DiffusionPrior.from_pretrained(broken_xl).resolution == 32
    edit_json(index, requires_aesthetics_score=True)
    with pytest.raises(ValueError, match="is an SDXL refiner.*supported: Stable Diffusion 1.x"):
        DiffusionPrior.from_pretrained(broken_xl)
    edit_json(index, requires_aesthetics_score=False, text_encoder=[None, None])
    with pytest.raises(ValueError, match=r"gives \[None, None\] as text_encoder; supported: CLIP"):
        DiffusionPrior.from_pretrained(broken_xl)


def test_xl_folder_without_its_second_encoder(broken_xl: Path) -> None:
    (broken_xl / "text_encoder_2/model.safetensors").unlink()
    (broken_xl / "tokenizer_2/merges.txt").unlink()
    message = "lacks text_encoder_2/model.safetensors, tokenizer_2/merges.txt"
    with pytest.raises(FileNotFoundError, match=message):
        DiffusionPrior.from_pretrained(broken_xl)


def test_parts_that_ask_for_other_conditions(
    tiny_xl64: DiffusionPrior, tiny_2_64: DiffusionPrior
) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    xl, old = tiny_xl64, tiny_2_64
    with torch.device("meta"):
        config = {**xl.unet.config, "projection_class_embeddings_input_dim": 128 + 5 * 256}
        refiner = UNet2DConditionModel.from_config(config)
        config = {**old.unet.config, "num_class_embeds": 10}
        upscaler = UNet2DConditionModel.from_config(config)
        shifted = AutoencoderKL.from_config({**old.vae.config, "latents_mean": [0.0, 1, 2, 3]})
    encoders = (xl.text_encoder_2, xl.tokenizer_2)
    with pytest.raises(ValueError, match="1408 elements.*not those of SDXL base.*refiner"):
        DiffusionPrior(xl.vae, refiner, xl.text_encoder, xl.tokenizer, xl.scheduler, *encoders)
    with pytest.raises(ValueError, match=r"text encoder's hidden size is 64;"):
        DiffusionPrior(xl.vae, xl.unet, xl.text_encoder, xl.tokenizer, xl.scheduler)
    rest = (old.text_encoder, old.tokenizer, old.scheduler)
    with pytest.raises(
        ValueError, match="num_class_embeds = 10: a class or noise level.*not supported"
    ):
        DiffusionPrior(old.vae, upscaler, *rest)
    with pytest.raises(ValueError, match="latents_mean = .0.0, 1, 2, 3.: latents that are shifted"):
        DiffusionPrior(shifted, old.unet, *rest)


def test_continuous_noise_levels_are_refused(broken_xl: Path) -> None:
    edit_json(broken_xl / "scheduler/scheduler_config.json", timestep_type="continuous")
    with pytest.raises(
        ValueError, match="timestep_type = 'continuous': continuous timesteps, as EDM"
    ):
        DiffusionPrior.from_pretrained(broken_xl)
