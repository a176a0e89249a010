"""The baselines of the benchmarks compute what sdd_fast computes, on networks of the same kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from baselines import paper, stylegan2, tuned
from baselines.networks import Networks
from torch import Tensor

from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.models import StyleGAN2
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
    return Networks(made, *parts, text.cond, text.uncond, w_plus)


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
