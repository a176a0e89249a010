"""Layers that several networks share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops._register import transformed


class PixelNorm(nn.Module):
    """Divide by the root mean square over one dimension."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(self.dim, keepdim=True) + 1e-8)


class EqualLinear(nn.Module):
    """Linear layer with equalized learning rate, then optionally a leaky ReLU (0.2, gain √2).

    The stored weight has unit variance divided by `lr_multiplier` and is scaled when used, so an
    optimizer step moves every layer by the same relative amount (Karras et al. 2018, Sec. 4.1).
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        bias_init: float = 0.0,
        lr_multiplier: float = 1.0,
        activation: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_dim], bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_dim)
        self.bias_gain = lr_multiplier
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:  # [..., in_dim] -> [..., out_dim]
        # The √2 of the activation goes into the weights: leaky ReLU is positively homogeneous.
        gain = math.sqrt(2.0) if self.activation else 1.0
        x = F.linear(
            x, self.weight * (self.weight_gain * gain), self.bias * (self.bias_gain * gain)
        )
        return F.leaky_relu(x, 0.2) if self.activation else x


def channels_last(x: Tensor) -> Tensor:
    """Bring feature maps to channels_last, but not under `torch.func.vmap`, which cannot."""
    return x if transformed() else x.contiguous(memory_format=torch.channels_last)
