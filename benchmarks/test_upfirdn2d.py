"""upfirdn2d with [1, 3, 3, 1] at the sizes of StyleGAN2-1024, against two ways to write it.

eager: the definition, in place of whose filter stands one full 2-D depthwise convolution: insert
zeros, F.pad, conv2d, take every second pixel. grouped: what an expert writes: one strided depthwise
convolution, transposed for upsampling, and a crop. Both get the 2-D filter ready made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from op_cases import feature_maps
from torch import Tensor

from sdd_fast.ops import upfirdn2d

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
Pads = tuple[int, int, int, int]


def plain(x: Tensor, up: int, down: int, pads: Pads) -> Callable:
    channels = x.shape[1]
    weight = (torch.outer(TAPS, TAPS) * up**2).to(x).repeat(channels, 1, 1, 1)

    def function(x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        if up > 1:
            inserted = x.new_zeros(n, c, height, up, width, up)
            inserted[:, :, :, 0, :, 0] = x
            x = inserted.view(n, c, height * up, width * up)
        y = F.conv2d(F.pad(x, pads), weight, groups=channels)
        return y[:, :, ::down, ::down] if down > 1 else y

    return function


def grouped(x: Tensor, up: int, down: int, pads: Pads) -> Callable:
    channels = x.shape[1]
    weight = (torch.outer(TAPS, TAPS) * up**2).to(x).repeat(channels, 1, 1, 1)
    left, right, top, bottom = pads

    def function(x: Tensor) -> Tensor:
        if up == 1:
            return F.conv2d(x, weight, stride=down, padding=(top, left), groups=channels)
        y = F.conv_transpose2d(x, weight, stride=up, groups=channels)
        height, width = x.shape[2] * up + top + bottom - 3, x.shape[3] * up + left + right - 3
        return y[:, :, 3 - top : 3 - top + height, 3 - left : 3 - left + width]

    return function


# After the convolutions that upsample to 8 ... 1024 pixels.
BLUR = [
    ((1, 32, 1025, 1025), "float32"),
    ((1, 64, 513, 513), "float32"),
    ((1, 128, 257, 257), "float32"),
    ((1, 512, 65, 65), "float32"),
    ((1, 512, 33, 33), "float32"),
    ((8, 512, 17, 17), "float32"),
    ((8, 512, 9, 9), "float32"),
    ((1, 512, 9, 9), "float32"),
    ((1, 32, 1025, 1025), "bfloat16"),
    ((1, 32, 1025, 1025), "float16"),
    ((1, 32, 1025, 1025), "float32 channels_last"),
    ((1, 512, 65, 65), "float32 channels_last"),
    ((8, 512, 9, 9), "float32 channels_last"),
    ((1, 64, 4, 4), "float32"),
]
UP = [
    ((1, 3, 512, 512), "float32"),
    ((1, 3, 64, 64), "float32"),
    ((1, 64, 4, 4), "float32"),
    ((1, 512, 32, 32), "float32"),
    ((8, 512, 4, 4), "float32"),
    ((1, 3, 512, 512), "float32 channels_last"),
]
DOWN = [
    ((1, 32, 1024, 1024), "float32"),
    ((1, 3, 1024, 1024), "float32"),
    ((1, 512, 32, 32), "float32"),
    ((8, 512, 8, 8), "float32"),
    ((1, 64, 4, 4), "float32"),
    ((1, 64, 512, 512), "float32 channels_last"),
]
WITH_GRADIENT = [(1, 128, 257, 257), (1, 512, 17, 17), (1, 64, 4, 4)]

# name, shape, dtype and layout, up, down, padding, gradient
Case = tuple[str, tuple[int, ...], str, int, int, Pads, bool]
CASES: list[Case] = [
    *(("blur", s, k, 1, 1, (1, 1, 1, 1), False) for s, k in BLUR),
    *(("up 2", s, k, 2, 1, (2, 1, 2, 1), False) for s, k in UP),
    *(("down 2", s, k, 1, 2, (1, 1, 1, 1), False) for s, k in DOWN),
    *(("blur and gradient", s, "float32", 1, 1, (1, 1, 1, 1), True) for s in WITH_GRADIENT),
]
GPU_CASES: list[Case] = [
    ("blur", (8, 512, 9, 9), "float16 channels_last", 1, 1, (1, 1, 1, 1), False),
    ("blur", (8, 512, 65, 65), "float32", 1, 1, (1, 1, 1, 1), False),
    ("blur", (8, 512, 65, 65), "float16 channels_last", 1, 1, (1, 1, 1, 1), False),
    ("blur", (8, 128, 257, 257), "bfloat16 channels_last", 1, 1, (1, 1, 1, 1), False),
    ("blur", (8, 32, 1025, 1025), "float32", 1, 1, (1, 1, 1, 1), False),
    ("blur", (8, 32, 1025, 1025), "float32 channels_last", 1, 1, (1, 1, 1, 1), False),
    ("blur", (8, 32, 1025, 1025), "float16", 1, 1, (1, 1, 1, 1), False),
    ("blur", (8, 32, 1025, 1025), "float16 channels_last", 1, 1, (1, 1, 1, 1), False),
    ("up 2", (8, 3, 512, 512), "float32", 2, 1, (2, 1, 2, 1), False),
    ("up 2", (8, 3, 512, 512), "float16 channels_last", 2, 1, (2, 1, 2, 1), False),
    ("up 2", (8, 64, 256, 256), "float32", 2, 1, (2, 1, 2, 1), False),
    ("down 2", (8, 32, 1024, 1024), "float32", 1, 2, (1, 1, 1, 1), False),
    ("down 2", (8, 32, 1024, 1024), "float16 channels_last", 1, 2, (1, 1, 1, 1), False),
    ("blur and gradient", (8, 32, 1025, 1025), "float16 channels_last", 1, 1, (1, 1, 1, 1), True),
]


def test_upfirdn2d(compare: Any, device: str, case: Case) -> None:
    name, shape, kind, up, down, pads, gradient = case
    taps = TAPS.to(device)

    def ours(x: Tensor) -> Tensor:
        return upfirdn2d(x, taps, up, down, pads, False, up**2)

    inputs = feature_maps(shape, kind, gradients=gradient, device=device)
    x = inputs[0]
    sides = {
        "eager": plain(x, up, down, pads),
        "grouped": grouped(x, up, down, pads),
        "ours": ours,
    }
    bytes_of_x = x.numel() * x.element_size()
    bytes_of_y = ours(x).numel() * x.element_size()
    compare(
        f"{name} {'x'.join(str(s) for s in shape)}, {kind}",
        sides,
        [(x,) for x in inputs],
        read=bytes_of_x + gradient * bytes_of_y,
        written=bytes_of_y + gradient * bytes_of_x,
    )
