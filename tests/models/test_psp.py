from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from irse_reference import E4E_FFHQ_BYTES, pyramid, pyramid_shapes, random_state

from sdd_fast.models.psp import PyramidEncoder

UNITS, WIDTH, LAYERS, W_DIM = (1, 2, 1, 1), 16, 9, 20
SMALL: dict[str, Any] = {"num_layers": LAYERS, "w_dim": W_DIM, "units": UNITS, "width": WIDTH}


def build(**changes: Any) -> tuple[PyramidEncoder, dict[str, torch.Tensor]]:
    state = random_state(pyramid_shapes(LAYERS, W_DIM, UNITS, WIDTH))
    state["latent_avg"] = torch.randn(LAYERS, W_DIM, generator=torch.Generator().manual_seed(1))
    network = PyramidEncoder(**SMALL, **changes)
    network.load_state_dict(state)
    return network, state


@pytest.mark.parametrize(("layers", "keys"), [(18, 621), (16, 593), (14, 565)])
def test_full_size_is_the_published_network(layers: int, keys: int) -> None:
    with torch.device("meta"):
        network = PyramidEncoder(layers)
        assert network(torch.empty(1, 3, 256, 256)).shape == (1, layers, 512)
    state = network.state_dict()
    assert state.pop("latent_avg").shape == (layers, 512)  # beside the state dict in the files
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes == pyramid_shapes(layers)
    assert len(state) == keys


def test_a_file_of_it_is_as_large_as_the_published_one() -> None:
    """e4e_ffhq_encode.pt: this network, its average latent and the generator of 1024 pixels."""
    with torch.device("meta"):
        state = PyramidEncoder(18).state_dict()
    encoder = sum(value.numel() * value.element_size() for value in state.values())
    noise = 4**2 + 2 * sum(4**n for n in range(3, 11))  # maps of 4², 8², 8², … 1024², 1024² pixels
    generator = 4 * (30_370_060 + noise)  # the parameters of StyleGAN2 config-f
    assert 0 < E4E_FFHQ_BYTES - encoder - generator < 500_000  # names, sizes and options


@pytest.mark.parametrize("deltas", [True, False])
@pytest.mark.parametrize("size", [(256, 256), (192, 256), (40, 32)])
def test_agrees_with_the_definition(size: tuple[int, int], deltas: bool) -> None:
    network, state = build(input_size=size, deltas=deltas)
    images = torch.rand(2, 3, *size) * 2 - 1
    expected = state["latent_avg"].double() + pyramid(state, images, UNITS, LAYERS, deltas)
    found = network(images)
    assert found.shape == (2, LAYERS, W_DIM)
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-4)


def test_the_two_kinds_differ() -> None:
    e4e, _ = build(deltas=True, input_size=(32, 32))
    psp, _ = build(deltas=False, input_size=(32, 32))
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(e4e(images)[:, 0], psp(images)[:, 0])
    assert (e4e(images) - psp(images))[:, 1:].abs().amax(2).min() > 0.01


def test_images_get_a_gradient() -> None:
    network, state = build(input_size=(32, 32))
    network.requires_grad_(False).train()
    images = torch.rand(1, 3, 32, 32)
    leaf, exact = images.clone().requires_grad_(), images.double().requires_grad_()
    network(leaf).square().sum().backward()
    styles = pyramid(state, exact, UNITS, LAYERS, True)
    (state["latent_avg"].double() + styles).square().sum().backward()
    assert leaf.grad is not None and exact.grad is not None
    scale = exact.grad.abs().max().item()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, atol=1e-4 * scale, rtol=1e-3)


def test_save_and_load(tmp_path: Path) -> None:
    network, _ = build(input_size=(24, 32), deltas=False)
    network.save(tmp_path / "encoder.safetensors")
    again = PyramidEncoder.load(tmp_path / "encoder.safetensors")
    assert again.config == network.config and again.input_size == (24, 32)
    images = torch.rand(1, 3, 24, 32)
    assert torch.equal(again(images), network(images))


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 32, 32), (3, 32, 32)])
def test_bad_images(shape: tuple[int, ...]) -> None:
    network, _ = build(input_size=(32, 32))
    with pytest.raises(ValueError, match=r"must be \[B, 3, 32, 32\], got .*; resize them first"):
        network(torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "must be positive, got num_layers=0, w_dim=20"),
        ({"input_size": (512, 256)}, r"16 to 256 pixels, got \(512, 256\)"),
        ({"input_size": (256, 8)}, r"16 to 256 pixels, got \(256, 8\)"),
        ({"input_size": (256,)}, r"\(height, width\) of 16 to 256 pixels, got \(256,\)"),
    ],
)
def test_bad_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PyramidEncoder(**{**SMALL, **changes})
