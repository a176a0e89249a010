"""Layers of StyleGAN2: the mapping network from z to w, and those of the synthesis network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..ops import modulated_conv2d
from .layers import EqualLinear, PixelNorm, channels_last


class MappingNetwork(nn.Module):
    """Map z [B, z_dim] and labels [B, c_dim] to w [B, w_dim].

    z is normalized to unit mean square; so is the label's embedding, a linear layer without
    activation, and the two are concatenated (Karras et al. 2020, ADA). The layers are submodules
    called "1", "2", …, which gives the parameter names of the widespread PyTorch naming.

    Args:
        z_dim, w_dim: dimensions of z and w.
        depth: number of layers, each with a leaky ReLU.
        lr_multiplier: of those layers; the stored weights are larger by its inverse. The
            embedding's is always 1.
        c_dim: length of a label; 0 for a network without labels.
    """

    def __init__(
        self, z_dim: int, w_dim: int, depth: int, lr_multiplier: float, c_dim: int
    ) -> None:
        super().__init__()
        self.depth, self.c_dim = depth, c_dim
        self.norm = PixelNorm()
        width = z_dim + (w_dim if c_dim else 0)
        for i in range(1, depth + 1):
            layer = EqualLinear(width, w_dim, lr_multiplier=lr_multiplier, activation=True)
            self.add_module(str(i), layer)
            width = w_dim
        if c_dim:
            self.embed = EqualLinear(c_dim, w_dim)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x: Tensor = self.norm(z)
        if self.c_dim:
            x = torch.cat([x, self.norm(self.embed(self._checked(labels, z)))], 1)
        elif labels is not None:
            raise ValueError(
                "StyleGAN2: this network has no classes (c_dim is 0); leave labels out"
            )
        for i in range(1, self.depth + 1):
            x = self.get_submodule(str(i))(x)
        return x

    def _checked(self, labels: Tensor | None, z: Tensor) -> Tensor:
        if labels is None:
            raise ValueError(
                f"StyleGAN2: this network is conditional and needs labels [B, {self.c_dim}], "
                "usually one-hot classes"
            )
        if labels.shape != (z.shape[0], self.c_dim):
            raise ValueError(
                f"StyleGAN2: labels must be [B, {self.c_dim}] with B = {z.shape[0]} as for z, "
                f"got {list(labels.shape)}"
            )
        return labels.to(z)


class ConstantInput(nn.Module):
    """The learned 4x4 input of the synthesis network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, batch: int) -> Tensor:
        # Every layer keeps this memory format; it makes the convolutions up to twice as fast.
        return channels_last(self.input.expand(batch, -1, -1, -1))


class ModulatedConv(nn.Module):
    """Weights of a modulated convolution and the affine map from w to its style."""

    def __init__(self, inputs: int, outputs: int, side: int, w_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, side, side))
        self.modulation = EqualLinear(w_dim, inputs, bias_init=1.0)
        self.gain = 1.0 / math.sqrt(inputs * side * side)


class NoiseStrength(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class ActivationBias(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, optionally upsampling, with noise, bias, leaky ReLU and clamp."""

    def __init__(
        self, inputs: int, outputs: int, w_dim: int, up: int = 1, clamp: float | None = None
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, w_dim)
        self.noise = NoiseStrength()
        self.activate = ActivationBias(outputs)
        self.up, self.clamp = up, clamp

    def forward(
        self,
        x: Tensor,  # [B, inputs, H, W]
        style: Tensor,  # [B, inputs]
        noise: Tensor | None,  # [1 or B, 1, H * up, W * up]
        taps: Tensor,  # [t]
    ) -> Tensor:  # [B, outputs, H * up, W * up]
        weight: Tensor = self.conv.weight[0]
        bias: Tensor = self.activate.bias
        # The equalized-learning-rate gain goes into the style, the smallest of the factors.
        style = style * self.conv.gain
        noise = None if noise is None else noise * self.noise.weight
        if weight.dtype != x.dtype:  # a float16 layer of a float32 network
            weight, bias, style = weight.to(x.dtype), bias.to(x.dtype), style.to(x.dtype)
            noise = None if noise is None else noise.to(x.dtype)
        return modulated_conv2d(
            x,
            weight,
            style,
            up=self.up,
            resample_filter=taps,
            noise=noise,
            bias=bias,
            act="lrelu",
            clamp=self.clamp,
        )


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to three channels, without demodulation."""

    def __init__(self, inputs: int, w_dim: int, clamp: float | None = None) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, 3, 1, w_dim)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.clamp = clamp

    def forward(
        self,
        x: Tensor,  # [B, inputs, H, W]
        style: Tensor,  # [B, inputs]
    ) -> Tensor:  # [B, 3, H, W]
        style = style * self.conv.gain
        weight, bias = self.conv.weight[0], self.bias.reshape(3)
        if weight.dtype != x.dtype:  # a float16 layer of a float32 network
            weight, bias, style = weight.to(x.dtype), bias.to(x.dtype), style.to(x.dtype)
        return modulated_conv2d(x, weight, style, demodulate=False, bias=bias, clamp=self.clamp)
