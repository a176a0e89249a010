"""modulated_conv2d at the sizes of StyleGAN2-1024 against the grouped convolution of the paper and
against the factored form that an expert writes; and the bare convolution in all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from op_cases import feature_maps
from torch import Tensor

from sdd_fast.ops import modulated_conv2d, upfirdn2d

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


def finish(y: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    return F.leaky_relu(y + noise + bias.reshape(1, -1, 1, 1), 0.2) * 2**0.5


def grouped(x: Tensor, w: Tensor, styles: Tensor, noise: Tensor, bias: Tensor, up: int) -> Tensor:
    n, inputs, height, width = x.shape
    outputs = w.shape[0]
    k = w[None] * styles[:, None, :, None, None]
    k = k * torch.rsqrt(k.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    x = x.reshape(1, n * inputs, height, width)
    if up == 1:
        y = F.conv2d(x, k.reshape(n * outputs, inputs, 3, 3), padding=1, groups=n)
    else:
        k = k.transpose(1, 2).reshape(n * inputs, outputs, 3, 3)
        y = F.conv_transpose2d(x, k, stride=2, groups=n)
        blur = (4 * torch.outer(TAPS, TAPS)).expand(n * outputs, 1, 4, 4)
        y = F.conv2d(F.pad(y, (1, 1, 1, 1)), blur, groups=n * outputs)
    return finish(y.reshape(n, outputs, height * up, width * up), noise, bias)


def expert(x: Tensor, w: Tensor, styles: Tensor, noise: Tensor, bias: Tensor, up: int) -> Tensor:
    factor = torch.rsqrt(styles.square() @ w.square().sum((2, 3)).t() + 1e-8)
    y = x * styles[:, :, None, None]
    if up == 1:
        y = F.conv2d(y, w, padding=1)
    else:
        y = F.conv_transpose2d(y, w.transpose(0, 1), stride=2)
        y = upfirdn2d(y, TAPS, padding=1, gain=4.0)
    return finish(y * factor[:, :, None, None], noise, bias)


def ours(x: Tensor, w: Tensor, styles: Tensor, noise: Tensor, bias: Tensor, up: int) -> Tensor:
    return modulated_conv2d(x, w, styles, up=up, noise=noise, bias=bias, act="lrelu")


def bare_convolution(
    x: Tensor, w: Tensor, styles: Tensor, noise: Tensor, bias: Tensor, up: int
) -> Tensor:
    if up == 1:
        return F.conv2d(x, w, padding=1)
    return F.conv_transpose2d(x, w.transpose(0, 1), stride=2)


# N, I, O, side, up, gradients
CASES = [
    (1, 1, 1, 1, 1, False),
    (1, 512, 512, 4, 1, False),
    (1, 512, 512, 16, 1, False),
    (1, 512, 512, 64, 1, False),
    (8, 512, 512, 8, 1, False),
    (1, 512, 256, 64, 2, False),
    (1, 256, 256, 128, 1, False),
    (1, 128, 128, 256, 1, False),
    (1, 64, 64, 512, 1, False),
    (1, 64, 32, 512, 2, False),
    (1, 1, 1, 1, 1, True),
    (1, 512, 512, 4, 1, True),
    (2, 512, 512, 32, 1, True),
    (1, 256, 128, 128, 2, True),
    (1, 64, 64, 512, 1, True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_modulated_conv2d(compare: Any, case: tuple[int, int, int, int, int, bool]) -> None:
    n, inputs, outputs, side, up, gradients = case
    shape = (n, inputs, side, side)
    (w,) = feature_maps((outputs, inputs, 3, 3), count=1)
    (noise,) = feature_maps((1, 1, side * up, side * up), count=1)
    (styles,) = feature_maps((n, inputs), count=1, gradients=gradients)
    (bias,) = feature_maps((outputs,), count=1)

    def arguments(kind: str, styles: Tensor) -> list[tuple[Any, ...]]:
        maps = feature_maps(shape, kind, count=1, gradients=gradients)
        return [(x, w, styles, noise, bias, up) for x in maps]

    compare(
        f"[{n}, {inputs}, {side}, {side}] to {outputs} channels"
        f"{', up 2' if up == 2 else ''}{', gradients' if gradients else ''}",
        {"eager": expert, "grouped": grouped, "ours": ours, "convolution": bare_convolution},
        arguments("float32 channels_last", styles),
        own_inputs={
            "grouped": arguments("float32", styles),
            "convolution": arguments("float32 channels_last", styles.detach()),
        },
    )
