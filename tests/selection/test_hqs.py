"""The HQS search against a float64 reference written from Eq. 8–12; its invariances and errors."""

from __future__ import annotations

import copy
import math
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdd_fast.files import load_tensors, save_tensors
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.gradients.image_gradient import EncodedImages, image_gradient
from sdd_fast.gradients.sds import residual
from sdd_fast.memory import SelectionSizes
from sdd_fast.progress import Progress
from sdd_fast.selection.curve import HQSCurve
from sdd_fast.selection.hqs import default_timesteps, hqs, image_noise
from sdd_fast.selection.partial import PartialCurves
from sdd_fast.selection.search import adaptive
from sdd_fast.teacher.attention import set_attention
from sdd_fast.teacher.prior import DiffusionPrior

CONFIG = GuidanceConfig(guidance_scale=10.0)
STEPS = [50, 300, 600, 900]


def pictures(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=rng) * 2 - 1


def reference_gradient(
    prior: DiffusionPrior, y: torch.Tensor, t: int, noise: torch.Tensor
) -> torch.Tensor:
    """d_t [3, H, W] of one image: w(t)·(ε̂ − ε) pulled back through the encoder."""
    embeds = prior.encode_prompt("white hair")
    leaf = y[None].double().requires_grad_()
    z = 0.18215 * prior.vae.quant_conv(prior.vae.encoder(leaf))[:, :4]
    abar = float(prior.alphas_cumprod[t])
    z_t = abar**0.5 * z.detach() + (1 - abar) ** 0.5 * noise
    eps_u = prior.unet(z_t, t, encoder_hidden_states=embeds.uncond).sample
    eps_c = prior.unet(z_t, t, encoder_hidden_states=embeds.cond).sample
    r = (1 - abar) * (eps_u + 10.0 * (eps_c - eps_u) - noise)
    return torch.autograd.grad((z * r).sum(), leaf)[0][0]


def reference_statistics(
    prior: DiffusionPrior, images: torch.Tensor, gradient_map: str, draws: int, seed: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Entropy and L1 by image and timestep, averaged over draws, in plain Python sums."""
    entropy, l1 = [], []
    for i, y in enumerate(images):
        noise = image_noise(prior, seed, i, draws, CONFIG).double()
        entropy_row, l1_row = [], []
        for t in STEPS:
            h = n = 0.0
            for draw in range(draws):
                d = reference_gradient(prior, y, t, noise[draw])
                values = (d if gradient_map == "signed" else d.abs().mean(0)).flatten().tolist()
                total = math.fsum(math.exp(v) for v in values)
                h -= math.fsum(math.exp(v) / total * (v - math.log(total)) for v in values)
                n += math.fsum(abs(v) for v in d.flatten().tolist())
            entropy_row.append(h / draws)
            l1_row.append(n / draws)
        entropy.append(entropy_row)
        l1.append(l1_row)
    return entropy, l1


def min_max(curve: list[float]) -> list[float]:
    low, high = min(curve), max(curve)
    return [(v - low) / (high - low) for v in curve]


@pytest.mark.parametrize("gradient_map", ["signed", "abs-mean"])
@pytest.mark.parametrize("draws", [1, 2])
def test_curve_is_eq_9_to_12(tiny_prior64: DiffusionPrior, gradient_map: str, draws: int) -> None:
    images = pictures(2)
    curve = hqs(
        tiny_prior64, images, "white hair", STEPS, config=CONFIG,
        gradient_map=gradient_map, noise_draws=draws, seed=7,
    )  # fmt: skip
    entropy, l1 = reference_statistics(tiny_prior64, images, gradient_map, draws, 7)
    expected = {"entropy": entropy, "l1": l1}
    for name, values in expected.items():
        torch.testing.assert_close(
            getattr(curve, name), torch.tensor(values, dtype=torch.float64), rtol=1e-9, atol=1e-12
        )
    n = images[0].numel() if gradient_map == "signed" else images[0, 0].numel()
    torch.testing.assert_close(curve.deficit, math.log(n) - curve.entropy, rtol=1e-6, atol=1e-12)

    per_image = [
        [b - a for a, b in zip(min_max(h), min_max(m), strict=True)]
        for h, m in zip(entropy, l1, strict=True)
    ]
    mean = torch.tensor(per_image, dtype=torch.float64).mean(0)
    torch.testing.assert_close(curve.mean, mean, rtol=1e-6, atol=1e-8)

    mean_h = [sum(column) / 2 for column in zip(*entropy, strict=True)]
    mean_n = [sum(column) / 2 for column in zip(*l1, strict=True)]
    of_mean = [b - a for a, b in zip(min_max(mean_h), min_max(mean_n), strict=True)]
    torch.testing.assert_close(
        replace(curve, normalize="of-mean").mean,
        torch.tensor(of_mean, dtype=torch.float64),
        rtol=1e-6,
        atol=1e-8,
    )


def test_full_jacobian_and_clipping_reach_the_curve(tiny_prior64: DiffusionPrior) -> None:
    images = pictures(1)
    curves = [
        hqs(tiny_prior64, images, "white hair", STEPS, config=replace(CONFIG, **change))
        for change in ({}, {"jacobian": "full"}, {"clip_topk": 5}, {"weighting": "uniform"})
    ]
    for other in curves[1:]:
        assert not torch.allclose(curves[0].l1, other.l1, rtol=1e-3)
        assert other.config != curves[0].config
    # ε and hence everything else is equal: without the weighting N_t is larger by 1 / w(t).
    w = 1 - tiny_prior64.alphas_cumprod[STEPS].double()
    torch.testing.assert_close(curves[3].l1 * w, curves[0].l1)


# ── cost ──────────────────────────────────────────────────────────────────────────────────────────


STEPS17 = list(range(100, 950, 50))


class Counts:
    """What an evaluation costs, counted at the networks and where the host waits for the device."""

    def __init__(self, prior: DiffusionPrior, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prior, self.encoded, self.texts, self.backward = prior, [], 0, 0
        self.calls, self.rows = prior.unet_calls, prior.unet_rows
        gradient = EncodedImages.gradient

        def encoding(module: Any, args: Any, output: torch.Tensor) -> None:
            self.encoded.append(len(output))

        def backward(*args: Any, **kwargs: Any) -> torch.Tensor:
            self.backward += 1
            return gradient(*args, **kwargs)

        def text(*args: Any) -> None:
            self.texts += 1

        monkeypatch.setattr(EncodedImages, "gradient", backward)
        attention = prior.vae.encoder.mid_block.attentions[0]  # there is one
        self.hooks = [attention.register_forward_hook(encoding),
                      prior.text_encoder.register_forward_hook(text)]  # fmt: skip

    def hqs(self, *args: Any, **kwargs: Any) -> Any:
        result = hqs(self.prior, *args, progress=False, **kwargs)
        for hook in self.hooks:
            hook.remove()
        self.calls = self.prior.unet_calls - self.calls
        self.rows = self.prior.unet_rows - self.rows
        return result


@pytest.mark.parametrize(
    ("count", "batch_size", "calls"),
    [
        (5, 8, 17),  # 10 rows a timestep, of 16
        (10, 4, 17 + 17 + 9),  # 8 rows a timestep, of 8; two timesteps of the last two images
        (3, 1, 3 * 17),
        (8, SelectionSizes(8, 64), 5),  # four timesteps a call
        (8, None, 5),
    ],
)
def test_what_one_prompt_costs(
    tiny_prior: DiffusionPrior, monkeypatch: pytest.MonkeyPatch, count: int, batch_size: Any,
    calls: int,
) -> None:  # fmt: skip
    """U-Net calls are filled across timesteps; one VAE forward per image serves them all."""
    counts = Counts(tiny_prior, monkeypatch)
    counts.hqs(pictures(count), "old", STEPS17, batch_size=batch_size)
    assert (counts.calls, counts.rows) == (calls, 2 * 17 * count)
    together = 8 if batch_size is None else getattr(batch_size, "images", batch_size)
    batches = math.ceil(count / together)
    assert sum(counts.encoded) == count and len(counts.encoded) == batches
    assert counts.backward == 17 * batches
    assert counts.texts == 2  # the prompt and ""


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device: results copied to it, and numbers read.

    From the first call of the U-Net on: before, prompts are encoded and checked.
    """

    def __init__(self, prior: DiffusionPrior, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.prior, self.calls, self.copies, self.scalars = prior, prior.unet_calls, 0, 0
        copy = torch.Tensor.cpu

        def counted(tensor: torch.Tensor) -> torch.Tensor:
            self.copies += prior.unet_calls > self.calls
            return copy(tensor)

        monkeypatch.setattr(torch.Tensor, "cpu", counted)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        if function is torch.ops.aten._local_scalar_dense.default:
            began = self.prior.unet_calls > self.calls
            self.scalars += began and args[0].is_floating_point()
        return function(*args, **(kwargs or {}))


PROMPTS = ["old", "white hair", "hair"]


@pytest.mark.parametrize(
    ("scales", "rows"),
    [((10.0, 10.0, 10.0), 4), ((10.0, 5.0, 1.0), 4), ((1.0, 1.0, 1.0), 3)],
)
def test_what_prompts_share(
    tiny_prior: DiffusionPrior, monkeypatch: pytest.MonkeyPatch, scales: tuple[float, ...],
    rows: int,
) -> None:  # fmt: skip
    """P + 1 rows instead of 2 P, and none without a prompt where g = 1."""
    painter, w_plus = Painter(), torch.randn(5, 2, 48, generator=torch.Generator().manual_seed(0))
    counts = Counts(tiny_prior, monkeypatch)
    configs = [GuidanceConfig(guidance_scale=scale) for scale in scales]
    with Waits(tiny_prior, monkeypatch) as waits:
        counts.hqs(
            w_plus, PROMPTS, STEPS, generator=painter, config=configs, noise_draws=2,
            batch_size=SelectionSizes(4, 64),
        )  # fmt: skip
    assert counts.rows == rows * 5 * len(STEPS) * 2
    assert counts.encoded == [4, 1] and painter.rendered == 5
    assert counts.texts == 2  # all prompts, and ""
    assert counts.backward == 2 * len(PROMPTS) * len(STEPS) * 2
    groups = math.ceil(len(STEPS) / (64 // (rows * 4 * 2))) + 1  # of the four images, of the last
    assert (waits.copies, waits.scalars) == (groups, 0)


def test_other_negative_prompts_break_sharing_only_where_they_differ(
    tiny_prior64: DiffusionPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeds = [
        tiny_prior64.encode_prompt("old"),
        tiny_prior64.encode_prompt("hair", "hat"),
        tiny_prior64.encode_prompt("white hair", "hat"),
    ]
    counts = Counts(tiny_prior64, monkeypatch)
    curves = counts.hqs(pictures(2), embeds, STEPS)
    assert counts.rows == (3 + 2) * 2 * len(STEPS)
    for embed, curve in zip(embeds, curves, strict=True):
        alone = hqs(tiny_prior64, pictures(2), embed, STEPS, progress=False)
        torch.testing.assert_close(curve.deficit, alone.deficit, rtol=1e-8, atol=0)


# ── what the result depends on ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("clip_topk", [None, 16])
def test_batch_size_does_not_matter(tiny_prior64: DiffusionPrior, clip_topk: int | None) -> None:
    """But for rounding, which in float64 exchanges no element for another one of the largest."""
    config = replace(CONFIG, clip_topk=clip_topk)
    curves = [
        hqs(
            tiny_prior64, pictures(5), "old", STEPS, config=config, noise_draws=3,
            batch_size=batch_size,
        )
        for batch_size in (1, 3, 16)
    ]  # fmt: skip
    for other in curves[1:]:
        torch.testing.assert_close(other.l1, curves[0].l1, rtol=1e-9, atol=0)
        torch.testing.assert_close(other.deficit, curves[0].deficit, rtol=1e-8, atol=0)


def test_prompts_together_are_prompts_alone(tiny_prior64: DiffusionPrior) -> None:
    """Also with scales of their own, and through the U-Net's Jacobian."""
    for jacobian in ("skip", "full"):
        configs = [GuidanceConfig(g, jacobian=jacobian) for g in (10.0, 3.0, 1.0)]
        together = hqs(
            tiny_prior64, pictures(3), PROMPTS, STEPS[:2], config=configs, batch_size=2, seed=5
        )
        assert [curve.prompt for curve in together] == PROMPTS
        for prompt, config, curve in zip(PROMPTS, configs, together, strict=True):
            alone = hqs(tiny_prior64, pictures(3), prompt, STEPS[:2], config=config, seed=5)
            assert curve.config == config
            torch.testing.assert_close(curve.l1, alone.l1, rtol=1e-9, atol=0)
            torch.testing.assert_close(curve.deficit, alone.deficit, rtol=1e-8, atol=0)
    (one,) = hqs(tiny_prior64, pictures(1), ["old"], STEPS[:1])
    assert one.num_images == 1


@pytest.mark.parametrize("gradient_map", ["signed", "abs-mean"])
def test_gradient_at_the_latent(tiny_prior64: DiffusionPrior, gradient_map: str) -> None:
    """The residual itself stands for d; from its definition, in plain Python sums."""
    curve = hqs(
        tiny_prior64, pictures(2), "old", STEPS[:2], config=CONFIG, gradient_at="latent",
        gradient_map=gradient_map,
    )  # fmt: skip
    embeds = tiny_prior64.encode_prompt("old")
    for i, y in enumerate(pictures(2)):
        noise = image_noise(tiny_prior64, 0, i, 1, CONFIG)
        z = tiny_prior64.encode(y[None])
        for j, t in enumerate(STEPS[:2]):
            r = residual(tiny_prior64, z, embeds, t, noise, CONFIG)[0]
            values = (r if gradient_map == "signed" else r.abs().mean(0)).flatten().tolist()
            total = math.fsum(math.exp(v) for v in values)
            h = -math.fsum(math.exp(v) / total * (v - math.log(total)) for v in values)
            assert float(curve.entropy[i, j]) == pytest.approx(h, rel=1e-9)
            assert float(curve.l1[i, j]) == pytest.approx(float(r.abs().sum()), rel=1e-9)
    assert curve.gradient_at == "latent"


def test_an_image_does_not_depend_on_the_others(tiny_prior64: DiffusionPrior) -> None:
    images = pictures(4)
    whole = hqs(tiny_prior64, images, "old", STEPS, config=CONFIG, batch_size=3)
    part = hqs(tiny_prior64, images[:2], "old", STEPS, config=CONFIG, batch_size=3)
    torch.testing.assert_close(part.scores, whole.scores[:2], rtol=1e-8, atol=1e-9)


def test_a_timestep_does_not_depend_on_the_others(tiny_prior64: DiffusionPrior) -> None:
    """Common random numbers: an image's noise is the same whichever timesteps are asked for."""
    whole = hqs(tiny_prior64, pictures(2), "old", STEPS, config=CONFIG)
    part = hqs(tiny_prior64, pictures(2), "old", [900, 300], config=CONFIG)
    assert part.timesteps == (300, 900)
    torch.testing.assert_close(part.l1, whole.l1[:, [1, 3]], rtol=1e-9, atol=0)


def test_seed_decides_everything(tiny_prior: DiffusionPrior) -> None:
    state = torch.random.get_rng_state()
    curves = [hqs(tiny_prior, pictures(2), "old", STEPS, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was used"
    assert torch.equal(curves[0].deficit, curves[1].deficit)
    assert not torch.equal(curves[0].deficit, curves[2].deficit)


def test_noise_of_images_draws_and_seeds_is_unrelated(tiny_prior: DiffusionPrior) -> None:
    noise = torch.cat(
        [image_noise(tiny_prior, s, i, 4, CONFIG).flatten(1) for s in (0, 1) for i in range(4)]
    )
    correlation = torch.corrcoef(noise) - torch.eye(len(noise))
    assert correlation.abs().max() < 5 / math.sqrt(noise.shape[1])
    assert torch.equal(
        image_noise(tiny_prior, 3, 1, 2, CONFIG), image_noise(tiny_prior, 3, 1, 4, CONFIG)[:2]
    )


def test_embeddings_and_text_agree(tiny_prior: DiffusionPrior) -> None:
    embeds = tiny_prior.encode_prompt("old hair", negative_prompt="white")
    curve = hqs(tiny_prior, pictures(1), embeds, STEPS)
    assert curve.prompt == "old hair" and curve.negative_prompt == "white"
    plain = hqs(tiny_prior, pictures(1), "old hair", STEPS)
    assert not torch.equal(curve.l1, plain.l1), "the negative prompt has no effect"
    embeds = tiny_prior.encode_prompt("old hair")
    assert torch.equal(hqs(tiny_prior, pictures(1), embeds, STEPS).l1, plain.l1)


class Painter(torch.nn.Module):
    """Stands for a StyleGAN2: W+ [B, 2, 48] → images [B, 3, 32, 32]; counts what it renders."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.rendered = 0

    def synthesis(self, w_plus: torch.Tensor) -> torch.Tensor:
        self.rendered += len(w_plus)
        small = (self.weight * w_plus).flatten(1)[:, :48].tanh().view(-1, 3, 4, 4)
        return torch.nn.functional.interpolate(small, (32, 32), mode="bilinear")


def test_latents_are_rendered_once(tiny_prior: DiffusionPrior) -> None:
    painter, w_plus = Painter(), torch.randn(5, 2, 48, generator=torch.Generator().manual_seed(0))
    curve = hqs(tiny_prior, w_plus, "old", STEPS, generator=painter, batch_size=2)
    assert painter.rendered == 5 and painter.weight.grad is None
    with torch.no_grad():
        images = painter.synthesis(w_plus)
    assert torch.equal(curve.l1, hqs(tiny_prior, images, "old", STEPS, batch_size=2).l1)


@pytest.mark.parametrize("gradient_map", ["signed", "abs-mean"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 32), (96, 96), (64, 128)])
def test_statistics_of_larger_images(
    tiny_prior64: DiffusionPrior, gradient_map: str, height: int, width: int
) -> None:
    """Of images at twice the teacher's size they come from half of it: H(d'/4) + log 4."""
    rng = torch.Generator().manual_seed(2)
    images = torch.rand(1, 3, height, width, generator=rng, dtype=torch.float64) * 2 - 1
    config = GuidanceConfig(guidance_scale=1e4)  # far from uniform
    shape = tiny_prior64.latent_shape_for(height, width)
    noise = image_noise(tiny_prior64, 0, 0, 1, config, shape)
    embeds = tiny_prior64.encode_prompt("old")
    d = image_gradient(tiny_prior64, images, embeds, 600, noise, config)
    curve = hqs(tiny_prior64, images, "old", [600], config=config, gradient_map=gradient_map)
    values = (d if gradient_map == "signed" else d.abs().mean(1)).flatten()
    log_p = values.log_softmax(0)
    entropy = -float((log_p.exp() * log_p).sum())
    assert float(curve.entropy) == pytest.approx(entropy, rel=1e-10)
    assert float(curve.deficit) == pytest.approx(math.log(len(values)) - entropy, rel=1e-8)
    assert float(curve.l1) == pytest.approx(float(d.abs().sum()), rel=1e-10)


def test_larger_images_are_accepted(tiny_prior64: DiffusionPrior) -> None:
    """At an exact factor 2 every gradient entry spreads over 2×2 pixels at ¼ of its value."""
    small = pictures(1)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    one, two = (hqs(tiny_prior64, y, "old", STEPS, config=CONFIG) for y in (small, large))
    torch.testing.assert_close(two.l1, one.l1, rtol=1e-6, atol=0)
    assert float((two.entropy - one.entropy).mean()) == pytest.approx(math.log(4), abs=1e-2)


def test_default_timesteps() -> None:
    assert default_timesteps() == list(range(50, 1000, 50))
    assert default_timesteps(200) == list(range(10, 200, 10))
    assert default_timesteps(4) == [0, 1, 2, 3]


def test_default_timesteps_are_used(tiny_prior: DiffusionPrior) -> None:
    assert hqs(tiny_prior, pictures(1), "old").timesteps == tuple(range(50, 1000, 50))


def test_no_progress_bar_without_a_terminal(
    tiny_prior: DiffusionPrior, capsys: pytest.CaptureFixture[str]
) -> None:
    hqs(tiny_prior, pictures(1), "old", STEPS, progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_progress_bar_counts_gradients(
    tiny_prior: DiffusionPrior, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    hqs(tiny_prior, pictures(2), "old", STEPS, noise_draws=2)
    assert "16/16" in capsys.readouterr().err
    hqs(tiny_prior, pictures(2), "old", STEPS, progress=False)
    assert capsys.readouterr().err == ""


# ── errors ────────────────────────────────────────────────────────────────────────────────────────


def test_nan_names_timestep_and_image(tiny_prior: DiffusionPrior) -> None:
    images = pictures(5)
    poison = image_noise(tiny_prior, 0, 3, 1, CONFIG)[0]

    def spoil(module, args, kwargs, output):
        """Make the prediction for image 3 at timestep 600 NaN, recognizing it by its noise."""
        z_t, t = args[0], args[1]
        abar = tiny_prior.alphas_cumprod[600]
        z = tiny_prior.encode(images[3:4])[0]
        expected = abar.sqrt() * z + (1 - abar).sqrt() * poison
        hit = (t == 600) & ((z_t - expected).abs() < 1e-3).flatten(1).all(1)
        output.sample[hit] = float("nan")
        return output

    hook = tiny_prior.unet.register_forward_hook(spoil, with_kwargs=True)
    try:
        with pytest.raises(
            FloatingPointError, match="for 'old' is NaN or infinite at timestep 600 for image 3"
        ):
            hqs(tiny_prior, images, "old", STEPS, batch_size=2)
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"timesteps": [10, 1000]}, ValueError, "timestep 1000 is out of range"),
        ({"timesteps": [-1]}, ValueError, "timestep -1 is out of range"),
        ({"timesteps": []}, ValueError, "timesteps is empty"),
        ({"timesteps": [10, 10, 20]}, ValueError, "distinct, got"),
        ({"timesteps": 1000}, ValueError, "timestep 1000 is out of range"),
        ({"timesteps": [0.5]}, TypeError, "must be integers"),
        ({"timesteps": "500"}, TypeError, "must be integers, got '500'"),
        ({"timesteps": [None]}, TypeError, "must be integers"),
        ({"prompt": ""}, ValueError, "prompt is empty"),
        ({"prompt": []}, ValueError, "the list of prompts is empty"),
        ({"prompt": ["old", "hair", "old"]}, ValueError, "must differ, but 'old' is given twice"),
        ({"prompt": ["old", ""]}, ValueError, "prompt is empty"),
        ({"prompt": ["old", 3]}, TypeError, "must be a string or its embeddings, got 3"),
        ({"prompt": ["old", "hair"], "partial": "p"}, ValueError, "got 1 partial files for 2 pro"),
        ({"config": [CONFIG, CONFIG]}, ValueError, "got 2 configs for 1 prompts"),
        (
            {"prompt": ["old", "hair"], "config": [CONFIG, replace(CONFIG, clip_topk=4)]},
            ValueError,
            "differ in guidance_scale alone",
        ),
        ({"search": "random"}, ValueError, "search must be one of exhaustive, adaptive"),
        ({"gradient_at": "noise"}, ValueError, "gradient_at must be one of image, latent"),
        ({"gradient_map": "abs"}, ValueError, "must be one of signed, abs-mean; got 'abs'"),
        ({"normalize": "global"}, ValueError, "normalize must be one of per-image, of-mean"),
        ({"noise_draws": 0}, ValueError, "noise_draws must be a positive integer, .*got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive integer, .*got 0"),
        ({"seed": -1}, ValueError, "seed must be an integer from 0 to .*got -1"),
        ({"images": torch.zeros(0, 3, 32, 32)}, ValueError, r"N ≥ 1, got \(0, 3, 32, 32\)"),
        ({"images": torch.zeros(4, 10, 64)}, ValueError, "pass generator= to give W"),
        ({"images": torch.zeros(1, 3, 32, 32).byte()}, TypeError, "floating-point"),
        ({"images": 255 * torch.ones(1, 3, 32, 32)}, ValueError, r"got values up to 255"),
        ({"images": torch.full((1, 3, 32, 32), math.nan)}, ValueError, r"images \[0\] contain NaN"),
        ({"generator": Painter()}, ValueError, r"W\+ latents must be \[N, num_layers, w_dim\]"),
        (
            {"config": GuidanceConfig(noise="zero"), "noise_draws": 2},
            ValueError,
            "all draws are equal",
        ),
    ],
)  # fmt: skip
def test_bad_input(tiny_prior: DiffusionPrior, change: dict, error, message: str) -> None:
    arguments = {"images": pictures(1), "prompt": "old", "timesteps": STEPS} | change
    calls = tiny_prior.unet_calls
    with pytest.raises(error, match=message):
        hqs(tiny_prior, **arguments)
    assert tiny_prior.unet_calls == calls, "the mistake was found only after the work"


def test_curve_survives_a_file(tiny_prior: DiffusionPrior, tmp_path: Path) -> None:
    curve = hqs(tiny_prior, pictures(2), "old", STEPS, config=CONFIG, seed=3, noise_draws=2)
    loaded = HQSCurve.load(curve.save(tmp_path / "curve.json"))
    assert torch.equal(loaded.mean, curve.mean)
    assert (loaded.prompt, loaded.seed, loaded.noise_draws) == ("old", 3, 2)
    assert loaded.config == CONFIG


# --- interrupted curves -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("images", [5, 2])
def test_an_interrupted_curve_goes_on_to_the_same_bits(
    tiny_prior: DiffusionPrior, tmp_path: Path, number: signal.Signals, images: int
) -> None:
    options = {"config": CONFIG, "batch_size": 4, "noise_draws": 2}
    y, partial = pictures(images), tmp_path / "p.safetensors"
    straight = hqs(tiny_prior, y, "white hair", STEPS, progress=False, **options)
    events: list[Progress] = []

    def stop(event: Progress) -> None:
        events.append(event)
        if len(events) == 3:
            os.kill(os.getpid(), number)

    words = r"stopped after \d+ of \d+ pairs .* Run the same again"
    with pytest.raises(KeyboardInterrupt, match=words):
        hqs(tiny_prior, y, "white hair", STEPS, progress=stop, partial=partial, **options)
    done = int(load_tensors(partial)[0]["done"].sum())
    assert 0 < done < images * len(STEPS)
    events.clear()
    resumed = hqs(
        tiny_prior, y, "white hair", STEPS, progress=events.append, partial=partial, **options
    )
    assert events[0].done == 2 * done and events[-1].done == events[-1].total
    for name in ("entropy", "deficit", "l1"):
        assert torch.equal(getattr(resumed, name), getattr(straight, name))
    # Kept until the curve is saved; nothing is computed again.
    calls = tiny_prior.unet_calls
    again = hqs(tiny_prior, y, "white hair", STEPS, progress=False, partial=partial, **options)
    assert torch.equal(again.l1, straight.l1) and tiny_prior.unet_calls == calls
    assert [path.name for path in tmp_path.iterdir()] == [partial.name]


def test_several_curves_go_on_to_the_same_bits(tiny_prior: DiffusionPrior, tmp_path: Path) -> None:
    """The files are of one prompt each, and go on with other prompts beside them too."""
    y, files = pictures(3), [tmp_path / f"{p}.safetensors" for p in range(3)]
    options: dict[str, Any] = {"config": CONFIG, "batch_size": 2}
    straight = hqs(tiny_prior, y, PROMPTS, STEPS, progress=False, **options)
    events: list[Progress] = []

    def stop(event: Progress) -> None:
        events.append(event)
        if len(events) == 10:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"kept in .*0\.safetensors and 2 more files"):
        hqs(tiny_prior, y, PROMPTS, STEPS, progress=stop, partial=files, **options)
    done = load_tensors(files[1])[0]["done"]
    assert 0 < int(done.sum()) < done.numel()
    events.clear()
    hqs(tiny_prior, y, PROMPTS[1:], STEPS, progress=events.append, partial=files[1:], **options)
    assert events[0].done == 2 * int(done.sum())
    for path in files[1:]:
        path.unlink()
    resumed = hqs(tiny_prior, y, PROMPTS, STEPS, progress=False, partial=files, **options)
    for one, other in zip(resumed, straight, strict=True):
        torch.testing.assert_close(one.deficit, other.deficit)


def test_what_was_kept_is_of_the_same_request_only(
    tiny_prior: DiffusionPrior, tmp_path: Path
) -> None:
    partial = tmp_path / "p.safetensors"

    def stop(event: Progress) -> None:
        if event.done:
            raise KeyboardInterrupt

    def begun(images: torch.Tensor, **changes: Any) -> int:
        options = {"config": CONFIG, "batch_size": 2, **changes}
        seen: list[int] = []

        def note(event: Progress) -> None:
            seen.append(event.done)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            hqs(tiny_prior, images, "white hair", STEPS, progress=note, partial=partial, **options)
        return seen[0]

    y = pictures(4)
    with pytest.raises(KeyboardInterrupt):
        hqs(
            tiny_prior, y, "white hair", STEPS, config=CONFIG, batch_size=2, progress=stop,
            partial=partial,
        )  # fmt: skip
    assert not partial.exists()  # the first timestep was not finished
    events = iter(range(100))

    def later(event: Progress) -> None:
        if next(events) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hqs(
            tiny_prior, y, "white hair", STEPS, config=CONFIG, batch_size=2, progress=later,
            partial=partial,
        )  # fmt: skip
    assert begun(y) > 0
    assert begun(y, batch_size=4) > 0  # another size is rounding only
    assert begun(y, seed=1) == begun(pictures(4, seed=1)) == begun(y, gradient_at="latent") == 0
    with torch.no_grad():
        weight = next(tiny_prior.unet.parameters())
        weight.neg_()
        try:
            assert begun(y) == 0
        finally:
            weight.neg_()
    with pytest.warns(UserWarning, match="of another request and starts over") as warned:
        begun(y, seed=2)
    # Commands show what comes from this package.
    assert any("starts over" in str(w.message) and "sdd_fast" in w.filename for w in warned)
    schedule, attention = tiny_prior.schedule, {"unet": tiny_prior.unet, "vae": tiny_prior.vae}
    scale = tiny_prior.vae.config.scaling_factor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each starts over
        try:
            begun(y)
            tiny_prior.schedule = copy.copy(schedule)
            tiny_prior.schedule.prediction_type = "v_prediction"
            assert begun(y) == 0
            tiny_prior.schedule = schedule
            tiny_prior.vae.register_to_config(scaling_factor=2 * scale)
            assert begun(y) == 0
            tiny_prior.vae.register_to_config(scaling_factor=scale)
            set_attention(attention, "sdpa-math", 8)
            assert begun(y) == 0
        finally:
            tiny_prior.schedule = schedule
            tiny_prior.vae.register_to_config(scaling_factor=scale)
            set_attention(attention, "sdpa", 8)
    whole = partial.read_bytes()
    partial.write_bytes(whole[:50])
    with pytest.raises(ValueError, match=r"p\.safetensors .*delete it, or choose another folder"):
        hqs(tiny_prior, y, "white hair", STEPS, partial=partial)
    save_tensors(partial, {"mine": torch.zeros(2)}, {})
    mine = partial.read_bytes()
    with pytest.raises(FileExistsError, match="is in the place of an unfinished HQS curve"):
        hqs(tiny_prior, y, "white hair", STEPS, partial=partial)
    assert partial.read_bytes() == mine


# --- adaptive search ----------------------------------------------------------------------------


class Peaks:
    """Stands for an `Evaluator`: each prompt's H and N are best at a timestep of its own."""

    def __init__(
        self, peaks: list[int], count: int, steps: int, noise: float, at_once: int
    ) -> None:
        rng = torch.Generator().manual_seed(0)
        self.prompts, self.timesteps, self.at_once = peaks, list(range(steps)), at_once
        shape = (1, 2, count, steps)
        wobble = noise * torch.randn(shape, generator=rng, dtype=torch.float64)
        at = torch.arange(steps).double()
        height = torch.stack([torch.exp(-(((at - p) / 4) ** 2)) for p in peaks])
        l1_deficit = height[:, None, None] + wobble
        self.statistics = torch.cat([-l1_deficit[:, 1:], l1_deficit], dim=1)  # [P, 3, N, T]
        self.asked: list[tuple[range, int]] = []

    def batches(self, images: range) -> list[range]:
        return [images[i : i + self.at_once] for i in range(0, len(images), self.at_once)]

    def evaluate(self, images: range, wanted: torch.Tensor) -> Any:
        pairs = [(int(p), int(j)) for p, j in wanted.nonzero()]
        self.asked.append((images, len(pairs)))
        some = self.statistics[:, :, images.start : images.stop]
        yield pairs, torch.stack([some[p, :, :, j] for p, j in pairs], dim=1)


@pytest.mark.parametrize("at_once", [8, 3])
def test_adaptive_search_finds_clear_peaks_at_little_cost(at_once: int) -> None:
    peaks = Peaks([12, 4, 18], count=64, steps=19, noise=0.02, at_once=at_once)
    kept = PartialCurves(None, (64, 19), [None] * 3)
    found = adaptive(peaks, kept, "per-image")  # type: ignore[arg-type]
    for p, (peak, one) in enumerate(zip(peaks.prompts, found, strict=True)):
        images = one.wanted.any(1)
        assert one.confidence is not None and one.confidence >= 0.95
        assert int(images.sum()) <= 16, "a settled search went on"
        assert torch.equal(kept.done[p], one.wanted)
        mean = kept.statistics[p, 1][images].masked_fill(~one.wanted[images], -9).mean(0)
        assert int(mean.argmax()) == peak
    assert float(kept.done.double().mean()) < 0.2
    again = adaptive(peaks, kept, "per-image")  # type: ignore[arg-type]
    assert all(torch.equal(a.wanted, b.wanted) for a, b in zip(found, again, strict=True))


def test_an_adaptive_search_does_not_depend_on_what_is_computed_at_once() -> None:
    whole: list[torch.Tensor] = []
    for at_once in (1, 3, 8, 16):
        peaks = Peaks([12, 5], count=40, steps=19, noise=0.2, at_once=at_once)
        kept = PartialCurves(None, (40, 19), [None] * 2)
        found = adaptive(peaks, kept, "per-image")  # type: ignore[arg-type]
        assert max(len(images) for images, _ in peaks.asked) <= at_once
        confidences = torch.tensor([one.confidence for one in found])[:, None, None]
        whole.append(torch.cat([one.wanted[None] for one in found]) * (1 + confidences))
    assert all(torch.equal(one, whole[0]) for one in whole)
    assert 0 < int((whole[0] > 0).sum()) < whole[0].numel() / 2


def test_confidence_is_that_of_the_largest() -> None:
    """Whether or not a timestep that was dropped looks better on the images that it has."""
    dropped = 0
    for seed in range(100, 170):
        rng = torch.Generator().manual_seed(seed)
        shape = (2, 64, 19)  # N and the deficit
        height = torch.sin(torch.linspace(0.5, 2.6, 19, dtype=torch.float64))
        noise = torch.randn(shape, generator=rng, dtype=torch.float64)
        l1, deficit = (2 * height + 0.25 * noise).exp()
        peaks = Peaks([0], count=64, steps=19, noise=0, at_once=8)
        peaks.statistics = torch.stack([-deficit, l1, deficit])[None]
        kept = PartialCurves(None, (64, 19), [None])
        (found,) = adaptive(peaks, kept, "per-image")  # type: ignore[arg-type]
        asked = found.wanted[found.wanted.any(1)]
        steps = asked.any(0)
        entropy, l1, deficit = (
            table[: len(asked)].masked_fill(~asked, torch.nan)[:, steps]
            for table in peaks.statistics[0]
        )
        curve = HQSCurve(tuple(steps.nonzero().flatten().tolist()), entropy, deficit, l1)
        complete = curve.evaluated.all(0)
        scores = curve.scores[:, complete]
        of_complete = [t for t, there in zip(curve.timesteps, complete, strict=True) if there]
        assert curve.largest() == curve.top(1)[0] == of_complete[int(scores.mean(0).argmax())]
        picked = torch.randint(len(scores), (4000, len(scores)), generator=rng)
        winners = scores[picked].mean(1).argmax(1)
        share = float((winners == of_complete.index(curve.largest())).double().mean())
        assert found.confidence == pytest.approx(share, abs=0.06)
        best = scores[:, [of_complete.index(curve.largest())]]
        dropped += bool(((curve.scores - best).nanmean(0) > 0).any())
    assert dropped


def test_adaptive_search_goes_on_while_timesteps_tie() -> None:
    peaks = Peaks([12], count=40, steps=19, noise=0.3, at_once=8)
    kept = PartialCurves(None, (40, 19), [None])
    (found,) = adaptive(peaks, kept, "of-mean")  # type: ignore[arg-type]
    assert found.confidence is not None and found.confidence < 0.95
    assert bool(found.wanted.any(1).all()) and not bool(found.wanted.all())
    counts = found.wanted.sum(1)
    assert int(counts[0]) > int(counts[-1]) > 1  # some were dropped


@pytest.mark.parametrize("prompts", ["old", PROMPTS])
def test_curves_of_an_adaptive_search(
    tiny_prior: DiffusionPrior, tmp_path: Path, prompts: Any
) -> None:
    """Where it evaluates, it finds what an exhaustive search does; the file tells where."""
    times = list(range(100, 950, 50))
    images = pictures(12)
    found, whole = (
        hqs(tiny_prior, images, prompts, times, search=search, batch_size=4, progress=False)
        for search in ("adaptive", "exhaustive")
    )
    for curve, all_of_it in zip(
        *([x] if isinstance(x, HQSCurve) else x for x in (found, whole)), strict=True
    ):
        loaded = HQSCurve.load(curve.save(tmp_path / "curve.json"))
        assert (loaded.search, loaded.confidence) == ("adaptive", curve.confidence)
        assert torch.equal(loaded.evaluated, curve.evaluated)
        spent, total = loaded.evaluations
        assert spent == int(curve.evaluated.sum()) < total == 17 * curve.num_images
        columns = [all_of_it.timesteps.index(t) for t in curve.timesteps]
        there = all_of_it.l1[: curve.num_images, columns][curve.evaluated]
        torch.testing.assert_close(curve.l1[curve.evaluated], there, rtol=1e-3, atol=0)
        assert bool(curve.mean.isfinite().all()) and curve.largest() in curve.timesteps
        assert curve.plot(tmp_path / "curve.png").stat().st_size > 1000


def test_few_images_are_searched_adaptively_too(tiny_prior: DiffusionPrior, tmp_path: Path) -> None:
    curve = hqs(tiny_prior, pictures(1), "old", STEPS, search="adaptive")
    assert curve.num_images == 1 and curve.timesteps == tuple(STEPS)
    assert curve.confidence is None  # all bootstraps of one image are alike
    curve.save(tmp_path / "curve.json")
    assert HQSCurve.load(tmp_path / "curve.json").confidence is None
    assert hqs(tiny_prior, pictures(2), "old", [500], search="adaptive").largest() == 500
