"""Distillation under the Delta Denoising Score: its gradient, its cost, and that it resumes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.distill import distill
from sdd_fast.distillation.objective import Learner, Objective, draw
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.models import LevelsMapper, StyleGAN2
from sdd_fast.progress import Progress
from sdd_fast.teacher.prior import DiffusionPrior

pytestmark = pytest.mark.filterwarnings("ignore:the words? .* not in the vocabulary")

PROMPTS, SOURCE, TIMESTEPS = ["white hair", "bald"], "old face", [150, 800]


@pytest.fixture(scope="module")
def w_plus() -> Tensor:
    return torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1))


def settings(**changes: Any) -> DistillConfig:
    given: dict[str, Any] = {
        "steps": 5, "batch_size": 2, "gradient": "dds", "source_prompt": SOURCE,
        "guidance": GuidanceConfig(7.5), "prior_timesteps": (20, 90), "checkpoint_every": 2,
    }  # fmt: skip
    return DistillConfig(**given | changes)


@pytest.fixture(scope="module")
def run(tiny_prior: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor) -> Callable[..., Any]:
    def call(prompts: Any, config: DistillConfig, **arguments: Any) -> Any:
        given = {"config": config, "progress": False} | arguments
        return distill(tiny_prior, generator, w_plus, prompts, TIMESTEPS, **given)

    return call


def guided(prior: DiffusionPrior, z: Tensor, t: Tensor, noise: Tensor, prompt: str) -> Tensor:
    """ε̂ with g = 7.5, from the raw networks; the latents that it depends on are held constant."""
    abar = prior.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    z_t = abar.sqrt() * z.detach() + (1 - abar).sqrt() * noise
    tokens = prior.tokenizer(
        ["", prompt], padding="max_length", max_length=16, return_tensors="pt"
    ).input_ids
    without, with_prompt = (
        prior.unet(z_t, t, encoder_hidden_states=row.expand(len(t), -1, -1)).sample
        for row in prior.text_encoder(tokens).last_hidden_state
    )
    return (without + 7.5 * (with_prompt - without)).detach()


@pytest.mark.parametrize("prior_weight", [0.0, 5.0])
def test_gradient_of_a_step_against_float64_autograd(
    tiny_prior64: DiffusionPrior, w_plus: Tensor, prior_weight: float
) -> None:
    torch.manual_seed(0)
    network = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
    network = network.double().eval().requires_grad_(False)
    data, prior, step = w_plus.double(), tiny_prior64, 4
    config = settings(prior_weight=prior_weight, l2_weight=0.0, range_weight=0.0, keep_weight=0.0)
    mapper = LevelsMapper(8, 8, ["coarse", "medium"], zero_init=False).double()
    text = prior.encode_prompt(PROMPTS[0])
    learner = Learner(mapper, text, torch.tensor(TIMESTEPS), config.guidance)
    objective = Objective(prior, network, data, [learner], None, config)
    loss, _ = objective.loss(step)
    got = torch.autograd.grad(loss, list(mapper.parameters()))

    index, t, noise = draw(config, step, 5, learner.timesteps, prior.latent_shape)
    w, noise = data[index], noise.double()
    scale = prior.vae.config.scaling_factor
    original, z = (
        scale * prior.vae.encode(network.synthesis(latent)).latent_dist.mean
        for latent in (w, w + config.lam * mapper(w))
    )
    weight = 1 - prior.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    r = weight * (
        guided(prior, z, t, noise, PROMPTS[0]) - guided(prior, original, t, noise, SOURCE)
    )
    if prior_weight:
        small = objective.inputs(step, (0,)).small
        assert small is not None
        abar = prior.alphas_cumprod.double()[small].view(-1, 1, 1, 1)
        z_t = abar.sqrt() * z.detach() + (1 - abar).sqrt() * noise
        judged = prior.unet(z_t, small, encoder_hidden_states=text.cond.expand(2, -1, -1)).sample
        r = r + prior_weight * (judged - noise).detach()
    want = torch.autograd.grad((z * r).mean(), list(mapper.parameters()))
    for a, b in zip(got, want, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-11)


def test_calls_and_rows_of_the_unet(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two predictions with guidance a step, and a row for the judge; originals are encoded once."""
    seen: Counter[tuple[str, int]] = Counter()

    def counted(name: str) -> None:
        function = getattr(DiffusionPrior, name)

        def call(self: DiffusionPrior, x: Tensor, *rest: Any) -> Any:
            seen[name, len(x)] += 1
            return function(self, x, *rest)

        monkeypatch.setattr(DiffusionPrior, name, call)

    counted("unet_output")
    counted("encode")
    run(PROMPTS[0], settings(steps=10, prior_weight=0.0))
    # of 5 latents three batches, which recur
    assert seen == {("unet_output", 4): 20, ("encode", 2): 10 + 3}
    seen.clear()
    run(PROMPTS[0], settings(steps=10))
    assert seen == {("unet_output", 4): 20, ("unet_output", 2): 8, ("encode", 2): 10 + 3}


def test_several_prompts_get_what_they_get_alone(run: Callable[..., Any]) -> None:
    together = run(PROMPTS, settings(steps=1, lr=0.5))
    for prompt, result in zip(PROMPTS, together, strict=True):
        alone = run(prompt, settings(steps=1, lr=0.5))
        for name in ("residual", "gradient"):
            assert result.history[0][name] == pytest.approx(alone.history[0][name], rel=1e-4)
    assert together[0].history[0]["residual"] != together[1].history[0]["residual"]


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    def stop(event: Progress) -> None:
        if event.done == 3 and not event.closed:
            raise KeyboardInterrupt

    whole = run(PROMPTS[0], settings())
    with pytest.raises(KeyboardInterrupt):
        run(PROMPTS[0], settings(), run_dir=tmp_path, progress=stop)
    with pytest.raises(ValueError, match="source_prompt"):
        run(PROMPTS[0], settings(source_prompt="young face"), run_dir=tmp_path)
    resumed = run(PROMPTS[0], settings(), run_dir=tmp_path)
    for name, value in whole.mapper.state_dict().items():
        assert torch.equal(value, resumed.mapper.state_dict()[name]), name
    other = run(PROMPTS[0], settings(source_prompt="young face"))
    assert any(
        not torch.equal(value, other.mapper.state_dict()[name])
        for name, value in whole.mapper.state_dict().items()
    )


def test_pieces_change_nothing_but_digits(tiny_prior64: DiffusionPrior, w_plus: Tensor) -> None:
    torch.manual_seed(0)
    network = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
    network = network.double().eval().requires_grad_(False)
    mappers = [LevelsMapper(8, 8, ["coarse"], zero_init=False).double() for _ in PROMPTS]
    config = settings(batch_size=3)
    learners = [
        Learner(mapper, tiny_prior64.encode_prompt(prompt), torch.tensor(TIMESTEPS), guidance)
        for mapper, prompt, guidance in zip(
            mappers, PROMPTS, (GuidanceConfig(7.5), GuidanceConfig(3.0)), strict=True
        )
    ]
    found = []
    for images, rows in ((6, 64), (2, 3), (1, 1)):
        objective = Objective(tiny_prior64, network, w_plus.double(), learners, None, config)
        objective.sizes = type(objective.sizes)(images, rows, 2)
        losses, _ = objective.loss(4, (0, 1))
        weights = [p for mapper in mappers for p in mapper.parameters()]
        found.append(torch.autograd.grad(losses.sum(), weights))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"gradient": "vsd"}, "one of sds, dds"),
        ({"source_prompt": None}, "needs a source_prompt"),
        ({"source_prompt": "  "}, "needs a source_prompt"),
        ({"gradient": "sds"}, 'belongs to gradient="dds"'),
        ({"guidance": GuidanceConfig(7.5, jacobian="full")}, 'jacobian="skip"'),
    ],
)  # fmt: skip
def test_settings_are_checked(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        settings(**wrong)
