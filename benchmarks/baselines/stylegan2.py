"""The synthesis network of StyleGAN2 in PyTorch's own operations, in two formulations.

`grouped` is the formulation of the paper: a kernel for each sample, one grouped convolution.
`factored` is what an expert writes: features times styles, one convolution for all, factors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Convolution = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]
ToRGB = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@functools.cache
def taps(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=dtype, device=device) / 8


def kernel(x: Tensor, maps: int) -> Tensor:
    """The blur that follows upsampling, [maps, 1, 4, 4], for a depthwise convolution."""
    line = taps(x.dtype, x.device)
    return (4 * torch.outer(line, line)).expand(maps, 1, 4, 4)


def blur(y: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C, H − 1, W − 1]
    return F.conv2d(F.pad(y, (1, 1, 1, 1)), kernel(y, y.shape[1]), groups=y.shape[1])


def upsample(image: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3, 2H, 2W]
    y = F.conv_transpose2d(image, kernel(image, 3), stride=2, groups=3)
    return y[:, :, 1:-1, 1:-1]


def finish(y: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    return F.leaky_relu(y + noise + bias.reshape(1, -1, 1, 1), 0.2) * 2**0.5


def grouped(
    x: Tensor,  # [N, I, H, W]
    w: Tensor,  # [O, I, 3, 3]
    styles: Tensor,  # [N, I]
    noise: Tensor,  # [1, 1, H * up, W * up]
    bias: Tensor,  # [O]
    up: int,
) -> Tensor:  # [N, O, H * up, W * up]
    n, inputs, height, width = x.shape
    outputs = w.shape[0]
    k = w[None] * styles[:, None, :, None, None]
    k = k * torch.rsqrt(k.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    x = x.reshape(1, n * inputs, height, width)
    if up == 1:
        y = F.conv2d(x, k.reshape(n * outputs, inputs, 3, 3), padding=1, groups=n)
    else:
        k = k.transpose(1, 2).reshape(n * inputs, outputs, 3, 3)
        y = blur(F.conv_transpose2d(x, k, stride=2, groups=n))
    return finish(y.reshape(n, outputs, height * up, width * up), noise, bias)


def grouped_to_rgb(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor) -> Tensor:
    n, inputs, height, width = x.shape
    kernels = (weight[None] * styles[:, None, :, None, None]).flatten(0, 1)
    y = F.conv2d(x.reshape(1, n * inputs, height, width), kernels, groups=n)
    return y.reshape(n, -1, height, width) + bias.reshape(1, -1, 1, 1)


def factored(
    x: Tensor,
    w: Tensor,
    styles: Tensor,
    noise: Tensor,
    bias: Tensor,
    up: int,
    smooth: Callable[[Tensor], Tensor] = blur,
) -> Tensor:
    factor = torch.rsqrt(styles.square() @ w.square().sum((2, 3)).t() + 1e-8)
    y = x * styles[:, :, None, None]
    if up == 1:
        y = F.conv2d(y, w, padding=1)
    else:
        y = smooth(F.conv_transpose2d(y, w.transpose(0, 1), stride=2))
    return finish(y * factor[:, :, None, None], noise, bias)


def factored_to_rgb(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x * styles[:, :, None, None], weight, bias)


def synthesis(
    generator: Any, w_plus: Tensor, convolution: Convolution, to_rgb: ToRGB
) -> Tensor:  # [N, num_layers, w_dim] -> [N, 3, R, R]
    """Render with the weights of our network, which has neither clamps nor float16 layers here."""
    x = generator.input.input.expand(len(w_plus), -1, -1, -1)
    if convolution is factored:
        x = x.contiguous(memory_format=torch.channels_last)
    image, noises = None, iter(generator.noises.buffers())
    for layer, index in generator._plan:
        styles = layer.conv.modulation(w_plus[:, index]) * layer.conv.gain
        weight = layer.conv.weight[0]
        if weight.shape[-1] == 3:
            noise = next(noises) * layer.noise.weight
            x = convolution(x, weight, styles, noise, layer.activate.bias, layer.up)
        else:
            rgb = to_rgb(x, weight, styles, layer.bias.reshape(3))
            image = rgb if image is None else rgb + upsample(image)
    assert image is not None
    return image
