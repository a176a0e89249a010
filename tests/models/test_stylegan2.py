"""The generator against a float64 rendering of the paper that reads only the state dict."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sdd_fast.models import StyleGAN2

SMALL = {
    "resolution": 32,
    "w_dim": 12,
    "z_dim": 10,
    "n_mlp": 3,
    "channel_base": 128,
    "channel_max": 8,
}


@pytest.fixture()
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    network = StyleGAN2(**SMALL).double()
    with torch.no_grad():  # what starts at zero or one would hide mistakes
        for name, parameter in network.named_parameters():
            if name.endswith(("bias", "noise.weight")):
                parameter.add_(0.3 * torch.randn_like(parameter))
        network.latent_avg.copy_(torch.randn(12))
    return network


def linear(state: dict[str, Tensor], key: str, x: Tensor, lr: float = 1.0) -> Tensor:
    weight = state[key + ".weight"]
    return x @ (weight * lr / math.sqrt(weight.shape[1])).T + state[key + ".bias"] * lr


def reference_mapping(state: dict[str, Tensor], z: Tensor) -> Tensor:
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for i in range(1, 4):
        x = linear(state, f"style.{i}", x, lr=0.01)
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    return x


def reference_conv(state: dict[str, Tensor], key: str, x: Tensor, w: Tensor, up: bool) -> Tensor:
    style = linear(state, key + ".conv.modulation", w)
    out = []
    for image, s in zip(x, style, strict=True):
        kernel = state[key + ".conv.weight"][0]
        kernel = kernel / math.sqrt(kernel[0].numel()) * s[:, None, None]
        if "rgb" in key:
            y = F.conv2d(image[None], kernel) + state[key + ".bias"]
        else:
            kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
            if up:  # zeros between the pixels, then a true convolution, then a blur
                spread = image.new_zeros(image.shape[0], 2 * image.shape[1], 2 * image.shape[2])
                spread[:, ::2, ::2] = image
                y = F.conv2d(F.pad(spread, (2, 1, 2, 1))[None], kernel.flip(2, 3))
                y = blur(F.pad(y, (1, 1, 1, 1)))
            else:
                y = F.conv2d(image[None], kernel, padding=1)
        out.append(y)
    return torch.cat(out)


def blur(x: Tensor) -> Tensor:
    """[1, 3, 3, 1] / 8 in both directions, times 4 for the zeros between the pixels."""
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8
    rows = sum(t * x[..., i : x.shape[-2] - 3 + i, :] for i, t in enumerate(taps))
    assert isinstance(rows, Tensor)
    columns = sum(t * rows[..., i : x.shape[-1] - 3 + i] for i, t in enumerate(taps))
    return 4 * columns


def reference_synthesis(state: dict[str, Tensor], w_plus: Tensor, noise: bool) -> Tensor:
    def styled(key: str, index: int, x: Tensor, up: bool = False) -> Tensor:
        y = reference_conv(state, key, x, w_plus[:, index], up)
        if noise:
            y = y + state[key + ".noise.weight"] * state[f"noises.noise_{index}"]
        y = y + state[key + ".activate.bias"][:, None, None]
        return torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)

    x = state["input.input"].expand(w_plus.shape[0], -1, -1, -1)
    x = styled("conv1", 0, x)
    image = reference_conv(state, "to_rgb1", x, w_plus[:, 1], up=False)
    for j in range(3):
        x = styled(f"convs.{2 * j}", 2 * j + 1, x, up=True)
        x = styled(f"convs.{2 * j + 1}", 2 * j + 2, x)
        spread = image.new_zeros(*image.shape[:2], 2 * image.shape[2], 2 * image.shape[3])
        spread[:, :, ::2, ::2] = image
        rgb = reference_conv(state, f"to_rgbs.{j}", x, w_plus[:, 2 * j + 3], up=False)
        image = rgb + blur(F.pad(spread, (2, 1, 2, 1)))
    return image


def test_mapping(generator: StyleGAN2) -> None:
    z = torch.randn(4, 10, dtype=torch.float64)
    w = reference_mapping(generator.state_dict(), z)
    torch.testing.assert_close(generator.mapping(z), w)
    average = generator.latent_avg
    torch.testing.assert_close(generator.mapping(z, 0.7), average + 0.7 * (w - average))


@pytest.mark.parametrize("noise_mode", ["const", "none"])
def test_synthesis(generator: StyleGAN2, noise_mode: str) -> None:
    w_plus = torch.randn(2, 8, 12, dtype=torch.float64)  # another w for every layer
    images = generator.synthesis(w_plus, noise_mode)
    assert images.shape == (2, 3, 32, 32) and images.is_contiguous()
    expected = reference_synthesis(generator.state_dict(), w_plus, noise_mode == "const")
    torch.testing.assert_close(images, expected)


def test_random_noise(generator: StyleGAN2) -> None:
    w_plus = torch.randn(1, 8, 12, dtype=torch.float64).expand(2, -1, -1)

    def render(seed: int) -> Tensor:
        return generator.synthesis(w_plus, "random", torch.Generator().manual_seed(seed))

    first = render(1)
    assert torch.equal(first, render(1))
    assert not torch.allclose(first, render(2))
    assert not torch.allclose(first[0], first[1])  # noise of its own for every image
    assert not torch.allclose(first[0], generator.synthesis(w_plus, "const")[0])


def test_truncation_and_forward(generator: StyleGAN2) -> None:
    z = torch.randn(2, 10, dtype=torch.float64)
    w_plus = generator.broadcast(generator.mapping(z))
    assert w_plus.shape == (2, 8, 12)
    half = generator.truncate(w_plus, 0.5, cutoff=3)
    middle = (generator.latent_avg + w_plus[:, :3]) / 2
    torch.testing.assert_close(half, torch.cat([middle, w_plus[:, 3:]], 1))
    torch.testing.assert_close(generator(z), generator.synthesis(w_plus))
    torch.testing.assert_close(generator(z, 0.5, 3), generator.synthesis(half))
    everything = generator.truncate(w_plus, 0.0)
    torch.testing.assert_close(everything, generator.latent_avg.expand_as(everything))


def test_update_latent_avg(generator: StyleGAN2) -> None:
    generator.update_latent_avg(torch.Generator().manual_seed(3), samples=2500)
    z = torch.cat(
        [torch.randn(n, 10, generator=r) for r in [torch.Generator().manual_seed(3)]
         for n in (1000, 1000, 500)]
    )  # fmt: skip
    expected = reference_mapping(generator.state_dict(), z.double()).mean(0)
    torch.testing.assert_close(generator.latent_avg, expected)


def test_style_space(generator: StyleGAN2) -> None:
    w_plus = torch.randn(2, 8, 12, dtype=torch.float64)
    styles = generator.style_vectors(w_plus)
    assert [s.shape for s in styles] == [(2, dim) for dim in generator.style_dims]
    assert generator.style_dims == [8] * 9 + [4] * 2
    expected = linear(generator.state_dict(), "convs.1.conv.modulation", w_plus[:, 2])
    torch.testing.assert_close(styles[3], expected)
    torch.testing.assert_close(
        generator.synthesis_from_styles(styles, "none"), generator.synthesis(w_plus, "none")
    )


def test_gradient_reaches_w_plus_through_a_frozen_generator(generator: StyleGAN2) -> None:
    generator.requires_grad_(False)
    w_plus = torch.randn(2, 8, 12, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 8, 12, dtype=torch.float64)
    cotangent = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((generator.synthesis(w_plus) * cotangent).sum(), w_plus)
    with torch.no_grad():
        step = 1e-5 * direction
        up, down = generator.synthesis(w_plus + step), generator.synthesis(w_plus - step)
    slope = ((up - down) * cotangent).sum() / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-6)
    assert (gradient.abs().sum((0, 2)) > 0).all()  # every layer has a say


def test_half_precision_agrees() -> None:
    torch.manual_seed(0)
    network = StyleGAN2(**SMALL)
    w_plus = torch.randn(2, 8, 12)
    expected = network.synthesis(w_plus)
    actual = network.half().synthesis(w_plus.half())
    assert actual.dtype == torch.float16
    assert F.cosine_similarity(actual.float().flatten(), expected.flatten(), 0) > 0.9999


def test_config_f_at_full_size() -> None:
    """The published 1024x1024 network: parameter count, names, layers, and S-space layout."""
    with torch.device("meta"):
        network = StyleGAN2(1024)
    assert network.num_layers == 18
    # Counted from the published architecture: mapping 2 101 248, synthesis 28 268 812.
    assert sum(p.numel() for p in network.parameters()) == 30_370_060
    expected = {"latent_avg", "input.input"}
    expected |= {f"style.{i}.{p}" for i in range(1, 9) for p in ("weight", "bias")}
    expected |= {f"noises.noise_{k}" for k in range(17)}
    modulation = ("conv.weight", "conv.modulation.weight", "conv.modulation.bias")
    for key in ["conv1", *[f"convs.{i}" for i in range(16)]]:
        expected |= {f"{key}.{p}" for p in (*modulation, "noise.weight", "activate.bias")}
    for key in ["to_rgb1", *[f"to_rgbs.{j}" for j in range(8)]]:
        expected |= {f"{key}.{p}" for p in (*modulation, "bias")}
    state = network.state_dict()
    assert set(state) == expected
    assert state["convs.14.conv.weight"].shape == (1, 32, 64, 3, 3)
    assert state["to_rgbs.7.conv.weight"].shape == (1, 3, 32, 1, 1)
    assert state["to_rgb1.bias"].shape == (1, 3, 1, 1)
    assert state["noises.noise_16"].shape == (1, 1, 1024, 1024)
    assert network.style_dims == [512] * 15 + [256] * 3 + [128] * 3 + [64] * 3 + [32] * 2
    images = network.synthesis(torch.empty(1, 18, 512, device="meta"))
    assert images.shape == (1, 3, 1024, 1024)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "power of two of at least 8, got 48"),
        ({"resolution": 4}, "power of two of at least 8, got 4"),
        ({"n_mlp": 0}, "must be positive.*n_mlp=0"),
        ({"channel_base": 16}, "channel_base at least the resolution.*channel_base=16"),
    ],
)
def test_bad_configurations(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StyleGAN2(**{**SMALL, **changes})


def test_bad_inputs(generator: StyleGAN2) -> None:
    w_plus = torch.zeros(1, 8, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"z must be \[B, 10\], got \[2, 12\]"):
        generator.mapping(torch.zeros(2, 12))
    with pytest.raises(ValueError, match=r"w must be \[B, 12\], got \[12\]"):
        generator.broadcast(torch.zeros(12))
    for shape in ((1, 12), (1, 18, 12), (1, 8, 512)):
        with pytest.raises(ValueError, match=r"w_plus must be \[B, 8, 12\] for resolution 32"):
            generator.synthesis(torch.zeros(shape))
    with pytest.raises(ValueError, match="one of const, random, none, got 'fixed'"):
        generator.synthesis(w_plus, "fixed")
    with pytest.raises(ValueError, match=r"cutoff must lie in \[0, 8\], got 9"):
        generator.truncate(w_plus, 0.5, 9)
    styles = generator.style_vectors(w_plus)
    with pytest.raises(ValueError, match="needs 11 styles"):
        generator.synthesis_from_styles(styles[:-1])
    with pytest.raises(ValueError, match="needs 11 styles"):
        generator.synthesis_from_styles([])
    with pytest.raises(ValueError, match="needs 11 styles"):
        generator.synthesis_from_styles([styles[0][:, :3], *styles[1:]])


def test_path_length_penalty_against_finite_differences() -> None:
    """(‖∂(Σ y·v)/∂w‖ − a)² differentiated to the generator's weights: a backward of a backward."""
    torch.manual_seed(0)
    network = StyleGAN2(8, w_dim=4, z_dim=4, n_mlp=1, channel_base=16, channel_max=3).double()
    w_plus = torch.randn(2, network.num_layers, 4, dtype=torch.float64, requires_grad=True)
    v = torch.randn(2, 3, 8, 8, dtype=torch.float64)

    def penalty() -> Tensor:
        images = network.synthesis(w_plus, noise_mode="const")
        (slope,) = torch.autograd.grad((images * v).sum(), w_plus, create_graph=True)
        return (slope.square().sum((1, 2)).sqrt() - 0.5).square().sum()

    weights = [network.convs[0].conv.weight, network.convs[1].conv.modulation.weight,
               network.to_rgbs[0].conv.weight, network.convs[1].activate.bias]  # fmt: skip
    gradients = torch.autograd.grad(penalty(), weights)
    step = 1e-6
    for weight, gradient in zip(weights, gradients, strict=True):
        flat = weight.detach().view(-1)  # shares the weight's memory
        for i in range(0, flat.numel(), max(1, flat.numel() // 5)):
            values = []
            for sign in (1, -1):
                flat[i] += sign * step
                values.append(float(penalty().detach()))
                flat[i] -= sign * step
            numeric = (values[0] - values[1]) / (2 * step)
            assert float(gradient.flatten()[i]) == pytest.approx(numeric, rel=1e-5, abs=1e-7)
