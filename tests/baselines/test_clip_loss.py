"""StyleCLIP's loss against its formula and finite differences, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sdd_fast.baselines.clip_loss import ClipLoss
from sdd_fast.domains import Domain
from sdd_fast.models import ConvEmbedding, StyleGAN2

WEIGHTS = 0.3, 0.2


class Double:
    """The image side of a CLIP in float64."""

    def __init__(self, network: ConvEmbedding) -> None:
        self.network = network

    def encode_images(self, images: Tensor) -> Tensor:
        return 3 * self.network(images)  # not unit vectors: whoever compares makes them so

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        raise AssertionError("the text was encoded before")


@pytest.fixture(scope="module")
def parts() -> tuple[StyleGAN2, Double, ConvEmbedding, Tensor]:
    torch.manual_seed(0)
    generator = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
    towers = ConvEmbedding(8, 32, width=4), ConvEmbedding(6, 32, width=4)
    clip, identity = (tower.double().requires_grad_(False) for tower in towers)
    text = torch.nn.functional.normalize(torch.randn(1, 8, dtype=torch.float64), dim=1)
    return generator.double().requires_grad_(False), Double(clip), identity, text


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def test_it_is_the_sum_of_its_terms_for_each_image(
    parts: tuple[StyleGAN2, Double, ConvEmbedding, Tensor],
) -> None:
    generator, clip, identity, text = parts
    w, delta = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    before, after = generator.synthesis(w), generator.synthesis(w + 0.5 * delta)
    loss = ClipLoss(clip, text, identity, *WEIGHTS)
    embedded = loss.before(lambda: before)
    losses, measured = loss(after, delta, embedded)
    seen = clip.encode_images(after.clamp(-1, 1))
    expected = 1 - cosine(seen, text) + WEIGHTS[0] * delta.pow(2).mean((1, 2))
    expected = expected + WEIGHTS[1] * (1 - cosine(identity(after), identity(before)))
    torch.testing.assert_close(losses, expected)
    assert set(measured) == {"clip", "l2", "identity_loss"}
    alone = ClipLoss(clip, text, None, *WEIGHTS)
    assert alone.before(lambda: pytest.fail("rendered for nothing")) is None
    less, _ = alone(after, delta, None)
    torch.testing.assert_close(
        losses - less, WEIGHTS[1] * (1 - cosine(identity(after), identity(before)))
    )


def test_its_gradient_agrees_with_finite_differences(
    parts: tuple[StyleGAN2, Double, ConvEmbedding, Tensor],
) -> None:
    """Through CLIP, identity network and generator, along random directions of W+."""
    generator, clip, identity, text = parts
    torch.manual_seed(1)
    w = torch.randn(2, 8, 8, dtype=torch.float64)
    loss = ClipLoss(clip, text, identity, *WEIGHTS)
    before = loss.before(lambda: generator.synthesis(w))

    def value(delta: Tensor) -> Tensor:
        images = 0.2 * generator.synthesis(w + delta)  # within [-1, 1], where nothing is clamped
        assert images.abs().max() < 1
        return loss(images, delta, before)[0].sum()

    delta = (0.3 * torch.randn_like(w)).requires_grad_()
    (gradient,) = torch.autograd.grad(value(delta), delta)
    for _ in range(4):
        direction, h = torch.randn_like(w), 1e-5
        with torch.no_grad():
            slope = (value(delta + h * direction) - value(delta - h * direction)) / (2 * h)
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-9)


def test_negative_weights_are_refused(
    parts: tuple[StyleGAN2, Double, ConvEmbedding, Tensor],
) -> None:
    _, clip, identity, text = parts
    with pytest.raises(ValueError, match="identity_weight"):
        ClipLoss(clip, text, identity, 0.1, -0.1)


def test_a_domain_gives_its_judges(tiny: Domain) -> None:
    loss = ClipLoss.of_domain(tiny, "StyleCLIP", "white hair", 0.1, 0.0)
    assert loss.identity is None and loss.text.shape == (1, 8)
    torch.testing.assert_close(loss.text.norm(dim=1), torch.ones(1))
