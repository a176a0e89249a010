from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.objective import (
    Learner,
    Objective,
    draw,
    draw_prior_timesteps,
    irrelevance,
)
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.models import LevelsMapper, StyleGAN2, StyleSpaceMapper
from sdd_fast.teacher.prior import DiffusionPrior

PROMPT, TIMESTEPS = "white hair", torch.tensor([150, 400, 800])


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    network = StyleGAN2(64, w_dim=16, z_dim=16, n_mlp=1, channel_base=256, channel_max=4)
    return network.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def w_plus() -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(5, 10, 16, generator=rng, dtype=torch.float64)


@pytest.fixture(scope="module")
def identity() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 8)).double()


def config(**changes: Any) -> DistillConfig:
    settings: dict[str, Any] = {
        "batch_size": 3, "lam": 0.7, "l2_weight": 0.9, "identity_weight": 0.8,
        "range_weight": 0.6, "keep_weight": 0.5, "prior_weight": 0.0, "seed": 7,
        "guidance": GuidanceConfig(guidance_scale=30.0),
    }  # fmt: skip
    return DistillConfig(**(settings | changes))


def make_objective(
    prior: DiffusionPrior, generator: Any, data: Tensor, mapper: nn.Module,
    identity: nn.Module | None, config: DistillConfig,
) -> Objective:  # fmt: skip
    embeds = prior.encode_prompt(PROMPT)
    learner = Learner(mapper, embeds, TIMESTEPS, config.guidance or GuidanceConfig())
    return Objective(prior, generator, data, [learner], identity, config)


def teacher_residual(
    prior: DiffusionPrior, images: Tensor, t: Tensor, noise: Tensor, config: DistillConfig
) -> tuple[Tensor, Tensor]:
    """(z, r) of Sec. 4.2, steps 1–3, from the raw networks. Sizes 64 → 32 are the 2×2 average."""
    y = F.avg_pool2d(images, 2) if images.shape[-1] == 64 else images
    z = prior.vae.config.scaling_factor * prior.vae.encode(y).latent_dist.mean
    abar = prior.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    z_t = abar.sqrt() * z + (1 - abar).sqrt() * noise
    tokens = prior.tokenizer(
        ["", PROMPT], padding="max_length", max_length=16, return_tensors="pt"
    ).input_ids
    text = prior.text_encoder(tokens).last_hidden_state
    out = [
        prior.unet(z_t, t, encoder_hidden_states=row.expand(len(t), -1, -1)).sample for row in text
    ]
    eps_hat = out[0] + config.guidance.guidance_scale * (out[1] - out[0])
    return z, ((1 - abar) * (eps_hat - noise)).detach()


def reference_gradient(
    prior: DiffusionPrior, generator: StyleGAN2, w: Tensor, mapper: nn.Module, t: Tensor,
    noise: Tensor, identity: nn.Module, config: DistillConfig,
) -> list[Tensor]:  # fmt: skip
    """Gradient of the whole loss by plain autograd through one explicit expression."""
    scale = getattr(mapper, "scale", 1.0)
    delta = config.lam * mapper(w)
    after = generator.synthesis(w + delta)
    before = generator.synthesis(w)
    z, r = teacher_residual(prior, after, t, noise, config)
    (d,) = torch.autograd.grad((z * r).sum(), after, retain_graph=True)
    total = (z * r).sum() / (z.numel() if config.reduction == "mean" else 1)
    total = total + config.l2_weight * (delta / scale).pow(2).mean()
    a, b = identity(after), identity(before)
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    total = total + config.identity_weight * (1 - cosine).mean()
    excess = (after - 1).clamp(min=0) + (-after - 1).clamp(min=0)
    total = total + config.range_weight * excess.pow(2).mean()
    saliency = F.avg_pool2d(F.pad(d.abs().mean(1, keepdim=True), [2] * 4), 5, 1)
    saliency = saliency / saliency.mean((1, 2, 3), keepdim=True)
    mask = (1 - (saliency + saliency.mean(0, keepdim=True)) / 4).clamp(min=0)
    total = total + config.keep_weight * (mask * (after - before).abs()).mean()
    return list(torch.autograd.grad(total, list(mapper.parameters())))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient_of_a_step_against_float64_autograd(
    tiny_prior64: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor, identity: nn.Module,
    reduction: str,
) -> None:  # fmt: skip
    torch.manual_seed(3)
    scale = torch.rand(10, 16) + 0.5
    mapper = LevelsMapper(10, 16, zero_init=False, scale=scale, lr_multiplier=1.0).double()
    settings = config(reduction=reduction)
    step = 4
    objective = make_objective(tiny_prior64, generator, w_plus, mapper, identity, settings)
    loss, measured = objective.loss(step)
    loss.backward()
    index, t, noise = draw(settings, step, 5, TIMESTEPS, tiny_prior64.latent_shape)
    want = reference_gradient(
        tiny_prior64, generator, w_plus[index], mapper, t, noise.double(), identity, settings
    )
    for parameter, gradient in zip(mapper.parameters(), want, strict=True):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-11)
    assert set(measured) == {"residual", "l2", "identity_loss", "range", "keep"}
    assert all(float(value) > 0 and not value.requires_grad for value in measured.values())


def test_every_term_counts(
    tiny_prior64: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor, identity: nn.Module
) -> None:
    """Each weight changes the gradient, and a weight of zero leaves its term out."""
    torch.manual_seed(3)
    mapper = LevelsMapper(10, 16, zero_init=False).double()

    def gradient(**changes: float) -> tuple[Tensor, set[str]]:
        settings = config(**changes)
        objective = make_objective(tiny_prior64, generator, w_plus, mapper, identity, settings)
        loss, measured = objective.loss(0)
        parameters = list(mapper.parameters())
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]), set(
            measured
        )

    full, names = gradient()
    for term in ("l2", "identity", "range", "keep"):
        without, left = gradient(**{f"{term}_weight": 0.0})
        assert names - left == {"identity_loss" if term == "identity" else term}
        assert not torch.allclose(full, without, rtol=1e-3)


def test_the_teacher_judges_images_once_there_is_an_edit(
    tiny_prior64: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor
) -> None:
    torch.manual_seed(3)
    settings = config(
        steps=10, identity_weight=0.0, range_weight=0.0, keep_weight=0.0, l2_weight=0.0,
        prior_weight=5.0, prior_timesteps=(20, 90),
    )  # fmt: skip
    mapper = LevelsMapper(10, 16, zero_init=False).double()
    objective = make_objective(tiny_prior64, generator, w_plus, mapper, None, settings)
    for step, weight in ((1, 0.0), (2, 5.0)):
        calls, rows = tiny_prior64.unet_calls, tiny_prior64.unet_rows
        loss, _ = objective.loss(step)
        got = torch.autograd.grad(loss, list(mapper.parameters()))
        used = tiny_prior64.unet_calls - calls, tiny_prior64.unet_rows - rows
        assert used == ((1, 6) if weight == 0 else (1, 9))
        index, t, noise = draw(settings, step, 5, TIMESTEPS, tiny_prior64.latent_shape)
        small = draw_prior_timesteps(settings, step)
        assert 20 <= int(small.min()) and int(small.max()) <= 90
        after = generator.synthesis(w_plus[index] + settings.lam * mapper(w_plus[index]))
        z, r = teacher_residual(tiny_prior64, after, t, noise.double(), settings)
        plain = config(guidance=GuidanceConfig(guidance_scale=1.0))
        _, judged = teacher_residual(tiny_prior64, after, small, noise.double(), plain)
        abar = tiny_prior64.alphas_cumprod.double()[small].view(-1, 1, 1, 1)
        total = (z * (r + weight * judged / (1 - abar))).mean()
        want = torch.autograd.grad(total, list(mapper.parameters()))
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-11)


def test_style_space_and_image_manipulators(
    tiny_prior64: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor
) -> None:
    torch.manual_seed(3)
    settings = config(identity_weight=0.0, range_weight=0.0, keep_weight=0.0, l2_weight=2.0)
    index, t, noise = draw(settings, 0, 5, TIMESTEPS, tiny_prior64.latent_shape)

    mapper = StyleSpaceMapper(generator.style_dims, zero_init=False).double()
    loss, _ = make_objective(tiny_prior64, generator, w_plus, mapper, None, settings).loss(0)
    got = torch.autograd.grad(loss, list(mapper.parameters()))
    styles = generator.style_vectors(w_plus[index])
    deltas = [settings.lam * delta for delta in mapper(styles)]
    after = generator.synthesis_from_styles([s + x for s, x in zip(styles, deltas, strict=True)])
    z, r = teacher_residual(tiny_prior64, after, t, noise.double(), settings)
    total = (z * r).mean() + 2.0 * torch.cat(deltas, 1).pow(2).mean()
    want = torch.autograd.grad(total, list(mapper.parameters()))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-11)

    # Any image → image module, without a generator: here one that adds an image.
    class Add(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.randn(3, 32, 32, dtype=torch.float64) * 0.1)

        def forward(self, images: Tensor) -> Tensor:
            return images + self.offset

    data = torch.rand(5, 3, 32, 32, dtype=torch.float64) * 2 - 1
    painter = Add()
    loss, _ = make_objective(tiny_prior64, None, data, painter, None, settings).loss(0)
    (got_offset,) = torch.autograd.grad(loss, painter.offset)
    z, r = teacher_residual(tiny_prior64, data[index] + painter.offset, t, noise.double(), settings)
    total = (z * r).mean() + 2.0 * painter.offset.pow(2).mean()
    (want_offset,) = torch.autograd.grad(total, painter.offset)
    torch.testing.assert_close(got_offset, want_offset, rtol=1e-6, atol=1e-11)


def test_draws_depend_on_seed_and_step_only() -> None:
    settings = config()
    shape = (4, 8, 8)
    for step in (0, 1, 2**20):
        torch.manual_seed(step)  # the global generator must not matter
        first, second = (draw(settings, step, 5, TIMESTEPS, shape) for _ in range(2))
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)
    noises = [
        draw(config(seed=seed), step, 5, TIMESTEPS, shape)[2]
        for seed in (0, 1, 2**32, 2**64 - 1)
        for step in range(4)
    ]
    assert len({noise.numpy().tobytes() for noise in noises}) == len(noises)


def test_draws_cover_data_and_timesteps() -> None:
    settings = config(batch_size=4)
    batches = [draw(settings, step, 10, TIMESTEPS, (4, 8, 8)) for step in range(60)]
    for epoch in range(20):
        seen = torch.cat([batches[3 * epoch + i][0] for i in range(3)])
        assert set(seen.tolist()) == set(range(10))
    assert torch.equal(batches[0][0], batches[3][0])  # batches recur, so their features are cached
    t = torch.stack([timesteps for _, timesteps, _ in batches])
    counts = torch.stack([(t == value).sum() for value in TIMESTEPS])
    assert counts.sum() == 240 and (counts > 55).all()
    assert any(len(set(row.tolist())) > 1 for row in t)  # a timestep for each sample
    noise = torch.stack([noise for _, _, noise in batches])
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    # One latent may fill a whole batch, each copy with its own timestep and noise.
    index, _, noise = draw(settings, 0, 1, TIMESTEPS, (4, 8, 8))
    assert index.tolist() == [0] * 4 and not torch.equal(noise[0], noise[1])


def test_noise_can_be_zero() -> None:
    settings = config(guidance=GuidanceConfig(noise="zero"))
    assert not draw(settings, 0, 5, TIMESTEPS, (4, 8, 8))[2].any()


def test_irrelevance_is_zero_where_the_teacher_cares() -> None:
    d = torch.full((2, 3, 32, 32), 0.01)
    d[:, :, 8:16, 8:16] = -1.0
    m = irrelevance(d)
    assert m.shape == (2, 1, 32, 32)
    assert m[:, :, 10:14, 10:14].max() == 0
    assert m[:, :, 20:].min() > 0.9 and m.max() <= 1
    assert torch.isfinite(irrelevance(torch.zeros(1, 3, 8, 8))).all()


def test_before_features_are_computed_once_per_batch(
    tiny_prior64: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor
) -> None:
    calls = []

    class Count(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            calls.append(torch.is_grad_enabled())
            return images.mean((2, 3))

    mapper = LevelsMapper(10, 16).double()
    objective = make_objective(tiny_prior64, generator, w_plus, mapper, Count(), config())
    for step in range(6):  # 5 latents in batches of 3: two batches, three epochs
        objective.loss(step)
    assert calls.count(True) == 6 and calls.count(False) == 2


def test_learning_rate_schedule() -> None:
    settings = DistillConfig(steps=100, lr=2.0, warmup=0.1, decay=0.3)
    rates = [settings.lr_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[70] == 2.0
    assert rates[85] == pytest.approx(1.0) and rates[99] == pytest.approx(2.0 / 30)
    assert {DistillConfig.paper().lr_at(step) for step in (0, 10, 3999)} == {5e-3}


def test_the_papers_settings() -> None:
    paper = DistillConfig.paper(steps=10)
    assert (paper.steps, paper.batch_size, paper.lr, paper.weight_decay) == (10, 2, 5e-3, 2e-3)
    assert (paper.lam, paper.l2_weight, paper.identity_weight, paper.seed) == (0.1, 10, 1, 1010)
    assert paper.guidance.guidance_scale == 100 and paper.reduction == "sum"


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"steps": 2.5}, {"batch_size": True}, {"lr": 0.0}, {"lr": float("nan")},
        {"lam": -1.0}, {"l2_weight": -0.1}, {"identity_weight": float("inf")}, {"warmup": 1.5},
        {"decay": -0.1}, {"reduction": "max"}, {"log_every": 0},
    ],
)  # fmt: skip
def test_config_is_checked(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        DistillConfig(**wrong)
