from __future__ import annotations

from pathlib import Path

import pytest
import torch
from irse_reference import IR_SE50_BYTES, arcface, arcface_shapes, random_state

from sdd_fast.models.arcface import ArcFace

SMALL = {"units": (1, 2, 1, 1), "width": 16, "dim": 24}


def build() -> tuple[ArcFace, dict[str, torch.Tensor]]:
    state = random_state(arcface_shapes(**SMALL))
    network = ArcFace(**SMALL)
    network.load_state_dict(state)
    return network, state


def test_full_size_is_the_published_network() -> None:
    """Its keys and shapes, and a file of them is as large as the published one."""
    with torch.device("meta"):
        state = ArcFace().state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == arcface_shapes()
    assert len(state) == 397
    tensors = sum(value.numel() * value.element_size() for value in state.values())
    assert 0 < IR_SE50_BYTES - tensors < 100_000  # names and sizes take some bytes too


@pytest.mark.parametrize("resolution", [112, 255, 256, 300, 512])
def test_agrees_with_the_definition(resolution: int) -> None:
    """Smaller than 256, 256 itself, a little larger, and twice as large."""
    network, state = build()
    images = torch.rand(2, 3, resolution, resolution) * 2 - 1
    found = network(images)
    assert found.shape == (2, 24)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    expected = arcface(state, images, SMALL["units"])
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)


def test_small_images_are_enlarged_as_the_definition_does_with_a_warning() -> None:
    network, state = build()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with pytest.warns(UserWarning, match="64 × 64 are enlarged; below 112 × 112"):
        found = network(images)
    torch.testing.assert_close(
        found.double(), arcface(state, images, SMALL["units"]), atol=1e-5, rtol=1e-4
    )


def test_only_the_crop_is_seen() -> None:
    network, _ = build()
    images = torch.rand(1, 3, 256, 256)
    other = torch.rand(1, 3, 256, 256)
    other[:, :, 35:223, 32:220] = images[:, :, 35:223, 32:220]
    assert torch.equal(network(images), network(other))


def test_image_gradient_of_the_identity_loss() -> None:
    """In train mode too, with frozen parameters, against the definition's own gradient."""
    network, state = build()
    network.requires_grad_(False).train()
    rng = torch.Generator().manual_seed(0)  # close to a kink of PReLU the two would differ
    images = torch.rand(2, 3, 260, 260, generator=rng) * 2 - 1
    directions = torch.randn(2, 24, generator=rng, dtype=torch.float64)
    reference = torch.nn.functional.normalize(directions, dim=1)
    leaf, exact = images.clone().requires_grad_(), images.double().requires_grad_()
    (1 - (network(leaf) * reference).sum(1)).mean().backward()
    (1 - (arcface(state, exact, SMALL["units"]) * reference).sum(1)).mean().backward()
    assert leaf.grad is not None and exact.grad is not None
    scale = exact.grad.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(leaf.grad.double(), exact.grad, atol=1e-4 * scale, rtol=1e-3)


def test_image_gradient_against_finite_differences() -> None:
    network, _ = build()
    network.double().requires_grad_(False)
    rng = torch.Generator().manual_seed(0)  # close to a kink of PReLU the two would differ
    images, direction = (
        draw(1, 3, 256, 256, generator=rng, dtype=torch.float64)
        for draw in (torch.rand, torch.randn)
    )
    weights = torch.randn(24, generator=rng, dtype=torch.float64)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((network(leaf) * weights).sum(), leaf)
    h = 1e-6
    ahead, behind = (network(images + s * h * direction) for s in (1, -1))
    slope = ((ahead - behind) * weights).sum() / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=0)


def test_save_and_load(tmp_path: Path) -> None:
    network, _ = build()
    network.save(tmp_path / "arcface.safetensors")
    again = ArcFace.load(tmp_path / "arcface.safetensors")
    assert again.config == network.config
    images = torch.rand(1, 3, 256, 256)
    assert torch.equal(again(images), network(images))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 192, 256), r"\[B, 3, R, R\], got \[1, 3, 192, 256\]; crop"),
        ((1, 1, 256, 256), r"\[B, 3, R, R\], got \[1, 1, 256, 256\]"),
        ((3, 256, 256), r"\[B, 3, R, R\], got \[3, 256, 256\]"),
    ],
)
def test_bad_images(shape: tuple[int, ...], message: str) -> None:
    network, _ = build()
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(shape))


def test_bad_configuration() -> None:
    with pytest.raises(ValueError, match="dim must be positive, got 0"):
        ArcFace(**{**SMALL, "dim": 0})
