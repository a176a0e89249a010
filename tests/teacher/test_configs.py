"""Whatever a config says that changes the computation is handled, or refused and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from sdd_fast.teacher.folder import describe_folder
from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.teacher.schedule import Schedule


@pytest.fixture
def folder(tiny_sd: Path, tmp_path: Path) -> Path:
    """A private copy of the folder, to change."""
    return Path(shutil.copytree(tiny_sd, tmp_path / "sd"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), encoding="utf-8")


UNET, VAE, SCHEDULER = "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (UNET, {"time_cond_proj_dim": 256}, "time_cond_proj_dim = 256: the guidance scale"),
        (UNET, {"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        (UNET, {"num_class_embeds": 0}, "num_class_embeds = 0"),
        (UNET, {"encoder_hid_dim": 32}, "encoder_hid_dim = 32"),
        (UNET, {"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type = 'text_proj'"),
        (UNET, {"addition_embed_type": "text"}, r"added conditions \('text'\)"),
        (UNET, {"dual_cross_attention": True}, "dual_cross_attention = True"),
        (UNET, {"attention_type": "gated"}, "attention_type = 'gated': boxes"),
        (UNET, {"class_embeddings_concat": True}, "class_embeddings_concat = True"),
        (UNET, {"of_next_year": [1, 2]}, r"U-Net's config says of_next_year = \[1, 2\]"),
        (UNET, {"quantization_config": {"bits": 4}}, "quantization_config.*quantized"),
        (UNET, {"in_channels": 9}, "takes 9 channels but the VAE's latents have 4"),
        (UNET, {"in_channels": 8}, "takes 8 channels but the VAE's latents have 4"),
        (UNET, {"out_channels": 8}, "returns 8 channels but the VAE's latents have 4"),
        (UNET, {"sample_size": None}, "sample_size is None"),
        (UNET, {"sample_size": [8, 16]}, "sample_size is .8, 16.*only square"),
        (UNET, {"cross_attention_dim": [16, 24]}, "belong to different models"),
        (VAE, {"shift_factor": 0.1}, "VAE's config says shift_factor = 0.1: latents that are sh"),
        (VAE, {"latents_mean": [0.0] * 4, "latents_std": [2.0] * 4}, "latents_mean.*latents_std"),
        (VAE, {"in_channels": 4}, "VAE is of images of 4 to 3 channels"),
        (VAE, {"in_channels": None}, "VAE is of images of None to 3 channels"),
        (VAE, {"scaling_factor": None}, "VAE's scaling_factor is None; expected a positive"),
        (VAE, {"scaling_factor": 0}, "VAE's scaling_factor is 0; expected a positive"),
        (VAE, {"scaling_factor": "0.18"}, "VAE's scaling_factor is '0.18'; expected a positive"),
        (SCHEDULER, {"beta_start": -1}, "beta_start is -1; expected a number from 0 to 1"),
        (SCHEDULER, {"beta_end": "x"}, "beta_end is 'x'; expected a number from 0 to 1"),
        (SCHEDULER, {"prediction_type": "flow_prediction"}, "'flow_prediction' is not supported"),
        (SCHEDULER, {"snr_shift_scale": 3.0}, "scheduler's config says snr_shift_scale = 3.0"),
        (SCHEDULER, {"predict_epsilon": False}, "predict_epsilon = False"),
        (SCHEDULER, {"use_flow_sigmas": True}, "use_flow_sigmas = True: flow matching"),
        (SCHEDULER, {"timestep_type": "continuous"}, "timestep_type.*continuous timesteps.*EDM"),
        (SCHEDULER, {"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'; supported: linear"),
        (SCHEDULER, {"trained_betas": [0.01] * 7}, "7 trained_betas for num_train_timesteps = 10"),
        (SCHEDULER, {"trained_betas": [1.5] * 1000}, "betas give no noise schedule"),
        (SCHEDULER, {"rescale_betas_zero_snr": True}, "zero terminal SNR .* but predicts epsilon"),
        (SCHEDULER, {"num_train_timesteps": 10**9}, "is 1000000000; expected .* to 100,000"),
        (SCHEDULER, {"num_train_timesteps": "1000"}, "is '1000'; expected a whole number"),
        (SCHEDULER, {"num_train_timesteps": 0}, "is 0; expected a whole number"),
        (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "not flow matching"),
        (SCHEDULER, {"_class_name": "CogVideoXDDIMScheduler"}, "snr_shift_scale = 3.0"),
    ],
)
def test_what_is_not_handled_is_named_before_weights_are_read(
    name: str, change: dict[str, object], message: str, folder: Path
) -> None:
    edit_json(folder / name, **change)
    for weights in folder.rglob("*.safetensors"):
        weights.write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        DiffusionPrior.from_pretrained(folder)
    assert describe_folder(folder)["teacher"].startswith("not supported: ")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (UNET, {"attention_type": "default", "time_cond_proj_dim": None, "num_class_embeds": None}),
        (UNET, {"_commit_hash": "abc", "decay": 0.99, "optimization_step": 7, "dropout": 0.1}),
        (UNET, {"cross_attention_dim": [16, 16]}),
        (VAE, {"shift_factor": 0.0, "latents_mean": None}),
        (SCHEDULER, {"timestep_spacing": "trailing", "clip_sample": True, "sigma_max": 3.0}),
        (SCHEDULER, {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpms"}),
        (SCHEDULER, {"_class_name": "LCMScheduler", "original_inference_steps": 4}),
        (SCHEDULER, {"_class_name": "OfNextYearScheduler"}),
        (SCHEDULER, {"predict_epsilon": True, "tensor_format": "pt", "skip_prk_steps": True}),
        (
            "text_encoder/config.json",
            {
                "torch_dtype": "float16",
                "initializer_factor": 1.0,
                "architectures": ["CLIPTextModel"],
                "dropout": 0.0,
            },
        ),
    ],
)
def test_what_changes_nothing_is_no_hindrance(
    name: str, change: dict[str, object], folder: Path, tiny_prior: DiffusionPrior
) -> None:
    edit_json(folder / name, **change)
    prior = DiffusionPrior.from_pretrained(folder)
    assert torch.equal(prior.alphas_cumprod, tiny_prior.alphas_cumprod)
    embeds, z = prior.encode_prompt("old"), torch.ones(1, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(
            prior.predict_noise(z, 3, embeds, 2), tiny_prior.predict_noise(z, 3, embeds, 2)
        )


def test_the_schedule_is_that_of_the_class_that_is_named(folder: Path) -> None:
    """What a config leaves out has the default of its own class, not of the one that loads it."""
    from diffusers import DDPMScheduler, LCMScheduler

    for cls in (LCMScheduler, DDPMScheduler):
        content = {"_class_name": cls.__name__, "prediction_type": "epsilon"}
        (folder / SCHEDULER).write_text(json.dumps(content), encoding="utf-8")
        prior = DiffusionPrior.from_pretrained(folder)
        assert torch.equal(prior.alphas_cumprod, cls().alphas_cumprod)
    betas = torch.linspace(0.001, 0.03, 50).tolist()
    edit_json(folder / SCHEDULER, trained_betas=betas, num_train_timesteps=50)
    prior = DiffusionPrior.from_pretrained(folder)
    expected = (1 - torch.tensor(betas)).cumprod(0)
    assert prior.num_train_timesteps == 50 and torch.equal(prior.alphas_cumprod, expected)


def test_a_missing_prediction_type_is_said(folder: Path) -> None:
    path = folder / SCHEDULER
    config = json.loads(path.read_text("utf-8"))
    del config["prediction_type"]
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.warns(UserWarning, match="does not state prediction_type: epsilon is taken"):
        prior = DiffusionPrior.from_pretrained(folder)
    assert prior.prediction_type == "epsilon"
    assert describe_folder(folder)["teacher"].endswith("ε-prediction (not stated, the default)")


# ── a pipeline's parts ────────────────────────────────────────────────────────────────────────────


def test_a_pipeline_is_the_same_teacher_as_its_folder(tiny_sdxl: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    class Mine(StableDiffusionXLPipeline):
        pass

    pipeline = Mine.from_pretrained(tiny_sdxl).to(torch.bfloat16)
    pipeline.unet.to(memory_format=torch.channels_last)  # as a folder's, which rounds otherwise
    prior = DiffusionPrior.from_pretrained(pipeline)
    assert prior.unet is pipeline.unet and prior.dtype == torch.bfloat16
    assert not any(p.requires_grad for p in pipeline.unet.parameters())
    expected = DiffusionPrior.from_pretrained(tiny_sdxl, dtype=torch.bfloat16)
    z = torch.ones(1, 4, 16, 16)
    ours, theirs = (p.predict_noise(z, 9, p.encode_prompt("old"), 3.0) for p in (prior, expected))
    assert torch.equal(ours, theirs)
    for dtype, last in (torch.float32, False), (torch.bfloat16, True):  # as of a folder's
        again = DiffusionPrior.from_pretrained(pipeline, dtype=dtype, device="cpu")
        assert again.dtype == dtype
        weight = pipeline.unet.conv_in.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == last
    with pytest.raises(ValueError, match="give no variant"):
        DiffusionPrior.from_pretrained(pipeline, variant="fp16")


PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler", "text_encoder_2", "tokenizer_2")


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_a_wrong_type(tiny_xl64: DiffusionPrior, name: str) -> None:
    parts = {part: getattr(tiny_xl64, part) for part in PARTS}
    for wrong in (None, {}, "path/to/it", torch.nn.Linear(2, 2)):
        kind = type(wrong).__name__
        with pytest.raises(TypeError, match=f"^{name} must be an? .* of .*, got {kind}"):
            DiffusionPrior(**parts | {name: wrong})
    for other in ("vae", "unet", "scheduler"):
        if other != name:
            with pytest.raises((TypeError, ValueError), match=r"must be|the (U-Net|VAE|scheduler)"):
                DiffusionPrior(**parts | {name: parts[other]})


def test_pipelines_that_make_no_teacher(tiny_sd: Path) -> None:
    import diffusers

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tiny_sd)
    flow, usual = diffusers.FlowMatchEulerDiscreteScheduler, pipeline.scheduler.config
    for scheduler, message in (
        (flow(), "no beta_schedule.*not flow matching nor ED"),
        (flow.from_config(usual), "no beta_schedule.*not flow matching nor ED"),  # but betas
        (diffusers.EDMEulerScheduler(), "no beta_schedule.*not flow matching nor EDM"),
        (diffusers.EulerDiscreteScheduler(timestep_type="continuous"), "continuous timesteps"),
        (diffusers.DDIMScheduler(prediction_type="sample"), "'sample' is not supported"),
    ):
        pipeline.scheduler = scheduler
        with pytest.raises(ValueError, match=message):
            DiffusionPrior.from_pretrained(pipeline)
        parts = {n: getattr(pipeline, n) for n in ("vae", "unet", "text_encoder", "tokenizer")}
        with pytest.raises(ValueError, match=message):
            DiffusionPrior(**parts, scheduler=scheduler)
    pipeline.scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=False)
    pipeline.scheduler.alphas_cumprod = pipeline.scheduler.alphas_cumprod * 0.9
    with pytest.raises(ValueError, match="alphas_cumprod are not those of its config"):
        DiffusionPrior.from_pretrained(pipeline)
    with pytest.raises(TypeError, match="a path, a hub id or a pipeline of diffusers, got int"):
        DiffusionPrior.from_pretrained(3)

    class FluxPipeline(diffusers.DiffusionPipeline):
        pass

    with pytest.raises(ValueError, match="of class 'FluxPipeline'; supported are StableDiffusion"):
        DiffusionPrior.from_pretrained(FluxPipeline())


# ── zero terminal SNR ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def zero_snr(tiny_sd_v: Path, tmp_path: Path) -> DiffusionPrior:
    folder = Path(shutil.copytree(tiny_sd_v, tmp_path / "zero"))
    edit_json(folder / SCHEDULER, rescale_betas_zero_snr=True, num_train_timesteps=10)
    return DiffusionPrior.from_pretrained(folder)


def test_a_timestep_without_signal_is_left_out_or_said(zero_snr: DiffusionPrior) -> None:
    import sdd_fast as sdd
    from sdd_fast.gradients.balance import balanced_guidance_scale
    from sdd_fast.gradients.sds import residual
    from sdd_fast.models import StyleGAN2

    images, embeds = torch.zeros(1, 3, 32, 32), zero_snr.encode_prompt("old")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    z = zero_snr.encode(images)
    assert residual(zero_snr, z, embeds, 9, noise).abs().max() == 0  # hence all that follows
    assert residual(zero_snr, z, embeds, 8, noise).abs().max() > 0
    curve = sdd.hqs(zero_snr, images, embeds, progress=False)
    assert curve.timesteps == tuple(range(9))
    message = "timestep 9 carries no signal.*noise alone .zero terminal SNR.*up to 8"
    with pytest.raises(ValueError, match=message):
        sdd.hqs(zero_snr, images, embeds, [5, 9], progress=False)
    with pytest.raises(ValueError, match=message):
        balanced_guidance_scale(zero_snr, images, embeds, [9])
    with pytest.warns(UserWarning, match=message):
        sdd.guidance(zero_snr, images, embeds, 9)
    generator = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=64, channel_max=8)
    w_plus = torch.randn(2, generator.num_layers, 8)
    for timesteps, prior_timesteps in (([5, 9], (1, 4)), ([5], (1, 9))):
        config = sdd.DistillConfig(steps=1, batch_size=1, prior_timesteps=prior_timesteps)
        with pytest.raises(ValueError, match=message):
            sdd.distill(zero_snr, generator, w_plus, "old", timesteps, config=config)
    assert zero_snr.sample(embeds, 3, rng=torch.Generator().manual_seed(0)).isfinite().all()


def test_eulers_substitute_for_zero_is_zero(zero_snr: DiffusionPrior) -> None:
    """EulerDiscreteScheduler has 2⁻²⁴ in its last place, which is not what was trained with."""
    from diffusers import EulerDiscreteScheduler

    euler = EulerDiscreteScheduler.from_config(zero_snr.scheduler.config)
    assert euler.alphas_cumprod[-1] > 0
    prior = DiffusionPrior(
        zero_snr.vae, zero_snr.unet, zero_snr.text_encoder, zero_snr.tokenizer, euler
    )
    assert torch.equal(prior.alphas_cumprod, zero_snr.alphas_cumprod)


def test_only_the_last_timestep_of_the_usual_schedule_is_without_signal() -> None:
    from diffusers import DDIMScheduler

    usual = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    zero = DDIMScheduler(**usual, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert (
        Schedule(zero).with_signal == 999 and Schedule(DDIMScheduler(**usual)).with_signal == 1000
    )


# ── textual inversion ─────────────────────────────────────────────────────────────────────────────


def test_a_token_of_several_vectors_stands_for_all_of_them(tiny_sd: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd)
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    pipeline.load_textual_inversion(vectors, token="<cat>")
    pipeline.save_pretrained(tmp_path / "sd")
    prior = DiffusionPrior.from_pretrained(tmp_path / "sd")
    for prompt in ("old <cat> hair", "<cat>", "<cat>, <cat> hair"):
        expected, _ = pipeline.encode_prompt(prompt, "cpu", 1, False)
        torch.testing.assert_close(prior.encode_prompt(prompt).cond, expected)
    whole = prior.encode_prompt("<cat>").cond
    assert torch.equal(prior.encode_prompt("<cat> <cat>_1 <cat>_2").cond, whole)  # written out
    assert not torch.allclose(prior.encode_prompt("<cat>_1").cond, whole)
    # 16 tokens hold the start, the end and 14 more; the vectors count as three.
    assert prior.encode_prompt("hair " * 11 + "<cat>").cond.shape == (1, 16, 16)
    with pytest.warns(UserWarning, match="has 17 tokens; only 16 are used"):
        cut = prior.encode_prompt("hair " * 12 + "<cat>").cond
    with pytest.warns(UserWarning, match="has 19 tokens; only 16 are used"):
        assert torch.equal(prior.encode_prompt("hair " * 12 + "<cat> old hair").cond, cut)
