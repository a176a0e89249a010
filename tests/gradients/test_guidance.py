"""Guidance against the equations: float64 autograd references and finite differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from sdd_fast.gradients.balance import MAX_BALANCED_SCALE, balanced_guidance_scale
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.gradients.image_gradient import draw_noise, guidance, image_gradient
from sdd_fast.gradients.sds import keep_largest, residual, scale_to_rms
from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.teacher.text import PromptEmbeds

G = 12.0
TIMESTEPS = [40, 500, 900]


@pytest.fixture(scope="module")
def embeds(tiny_prior64: DiffusionPrior) -> PromptEmbeds:
    return tiny_prior64.encode_prompt("white hair")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def pictures(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=rng, dtype=torch.float64) * 2 - 1


def reference_prediction(
    prior: DiffusionPrior, z: torch.Tensor, t: int, noise: torch.Tensor, embeds: PromptEmbeds
) -> torch.Tensor:
    """ε̂ of one latent [1, C, h, w], written from the equations with two separate U-Net calls."""
    abar = float(prior.alphas_cumprod[t])
    z_t = abar**0.5 * z + (1 - abar) ** 0.5 * noise
    eps_u = prior.unet(z_t, t, encoder_hidden_states=embeds.uncond).sample
    eps_c = prior.unet(z_t, t, encoder_hidden_states=embeds.cond).sample
    return eps_u + G * (eps_c - eps_u)


def reference_latent(prior: DiffusionPrior, y: torch.Tensor) -> torch.Tensor:
    if y.shape[-1] == 64:
        y = F.avg_pool2d(y, 2)
    return 0.18215 * prior.vae.quant_conv(prior.vae.encoder(y))[:, :4]


def weight(prior: DiffusionPrior, t: int, weighting: str) -> float:
    return 1.0 if weighting == "uniform" else 1 - float(prior.alphas_cumprod[t])


@pytest.mark.parametrize("weighting", ["one_minus_alphas_cumprod", "uniform"])
def test_skip_residual(tiny_prior64: DiffusionPrior, embeds: PromptEmbeds, weighting: str) -> None:
    z, noise = randn(3, 4, 8, 8, seed=1), randn(3, 4, 8, 8, seed=2)
    config = GuidanceConfig(guidance_scale=G, weighting=weighting)
    r = residual(tiny_prior64, z, embeds, TIMESTEPS, noise, config)
    assert not r.requires_grad
    for i, t in enumerate(TIMESTEPS):
        one = slice(i, i + 1)
        eps_hat = reference_prediction(tiny_prior64, z[one], t, noise[one], embeds)
        expected = weight(tiny_prior64, t, weighting) * (eps_hat - noise[one])
        torch.testing.assert_close(r[one], expected)


@pytest.mark.parametrize("weighting", ["one_minus_alphas_cumprod", "uniform"])
@pytest.mark.parametrize("size", [32, 64])
def test_full_gradient_is_eq_8(
    tiny_prior64: DiffusionPrior, embeds: PromptEmbeds, weighting: str, size: int
) -> None:
    """d = ∇_y ½ w(t) ‖ε̂(√ᾱ E(y) + √(1−ᾱ) ε) − ε‖², differentiated through U-Net and encoder."""
    y, noise = pictures(3, size), randn(3, 4, 8, 8, seed=2)
    config = GuidanceConfig(guidance_scale=G, jacobian="full", weighting=weighting)
    d = image_gradient(tiny_prior64, y, embeds, TIMESTEPS, noise, config)
    for i, t in enumerate(TIMESTEPS):
        one = slice(i, i + 1)
        leaf = y[one].clone().requires_grad_()
        z = reference_latent(tiny_prior64, leaf)
        eps_hat = reference_prediction(tiny_prior64, z, t, noise[one], embeds)
        loss = 0.5 * weight(tiny_prior64, t, weighting) * (eps_hat - noise[one]).square().sum()
        torch.testing.assert_close(d[one], torch.autograd.grad(loss, leaf)[0])


def test_full_gradient_against_finite_differences(
    tiny_prior64: DiffusionPrior, embeds: PromptEmbeds
) -> None:
    y, noise, t = pictures(1), randn(1, 4, 8, 8, seed=2), 600
    config = GuidanceConfig(guidance_scale=G, jacobian="full")
    d = image_gradient(tiny_prior64, y, embeds, t, noise, config)

    def loss(images: torch.Tensor) -> float:
        z = reference_latent(tiny_prior64, images)
        error = reference_prediction(tiny_prior64, z, t, noise, embeds) - noise
        return float(0.5 * weight(tiny_prior64, t, "") * error.square().sum())

    for seed in range(3):
        v, h = randn(1, 3, 32, 32, seed=10 + seed), 1e-5
        slope = (loss(y + h * v) - loss(y - h * v)) / (2 * h)
        assert slope == pytest.approx(float((d * v).sum()), rel=1e-5)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_skip_gradient_against_finite_differences(
    tiny_prior64: DiffusionPrior, embeds: PromptEmbeds, size: int
) -> None:
    """With r held fixed, d is the gradient of <E(resize(y)), r>."""
    y, noise = pictures(2, size), randn(2, 4, 8, 8, seed=2)
    config = GuidanceConfig(guidance_scale=G)
    d = image_gradient(tiny_prior64, y, embeds, [100, 700], noise, config)
    r = residual(tiny_prior64, tiny_prior64.encode(y), embeds, [100, 700], noise, config)
    for seed in range(3):
        v, h = randn(2, 3, size, size, seed=20 + seed), 1e-5
        change = tiny_prior64.encode(y + h * v) - tiny_prior64.encode(y - h * v)
        for i in range(2):
            slope = float((change[i] * r[i]).sum()) / (2 * h)
            assert slope == pytest.approx(float((d[i] * v[i]).sum()), rel=1e-5)


@pytest.mark.parametrize("jacobian", ["skip", "full"])
def test_a_timestep_per_sample_equals_single_calls(
    tiny_prior64: DiffusionPrior, embeds: PromptEmbeds, jacobian: str
) -> None:
    y, noise = pictures(3), randn(3, 4, 8, 8)
    config = GuidanceConfig(guidance_scale=G, jacobian=jacobian)
    together = image_gradient(tiny_prior64, y, embeds, torch.tensor(TIMESTEPS), noise, config)
    for i, t in enumerate(TIMESTEPS):
        one = slice(i, i + 1)
        alone = image_gradient(tiny_prior64, y[one], embeds, t, noise[one], config)
        torch.testing.assert_close(together[one], alone)
    # and the timestep matters
    assert not torch.allclose(
        together[:1], image_gradient(tiny_prior64, y[:1], embeds, 900, noise[:1], config)
    )


# ── top-k clipping ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("k", [1, 7, 255, 256, 1000])
def test_keep_largest_equals_sorting(k: int) -> None:
    r = randn(3, 4, 8, 8, seed=5)
    clipped = keep_largest(r, k)
    for i in range(3):
        order = r[i].flatten().abs().argsort(descending=True)[:k]
        expected = torch.zeros(256, dtype=r.dtype)
        expected[order] = r[i].flatten()[order]
        assert torch.equal(clipped[i].flatten(), expected)


def test_keep_largest_keeps_ties() -> None:
    r = torch.tensor([[[[3.0, -2.0], [2.0, 1.0]]]])
    assert keep_largest(r, 2).flatten().tolist() == [3.0, -2.0, 2.0, 0.0]


def test_clip_topk_applies_to_the_residual(
    tiny_prior64: DiffusionPrior, embeds: PromptEmbeds
) -> None:
    z, noise = randn(2, 4, 8, 8, seed=1), randn(2, 4, 8, 8, seed=2)
    for jacobian in ("skip", "full"):
        whole, clipped = (
            residual(
                tiny_prior64, z, embeds, 300, noise,
                GuidanceConfig(guidance_scale=G, jacobian=jacobian, clip_topk=k),
            )
            for k in (None, 10)
        )  # fmt: skip
        assert (clipped != 0).flatten(1).sum(1).tolist() == [10, 10]
        assert torch.equal(clipped[clipped != 0], whole[clipped != 0])


@pytest.mark.parametrize("jacobian", ["skip", "full"])
def test_residual_rms_changes_the_magnitude_alone(
    tiny_prior64: DiffusionPrior, embeds: PromptEmbeds, jacobian: str
) -> None:
    z, noise = randn(2, 4, 8, 8, seed=1), randn(2, 4, 8, 8, seed=2)
    config = GuidanceConfig(guidance_scale=G, jacobian=jacobian, clip_topk=10)
    whole, scaled = (
        residual(tiny_prior64, z, embeds, [40, 900], noise, replace(config, residual_rms=rms))
        for rms in (None, 0.5)
    )
    for a, b in zip(whole, scaled, strict=True):
        assert float(b.square().mean()) == pytest.approx(0.25)
        torch.testing.assert_close(b / b.norm(), a / a.norm())


def test_a_residual_of_zero_stays_zero() -> None:
    assert torch.equal(scale_to_rms(torch.zeros(1, 2, 3, 3), 1.0), torch.zeros(1, 2, 3, 3))


# ── guidance() ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("jacobian", ["skip", "full"])
def test_loss_backward_gives_the_image_gradient(
    tiny_prior64: DiffusionPrior, embeds: PromptEmbeds, jacobian: str
) -> None:
    config = GuidanceConfig(guidance_scale=G, jacobian=jacobian)
    y, noise = pictures(2).requires_grad_(), randn(2, 4, 8, 8)
    result = guidance(tiny_prior64, y, embeds, [100, 800], noise, config)
    result.latents.retain_grad()
    result.loss.backward()
    expected = image_gradient(tiny_prior64, y, embeds, [100, 800], noise, config)
    torch.testing.assert_close(y.grad, expected)
    torch.testing.assert_close(result.latents.grad, result.residual)
    with torch.no_grad():
        again = image_gradient(tiny_prior64, y, embeds, [100, 800], noise, config)
    assert torch.equal(again, expected)
    assert torch.equal(result.noise, noise) and result.timesteps.tolist() == [100, 800]
    networks = (tiny_prior64.vae, tiny_prior64.unet, tiny_prior64.text_encoder)
    assert all(p.grad is None for network in networks for p in network.parameters())


def test_skip_builds_no_graph_through_the_unet(tiny_prior: DiffusionPrior) -> None:
    seen: list[bool] = []
    hook = tiny_prior.unet.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    try:
        y = pictures(1).float().requires_grad_()
        guidance(tiny_prior, y, "old", 10, config=GuidanceConfig(jacobian="skip"))
        guidance(tiny_prior, y, "old", 10, config=GuidanceConfig(jacobian="full"))
    finally:
        hook.remove()
    assert seen == [False, True]


def test_noise_kinds(tiny_prior: DiffusionPrior) -> None:
    y = pictures(2).float()
    zero = guidance(tiny_prior, y, "old", 10, config=GuidanceConfig(noise="zero"))
    assert not zero.noise.any()
    draws = [
        guidance(tiny_prior, y, "old", 10, rng=torch.Generator().manual_seed(seed)).noise
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0][0], draws[0][1])
    many = draw_noise(tiny_prior, 64, GuidanceConfig(), torch.Generator().manual_seed(0))
    assert abs(float(many.mean())) < 0.03 and abs(float(many.std()) - 1) < 0.03


def test_residual_stays_float32_in_half_precision(
    tiny_sd: Path, tiny_prior: DiffusionPrior
) -> None:
    """g multiplies rounded differences, so it is applied in float32; the direction survives."""
    half = DiffusionPrior.from_pretrained(tiny_sd, dtype=torch.bfloat16)
    y, noise = pictures(2).float(), randn(2, 4, 8, 8).float()
    config = GuidanceConfig(guidance_scale=5.0)
    d = [
        image_gradient(prior, y, prior.encode_prompt("old"), 500, noise, config)
        for prior in (half, tiny_prior)
    ]
    assert d[0].dtype == torch.float32
    assert F.cosine_similarity(d[0].flatten(), d[1].flatten(), dim=0) > 0.97
    r = residual(half, half.encode(y), half.encode_prompt("old"), 500, noise, config)
    assert r.dtype == torch.float32


# ── bad input ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("function", [guidance, image_gradient])
def test_nan_is_named(tiny_prior: DiffusionPrior, function) -> None:
    y = pictures(3).float()
    y[1, 0, 5, 5] = float("nan")
    embeds, noise = tiny_prior.encode_prompt("old"), torch.zeros(3, 4, 8, 8)
    with pytest.raises(FloatingPointError, match=r"for sample 1 \(timestep 500\)\. Check that"):
        function(tiny_prior, y, embeds, TIMESTEPS, noise)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jacobian": "none"}, "jacobian must be one of skip, full; got 'none'"),
        ({"weighting": "sds"}, "weighting must be one of"),
        ({"noise": None}, "noise must be one of random, zero"),
        ({"guidance_scale": -1.0}, "guidance_scale must be a number"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number"),
        ({"guidance_scale": "7"}, "guidance_scale must be a number"),
        ({"clip_topk": 0}, "clip_topk must be a positive integer or None, got 0"),
        ({"clip_topk": 2.5}, "clip_topk must be a positive integer"),
        ({"residual_rms": 0.0}, "residual_rms must be a positive number, got 0.0"),
    ],
)
def test_bad_config(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuidanceConfig(**change)


def test_bad_arguments(tiny_prior: DiffusionPrior) -> None:
    y = pictures(2).float()
    with pytest.raises(ValueError, match="timestep 1000 is out of range"):
        guidance(tiny_prior, y, "old", [10, 1000])
    with pytest.raises(ValueError, match="prompt is empty"):
        guidance(tiny_prior, y, " ", 10)
    with pytest.raises(ValueError, match="noise has shape"):
        guidance(tiny_prior, y, "old", 10, noise=torch.zeros(2, 4, 4, 4))
    with pytest.raises(TypeError, match="floating-point"):
        guidance(tiny_prior, y.to(torch.uint8), "old", 10)


# ── balanced_guidance_scale() ─────────────────────────────────────────────────────────────────────


def test_balanced_scale_against_the_raw_unet(tiny_prior64: DiffusionPrior) -> None:
    images = torch.rand(5, 3, 32, 32, dtype=torch.float64) * 2 - 1
    embeds = tiny_prior64.encode_prompt("old hair")
    got = balanced_guidance_scale(
        tiny_prior64, images, embeds, [700, 900], guidance_rms=0.5, seed=3
    )
    noise = torch.randn(
        5, *tiny_prior64.latent_shape, generator=torch.Generator().manual_seed(3)
    ).double()
    t = torch.tensor([700, 900, 700, 900, 700])
    abar = tiny_prior64.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    z_t = abar.sqrt() * tiny_prior64.encode(images) + (1 - abar).sqrt() * noise
    cond, uncond = (
        tiny_prior64.unet(z_t, t, encoder_hidden_states=text.expand(5, -1, -1)).sample
        for text in (embeds.cond, embeds.uncond)
    )
    rms = ((1 - abar) * (cond - uncond)).square().mean().sqrt()
    want = min(max(0.5 / float(rms), 1.0), MAX_BALANCED_SCALE)
    assert 1 < want < MAX_BALANCED_SCALE, "the case must not be at a bound"
    assert got == pytest.approx(want, rel=6e-3)  # three digits
    assert balanced_guidance_scale(tiny_prior64, images, embeds, [700], guidance_rms=1e9) == (
        MAX_BALANCED_SCALE
    )


def test_pull_is_now_guidance_rms(tiny_prior64: DiffusionPrior) -> None:
    images = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    want = balanced_guidance_scale(tiny_prior64, images, "old hair", [700], guidance_rms=0.5)
    with pytest.warns(DeprecationWarning, match="pull is now called guidance_rms"):
        got = balanced_guidance_scale(tiny_prior64, images, "old hair", [700], pull=0.5)  # type: ignore[call-arg]
    assert got == want


def test_a_prompt_that_says_nothing_cannot_be_balanced(tiny_prior64: DiffusionPrior) -> None:
    embeds = tiny_prior64.encode_prompt("old hair")
    silent = replace(embeds, cond=embeds.uncond)
    images = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    with pytest.raises(ValueError, match="does not depend on the prompt"):
        balanced_guidance_scale(tiny_prior64, images, silent, [500])


@pytest.mark.parametrize("function", [guidance, image_gradient])
def test_images_in_0_to_255_are_refused(tiny_prior: DiffusionPrior, function) -> None:
    y = torch.rand(2, 3, 32, 32) * 2 - 1
    y[0, 1, 3, 4] = 9.0  # as generators overshoot
    noise = torch.zeros(2, *tiny_prior.latent_shape)
    embeds = tiny_prior.encode_prompt("old")
    function(tiny_prior, y, embeds, 500, noise)
    for wrong in (y * 127.5 + 127.5, (y * 127.5 - 127.5).double()):
        with pytest.raises(
            ValueError, match=r"images must be in \[-1, 1\], got values up to 1?[12]"
        ):
            function(tiny_prior, wrong, embeds, 500, noise)
    with pytest.raises(ValueError, match=r"images must be in \[-1, 1\]"):
        balanced_guidance_scale(tiny_prior, y * 127.5, "old", [500])
