"""StyleGAN2's synthesis for other programs: in operations that every runtime has, on constants.

The formulas are those of `ops.modulated_conv2d`. Whatever does not depend on the latent is
computed once, here: scaled weights, their energies Σ_k w², noise times its strength. No operation
asks for the number of images, so that one graph serves any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..manipulator import style_layer
from ..models.layers import EqualLinear
from ..models.stylegan2 import StyleGAN2
from ..models.stylegan2_layers import StyledConv, ToRGB

_EPS, _GAIN = 1e-8, math.sqrt(2.0)


class PlainStyleGAN2(nn.Module):
    """A `LatentGenerator` that renders as `generator` does, with its stored noise, in float32.

    Args:
        generator: stays as it is; small tensors are shared with it.
    """

    input: Tensor  # [1, C, 4, 4]
    fir: Tensor  # [3, 1, t, t]

    def __init__(self, generator: StyleGAN2) -> None:
        super().__init__()
        self.num_layers, self.w_dim = generator.num_layers, generator.w_dim
        self.image_size, self.style_dims = generator.image_size, generator.style_dims
        self.rows = generator.content_rows
        taps = generator.resample_filter.detach()
        layers: list[StyledConv | ToRGB] = [generator.conv1, generator.to_rgb1]
        for j, rgb in enumerate(generator.to_rgbs):
            layers += [generator.convs[2 * j], generator.convs[2 * j + 1], rgb]  # type: ignore[list-item]
        self.affine = nn.ModuleList(_linear(layer.conv.modulation) for layer in layers)
        self.layers = nn.ModuleList()
        for layer in layers:
            if isinstance(layer, ToRGB):
                self.layers.append(_ToRGB(layer))
                continue
            # One noise map for each convolution; two of three layers are convolutions.
            k = len([one for one in self.layers if isinstance(one, _Conv)])
            noise = getattr(generator.noises, f"noise_{k}").detach()
            self.layers.append(_Conv(layer, noise, taps))
        self.register_buffer("input", generator.input.input.detach())
        self.register_buffer("fir", (taps[:, None] * taps * 4.0).expand(3, 1, -1, -1).clone())
        self.padding = len(taps) // 2 - 1

    def style_vectors(self, w_plus: Tensor) -> list[Tensor]:
        """Map W+ [B, num_layers, w_dim] to styles [B, style_dims[i]]."""
        return [affine(w_plus[:, style_layer(i)]) for i, affine in enumerate(self.affine)]

    def synthesis(self, w_plus: Tensor) -> Tensor:
        """Render images [B, 3, *image_size], about [-1, 1], of W+ [B, num_layers, w_dim]."""
        return self.synthesis_from_styles(self.style_vectors(w_plus))

    def synthesis_from_styles(self, styles: Sequence[Tensor]) -> Tensor:
        """Render images of styles [B, style_dims[i]]."""
        x = self.input
        image: Tensor | None = None
        for layer, style in zip(self.layers, styles, strict=True):
            if isinstance(layer, _Conv):
                x = layer(x, style)
            else:
                rgb = layer(x, style)
                image = rgb if image is None else rgb + self._upsample(image)
        assert image is not None
        return image if self.rows is None else image[:, :, self.rows[0] : self.rows[1]]

    def _upsample(self, image: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, 3, 2H, 2W]
        return F.conv_transpose2d(image, self.fir, stride=2, padding=self.padding, groups=3)


class _Conv(nn.Module):
    """A `StyledConv`. The √2 after its activation goes into what stands before: leaky ReLU is
    positively homogeneous."""

    weight: Tensor  # [O, I, 3, 3], or [I, O, 3, 3] for a transposed convolution
    energy: Tensor  # [O, I]
    bias: Tensor  # [O, 1, 1]
    noise: Tensor | None  # [1, 1, H, W]
    fir: Tensor  # [O, 1, t, t]

    def __init__(self, layer: StyledConv, noise: Tensor, taps: Tensor) -> None:
        super().__init__()
        weight = layer.conv.weight.detach()[0] * layer.conv.gain  # [O, I, 3, 3]
        strength = layer.noise.weight.detach()
        self.up, self.clamp = layer.up == 2, layer.clamp
        self.padding = len(taps) // 2 - 1 if self.up else 1
        self.register_buffer("energy", weight.square().sum((2, 3)) / _GAIN**2)  # [O, I]
        self.register_buffer("weight", weight.transpose(0, 1).contiguous() if self.up else weight)
        self.register_buffer("bias", layer.activate.bias.detach()[:, None, None] * _GAIN)
        self.register_buffer("noise", noise * strength * _GAIN if strength.any() else None)
        if self.up:  # a convolution flips its filter, PyTorch's does not
            fir = (taps[:, None] * taps * 4.0).flip(0, 1)
            self.register_buffer("fir", fir.expand(len(weight), 1, -1, -1).clone())

    def forward(self, x: Tensor, style: Tensor) -> Tensor:  # [B or 1, I, H, W], [B, I] -> [B, O, …]
        y = x * style[:, :, None, None]
        if self.up:
            y = F.conv_transpose2d(y, self.weight, stride=2)
            y = F.conv2d(y, self.fir, padding=self.padding, groups=self.fir.shape[0])
        else:
            y = F.conv2d(y, self.weight, padding=self.padding)
        factor = (F.linear(style * style, self.energy) + _EPS / _GAIN**2).rsqrt()  # [B, O]
        y = y * factor[:, :, None, None] + self.bias
        if self.noise is not None:
            y = y + self.noise
        y = F.leaky_relu(y, 0.2)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class _ToRGB(nn.Module):
    weight: Tensor  # [3, I, 1, 1]
    bias: Tensor  # [3]

    def __init__(self, layer: ToRGB) -> None:
        super().__init__()
        self.clamp = layer.clamp
        self.register_buffer("weight", layer.conv.weight.detach()[0] * layer.conv.gain)
        self.register_buffer("bias", layer.bias.detach().reshape(3))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:  # [B, I, H, W], [B, I] -> [B, 3, H, W]
        y = F.conv2d(x * style[:, :, None, None], self.weight, self.bias)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


def _linear(layer: EqualLinear) -> nn.Linear:
    """An `EqualLinear` without activation, its gains in the weights."""
    outputs, inputs = layer.weight.shape
    linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    linear.weight = nn.Parameter(layer.weight.detach() * layer.weight_gain, requires_grad=False)
    linear.bias = nn.Parameter(layer.bias.detach() * layer.bias_gain, requires_grad=False)
    return linear
