"""The baselines of the benchmarks compute what sdd_fast computes, on networks of the same kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from baselines import paper, stylegan2, tuned
from baselines.networks import Networks
from torch import Tensor

import sdd_fast as sdd
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.models import ConvEmbedding, LevelsMapper, StyleGAN2
from sdd_fast.selection.hqs import hqs, image_noise
from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.teacher.text import PromptEmbeds

TIMESTEPS = [150, 600, 900]


def generator(resolution: int) -> StyleGAN2:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = StyleGAN2(resolution, 16, 16, 2, channel_base=256, channel_max=16)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if name.endswith(("noise.weight", "bias")):
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return made.requires_grad_(False).double()


@pytest.mark.parametrize("formulation", ["grouped", "factored"])
def test_both_formulations_render_what_the_generator_renders(formulation: str) -> None:
    network = generator(32)
    w_plus = torch.randn(2, network.num_layers, 16, dtype=torch.float64)
    parts = (getattr(stylegan2, formulation), getattr(stylegan2, f"{formulation}_to_rgb"))
    found = stylegan2.synthesis(network, w_plus, *parts)
    torch.testing.assert_close(found, network.synthesis(w_plus), rtol=0, atol=1e-12)


@dataclass(frozen=True)
class Expected:
    """What sdd_fast computes in float64, where the textbook's entropy is good enough."""

    deficit: Tensor  # [N, T]
    l1: Tensor
    noise: Tensor  # [N, C, h, w]
    elements: int

    def check(self, found: Tensor, rtol: float) -> None:
        entropy, l1 = found.double()
        deficit = math.log(self.elements) - entropy
        torch.testing.assert_close(deficit, self.deficit, rtol=rtol, atol=1e-12)
        torch.testing.assert_close(l1, self.l1, rtol=rtol, atol=0)


@pytest.fixture(scope="module", params=[32, 64], ids=["as the teacher's", "twice the teacher's"])
def networks(request: pytest.FixtureRequest, tiny_prior64: DiffusionPrior) -> Networks:
    prior, made = tiny_prior64, generator(request.param)
    text = prior.encode_prompt("white hair")
    rng = torch.Generator().manual_seed(0)
    w_plus = torch.randn(3, made.num_layers, 16, generator=rng, dtype=torch.float64)
    parts = prior.vae, prior.unet, prior.text_encoder, prior.tokenizer, prior.scheduler
    identity = ConvEmbedding(8, request.param, width=4).double().requires_grad_(False)
    return Networks(made, *parts, text.cond, text.uncond, w_plus, identity)


@pytest.fixture(scope="module")
def expected(networks: Networks, tiny_prior64: DiffusionPrior) -> Expected:
    curve = hqs(
        tiny_prior64, networks.w_plus, PromptEmbeds(networks.text, networks.no_text), TIMESTEPS,
        generator=networks.generator, progress=False,
    )  # fmt: skip
    noise = torch.cat([image_noise(tiny_prior64, 0, i, 1, GuidanceConfig()) for i in range(3)])
    return Expected(curve.deficit, curve.l1, noise.double(), 3 * networks.generator.resolution**2)


def test_the_recipe_of_the_paper_agrees(networks: Networks, expected: Expected) -> None:
    plain = paper.prepare(networks)
    found = paper.statistics(plain, networks.w_plus, networks.text, TIMESTEPS, expected.noise)
    expected.check(found, 1e-4)
    # Nothing is frozen, so that weights get gradients; those of the others stay as they were.
    assert any(weight.grad is not None for weight in plain.vae.encoder.parameters())
    assert not any(weight.requires_grad for weight in networks.vae.parameters())


@pytest.mark.parametrize(("at_once", "rows"), [(8, 16), (2, 5)])
def test_the_tuned_recipe_agrees(
    networks: Networks, expected: Expected, at_once: int, rows: int
) -> None:
    fast = tuned.prepare(networks, torch.float64)
    found = tuned.statistics(
        fast, networks.w_plus, networks.text, TIMESTEPS, expected.noise, at_once, rows
    )
    expected.check(found, 1e-4)


def test_the_tuned_recipe_agrees_in_bfloat16(networks: Networks, expected: Expected) -> None:
    fast = tuned.prepare(networks, torch.bfloat16)
    found = tuned.statistics(fast, networks.w_plus, networks.text, TIMESTEPS, expected.noise)
    expected.check(found, 0.1)


def test_both_training_steps_follow_the_gradient_of_equation_7(
    networks: Networks, tiny_prior64: DiffusionPrior
) -> None:
    mappers = [new_mapper(networks) for _ in range(3)]
    timesteps = torch.tensor(TIMESTEPS)
    noise = torch.randn(3, *networks.latent_shape, dtype=torch.float64)
    given = networks.w_plus, networks.text, timesteps, noise
    plain, fast = paper.prepare(networks), tuned.prepare(networks, torch.float64)
    paper.training_step(plain, mappers[0], paper.optimizer_of(mappers[0]), *given)
    before = networks.generator.synthesis(networks.w_plus)
    known, optimizer = networks.identity(before), paper.optimizer_of(mappers[1])
    rest = networks.text, timesteps, noise, 2
    tuned.training_step(fast, mappers[1], optimizer, networks.w_plus, known, *rest)

    edited = networks.w_plus + 0.1 * mappers[2](networks.w_plus)
    images = networks.generator.synthesis(edited)
    embeds = PromptEmbeds(networks.text, networks.no_text)
    loss = sdd.guidance(tiny_prior64, images, embeds, timesteps, noise=noise).loss
    loss = loss + 10 * (edited - networks.w_plus).square().mean()
    loss = loss + (1 - F.cosine_similarity(networks.identity(images), known)).mean()
    expected = torch.autograd.grad(loss, list(mappers[2].parameters()))
    # float32: the schedule of both, and the latents of the tuned one.
    for mapper, rtol in zip(mappers, (1e-6, 1e-4), strict=False):
        for weight, wanted in zip(mapper.parameters(), expected, strict=True):
            largest = float(wanted.abs().max())
            torch.testing.assert_close(weight.grad, wanted, rtol=0, atol=rtol * largest)
        assert all(
            not torch.equal(weight, old)
            for weight, old in zip(mapper.parameters(), mappers[2].parameters(), strict=True)
        )


def new_mapper(networks: Networks) -> LevelsMapper:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        layers, levels = networks.generator.num_layers, ("coarse", "medium")
        return LevelsMapper(layers, 16, levels, zero_init=False).double()
