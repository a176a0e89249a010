"""StyleGAN2 from the formulas, in float64, of state dicts with the names that files use.

A grouped convolution with one kernel per sample, and zeros between the pixels, padding and a
convolution for upsampling. Nothing of the package is used. `of_port`, `of_basicsr` and `of_nvidia`
bring the namings to one form, `Net`, which `render` reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

USUAL = (1.0, 3.0, 3.0, 1.0)


@dataclass
class Layer:
    weight: Tensor  # [O, I, k, k]
    affine: tuple[Tensor, Tensor]  # [I, w_dim], [I]
    bias: Tensor  # [O]
    strength: Tensor | None = None  # scalar
    noise: Tensor | None = None  # [H, W]


@dataclass
class Net:
    const: Tensor  # [C, 4, 4]
    convs: list[Layer]  # at 4, then two for each resolution
    rgbs: list[Layer]  # one for each resolution
    mapping: list[tuple[Tensor, Tensor]]
    embed: tuple[Tensor, Tensor] | None
    average: Tensor | None
    scaled_norm: bool  # whether the 1e-8 of the demodulation is beside weights of unit variance
    # (NVIDIA's) or beside weights divided by the root of their fan-in (the port's)


def of_port(state: dict[str, Tensor], average: Tensor | None = None) -> Net:
    s = {key: value.double() for key, value in state.items()}

    def layer(name: str, index: int | None) -> Layer:
        affine = (s[f"{name}.conv.modulation.weight"], s[f"{name}.conv.modulation.bias"])
        weight = s[f"{name}.conv.weight"].squeeze(0)
        if index is None:
            return Layer(weight, affine, s[f"{name}.bias"].flatten())
        noise = s.get(f"noises.noise_{index}")
        strength = s[f"{name}.noise.weight"].squeeze()
        noise = None if noise is None else noise.squeeze(0).squeeze(0)
        return Layer(weight, affine, s[f"{name}.activate.bias"], strength, noise)

    blocks = sum(key.startswith("to_rgbs.") and key.endswith(".conv.weight") for key in s)
    convs = ["conv1", *(f"convs.{i}" for i in range(2 * blocks))]
    rgbs = ["to_rgb1", *(f"to_rgbs.{j}" for j in range(blocks))]
    depth = sum(key.startswith("style.") and key.endswith(".weight") for key in s)
    return Net(
        s["input.input"].squeeze(0),
        [layer(name, i) for i, name in enumerate(convs)],
        [layer(name, None) for name in rgbs],
        [(s[f"style.{i + 1}.weight"], s[f"style.{i + 1}.bias"]) for i in range(depth)],
        None,
        None if average is None else average.double(),
        scaled_norm=True,
    )


def of_basicsr(state: dict[str, Tensor], average: Tensor | None = None) -> Net:
    """In BasicSR's layout the noise strength is a layer's own `weight`."""
    s = {key: value.double() for key, value in state.items()}

    def layer(name: str, index: int | None) -> Layer:
        conv = f"{name}.modulated_conv"
        affine = (s[f"{conv}.modulation.weight"], s[f"{conv}.modulation.bias"])
        weight = s[f"{conv}.weight"][0]
        if index is None:
            return Layer(weight, affine, s[f"{name}.bias"][0, :, 0, 0])
        noise = s[f"noises.noise{index}"][0, 0]
        return Layer(weight, affine, s[f"{name}.activate.bias"], s[f"{name}.weight"][0], noise)

    above = range(sum(key.startswith("style_convs") and key.endswith("activate.bias") for key in s))
    mlp = [s[f"style_mlp.{i}.weight"] for i in range(1, 9) if f"style_mlp.{i}.weight" in s]
    return Net(
        s["constant_input.weight"][0],
        [layer("style_conv1", 0), *(layer(f"style_convs.{i}", i + 1) for i in above)],
        [layer("to_rgb1", None), *(layer(f"to_rgbs.{j}", None) for j in above[: len(above) // 2])],
        [(weight, s[f"style_mlp.{i}.bias"]) for i, weight in enumerate(mlp, 1)],
        None,
        None if average is None else average.double(),
        scaled_norm=True,
    )


def of_nvidia(state: dict[str, Tensor]) -> Net:
    s = {key: value.double() for key, value in state.items()}

    def layer(name: str) -> Layer:
        affine = (s[f"{name}.affine.weight"], s[f"{name}.affine.bias"])
        strength, noise = s.get(f"{name}.noise_strength"), s.get(f"{name}.noise_const")
        return Layer(s[f"{name}.weight"], affine, s[f"{name}.bias"], strength, noise)

    sides = sorted(int(key.split(".")[1][1:]) for key in s if key.endswith(".torgb.weight"))
    above = [f"synthesis.b{side}.conv{i}" for side in sides[1:] for i in (0, 1)]
    depth = sum(key.startswith("mapping.fc") and key.endswith(".weight") for key in s)
    embed = None
    if "mapping.embed.weight" in s:
        embed = (s["mapping.embed.weight"], s["mapping.embed.bias"])
    return Net(
        s["synthesis.b4.const"],
        [layer(name) for name in ["synthesis.b4.conv1", *above]],
        [layer(f"synthesis.b{side}.torgb") for side in sides],
        [(s[f"mapping.fc{i}.weight"], s[f"mapping.fc{i}.bias"]) for i in range(depth)],
        embed,
        s["mapping.w_avg"],
        scaled_norm=False,
    )


def dense(weight: Tensor, bias: Tensor, x: Tensor, lr: float = 1.0) -> Tensor:
    return x @ (weight * (lr / math.sqrt(weight.shape[1]))).T + bias * lr


def unit(x: Tensor) -> Tensor:
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def map_to_w(net: Net, z: Tensor, labels: Tensor | None = None, lr: float = 0.01) -> Tensor:
    x = unit(z)
    if net.embed is not None:
        assert labels is not None
        x = torch.cat([x, unit(dense(*net.embed, labels))], 1)
    for weight, bias in net.mapping:
        x = dense(weight, bias, x, lr)
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    return x


def w_plus_of(
    net: Net,
    z: Tensor,
    labels: Tensor | None = None,
    psi: float = 1.0,
    cutoff: int | None = None,
    lr: float = 0.01,
) -> Tensor:
    w = map_to_w(net, z, labels, lr)[:, None].repeat(1, len(net.convs) + 1, 1)
    if psi != 1:
        assert net.average is not None
        cutoff = w.shape[1] if cutoff is None else cutoff
        w[:, :cutoff] = net.average + psi * (w[:, :cutoff] - net.average)
    return w


def filtered(x: Tensor, taps: Tensor, gain: float) -> Tensor:
    """A true convolution with outer(taps, taps) wherever it fits."""
    kernel = gain * torch.outer(taps, taps).flip(0, 1)
    return F.conv2d(x, kernel.expand(x.shape[1], 1, -1, -1), groups=x.shape[1])


def with_zeros(x: Tensor) -> Tensor:
    """A zero after every row and column."""
    spread = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    spread[:, :, ::2, ::2] = x
    return spread


def convolved(
    x: Tensor, layer: Layer, w: Tensor, taps: Tensor, up: bool, demodulate: bool, scaled: bool
) -> Tensor:
    n, inputs, height, width = x.shape
    outputs, _, side, _ = layer.weight.shape
    styles = dense(*layer.affine, w)
    weight = layer.weight
    if scaled or not demodulate:
        weight = weight / math.sqrt(inputs * side * side)
    kernels = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        kernels = kernels / (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    if up:
        x = F.pad(with_zeros(x), (2, 1, 2, 1))
        kernels = kernels.flip(3, 4)
    else:
        x = F.pad(x, [side // 2] * 4)
    kernels = kernels.reshape(n * outputs, inputs, side, side)
    y = F.conv2d(x.reshape(1, n * inputs, *x.shape[2:]), kernels, groups=n)
    y = y.reshape(n, outputs, *y.shape[2:])
    return filtered(F.pad(y, [len(taps) // 2 - 1] * 4), taps, 4.0) if up else y


def render(
    net: Net,
    w_plus: Tensor,
    noise: bool = True,
    clamp: float | None = None,
    taps: Sequence[float] = USUAL,
) -> Tensor:
    kernel = torch.tensor(taps, dtype=torch.float64)
    kernel = kernel / kernel.sum()

    def limited(x: Tensor) -> Tensor:
        return x if clamp is None else x.clamp(-clamp, clamp)

    def styled(x: Tensor, index: int, up: bool) -> Tensor:
        layer = net.convs[index]
        y = convolved(x, layer, w_plus[:, index], kernel, up, True, net.scaled_norm)
        if noise and layer.strength is not None:
            assert layer.noise is not None
            y = y + layer.strength * layer.noise
        y = y + layer.bias[:, None, None]
        return limited(torch.where(y > 0, y, 0.2 * y) * math.sqrt(2))

    def rgb(x: Tensor, j: int) -> Tensor:
        layer = net.rgbs[j]
        y = convolved(x, layer, w_plus[:, 2 * j + 1], kernel, False, False, net.scaled_norm)
        return limited(y + layer.bias[:, None, None])

    x = net.const.expand(w_plus.shape[0], -1, -1, -1)
    x = styled(x, 0, up=False)
    image = rgb(x, 0)
    for j in range(1, len(net.rgbs)):
        x = styled(x, 2 * j - 1, up=True)
        x = styled(x, 2 * j, up=False)
        before = len(taps) // 2
        spread = F.pad(with_zeros(image), (before, before - 1, before, before - 1))
        image = filtered(spread, kernel, 4.0) + rgb(x, j)
    return image


def port_state(
    resolution: int,
    *,
    w_dim: int = 12,
    depth: int = 3,
    multiplier: int = 1,
    width: int = 8,
    seed: int = 0,
    noises: bool = True,
    kernels: bool = True,
    taps: Sequence[float] = USUAL,
) -> dict[str, Any]:
    """A state dict of the PyTorch port with random values everywhere.

    Widths are those of the port at `multiplier`, with `width` instead of 512 and everything else
    smaller by the same factor.
    """
    rng = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def put(name: str, *shape: int, scale: float = 1.0, offset: float = 0.0) -> None:
        state[name] = scale * torch.randn(*shape, generator=rng) + offset

    def channels(side: int) -> int:
        return min(width, width * 32 * multiplier // side)

    def conv(name: str, inputs: int, outputs: int, side: int) -> None:
        put(f"{name}.conv.weight", 1, outputs, inputs, side, side)
        put(f"{name}.conv.modulation.weight", inputs, w_dim)
        put(f"{name}.conv.modulation.bias", inputs, scale=0.3, offset=1.0)

    kernel = torch.tensor(taps)
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2 * 4
    for i in range(depth):
        put(f"style.{i + 1}.weight", w_dim, w_dim, scale=100.0)
        put(f"style.{i + 1}.bias", w_dim, scale=20.0)
    put("input.input", 1, channels(4), 4, 4)
    sides = [4 << k for k in range(resolution.bit_length() - 2)]
    names = [("conv1", 4, 4)]
    for j, side in enumerate(sides[1:]):
        names += [(f"convs.{2 * j}", side // 2, side), (f"convs.{2 * j + 1}", side, side)]
    for index, (name, before, side) in enumerate(names):
        conv(name, channels(before), channels(side), 3)
        if kernels and before != side:
            state[f"{name}.conv.blur.kernel"] = kernel.clone()
        put(f"{name}.noise.weight", 1, scale=0.4, offset=0.2)
        put(f"{name}.activate.bias", channels(side), scale=0.5)
        if noises:
            put(f"noises.noise_{index}", 1, 1, side, side)
    for j, side in enumerate(sides):
        name = f"to_rgbs.{j - 1}" if j else "to_rgb1"
        conv(name, channels(side), 3, 1)
        put(f"{name}.bias", 1, 3, 1, 1, scale=0.3)
        if kernels and j:
            state[f"{name}.upsample.kernel"] = kernel.clone()
    return state


def basicsr_state(port: dict[str, Any]) -> dict[str, Any]:
    """The tensors of a state dict of the port, without kernels, as BasicSR calls them."""
    named = {}
    for key, value in port.items():
        first, *rest = key.split(".")
        ending = ".".join(rest)
        if first == "style":
            named[f"style_mlp.{ending}"] = value
        elif first == "input":
            named["constant_input.weight"] = value
        elif first == "noises":
            named[f"noises.noise{rest[0].removeprefix('noise_')}"] = value
        else:
            place = {"conv1": "style_conv1", "convs": "style_convs"}.get(first, first)
            ending = ending.replace("conv.", "modulated_conv.").replace("noise.weight", "weight")
            named[f"{place}.{ending}"] = value
    return named
