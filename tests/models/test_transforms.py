"""Every network works under torch.func, by the results of a plain call."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sdd_fast.models import (
    ConvClassifier,
    ConvEmbedding,
    Encoder,
    LevelsMapper,
    StyleGAN2,
    StyleSpaceMapper,
)
from sdd_fast.models.arcface import ArcFace
from sdd_fast.models.psp import PyramidEncoder

TRUNK = {"units": (1, 1, 1, 1), "width": 16}


def generator(**settings: object) -> StyleGAN2:
    torch.manual_seed(0)
    network = StyleGAN2(
        16, w_dim=12, z_dim=8, n_mlp=2, channel_base=128, channel_max=16, **settings
    )  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("noise.weight"):
                parameter.fill_(0.1)
    return network


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_vmap_over_the_generator(dtype: torch.dtype) -> None:
    """Over W+, over z, over styles, and over noise of its own for each."""
    network = generator(conv_clamp=256.0).to(dtype)
    z = torch.randn(3, 2, 8, dtype=dtype)
    w_plus = torch.stack([network.broadcast(network.mapping(part)) for part in z])
    expected = torch.stack([network.synthesis(part) for part in w_plus])
    torch.testing.assert_close(torch.vmap(network.synthesis)(w_plus), expected)
    torch.testing.assert_close(torch.vmap(network)(z), expected)
    styles = [torch.stack(each) for each in zip(*map(network.style_vectors, w_plus), strict=True)]
    torch.testing.assert_close(torch.vmap(network.synthesis_from_styles)(styles), expected)
    noisy = torch.vmap(lambda w: network.synthesis(w, "random"), randomness="different")(w_plus)
    assert noisy.shape == expected.shape and not torch.allclose(noisy, expected)


def test_gradients_of_many_cotangents_and_per_sample() -> None:
    network = generator().double()
    w_plus = torch.randn(3, 1, network.num_layers, 12, dtype=torch.float64)

    def loss(w_plus: Tensor) -> Tensor:
        return network.synthesis(w_plus).square().sum()

    leaf = w_plus.clone().requires_grad_()
    (expected,) = torch.autograd.grad(sum(loss(part) for part in leaf), leaf)  # type: ignore[arg-type]
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(w_plus), expected)


def test_vmap_over_weights() -> None:
    """An ensemble of generators, as torch.func.stack_module_state makes them."""
    networks = [generator() for _ in range(2)]
    with torch.no_grad():
        networks[1].conv1.conv.weight.mul_(2)
        networks[1].convs[0].conv.weight[:, 0].zero_()
    parameters, buffers = torch.func.stack_module_state(networks)  # type: ignore[arg-type]
    w_plus = torch.randn(1, networks[0].num_layers, 12)
    # synthesis as the forward pass of a module that holds the generator
    holder = nn.Module()
    holder.generator = networks[0]
    holder.forward = lambda w: holder.generator.synthesis(w)  # type: ignore[method-assign,operator]

    def render(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        state = {f"generator.{k}": v for k, v in {**parameters, **buffers}.items()}
        result: Tensor = torch.func.functional_call(holder, state, (w_plus,))
        return result

    images = torch.vmap(render)(parameters, buffers)
    for image, network in zip(images, networks, strict=True):
        torch.testing.assert_close(image, network.synthesis(w_plus))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (lambda: ConvClassifier({"hair": 3, "beard": 2}, resolution=16, width=4), (3, 16, 16)),
        (lambda: ConvEmbedding(5, resolution=16, width=4), (3, 16, 16)),
        (lambda: Encoder(32, 8, 6, channel_base=64, channel_max=8), (3, 32, 32)),
        (lambda: ArcFace(dim=8, **TRUNK), (3, 128, 128)),
        (lambda: PyramidEncoder(8, 6, input_size=(64, 64), **TRUNK), (3, 64, 64)),
        (lambda: LevelsMapper(10, w_dim=6, zero_init=False), (10, 6)),
    ],
    ids=["classifier", "embedding", "encoder", "arcface", "psp", "mapper"],
)
def test_vmap_over_inputs(network, shape: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    module = network().double()
    x = torch.randn(3, 2, *shape, dtype=torch.float64)
    expected = [module(part) for part in x]
    mapped = torch.vmap(module)(x)
    if isinstance(mapped, dict):
        for name, logits in mapped.items():
            torch.testing.assert_close(logits, torch.stack([part[name] for part in expected]))
    else:
        torch.testing.assert_close(mapped, torch.stack(expected))


def test_vmap_over_a_mapper_of_styles() -> None:
    torch.manual_seed(0)
    mapper = StyleSpaceMapper([4, 4, 4, 3, 3], zero_init=False)
    styles = [torch.randn(3, 2, dim) for dim in mapper.style_dims]
    mapped = torch.vmap(mapper)(styles)
    for i in range(3):
        for one, expected in zip(mapped, mapper([s[i] for s in styles]), strict=True):
            torch.testing.assert_close(one[i], expected)
