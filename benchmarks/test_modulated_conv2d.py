"""modulated_conv2d at the sizes of StyleGAN2-1024 against the grouped convolution of the paper and
against the factored form that an expert writes; and the bare convolution in all of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from baselines.stylegan2 import factored, grouped, taps
from op_cases import feature_maps
from torch import Tensor

from sdd_fast.ops import modulated_conv2d, upfirdn2d


def expert(x: Tensor, w: Tensor, styles: Tensor, noise: Tensor, bias: Tensor, up: int) -> Tensor:
    def blur(y: Tensor) -> Tensor:
        return upfirdn2d(y, taps(y.dtype, y.device), padding=1, gain=4.0)

    return factored(x, w, styles, noise, bias, up, blur)


def ours(x: Tensor, w: Tensor, styles: Tensor, noise: Tensor, bias: Tensor, up: int) -> Tensor:
    return modulated_conv2d(
        x, w, styles, up=up, resample_filter=taps(x.dtype, x.device), noise=noise, bias=bias,
        act="lrelu",
    )  # fmt: skip


def bare_convolution(
    x: Tensor, w: Tensor, styles: Tensor, noise: Tensor, bias: Tensor, up: int
) -> Tensor:
    if up == 1:
        return F.conv2d(x, w, padding=1)
    return F.conv_transpose2d(x, w.transpose(0, 1), stride=2)


# N, I, O, side, up, gradients, dtype
CASES = [
    (1, 64, 64, 4, 1, False, "float32"),
    (1, 512, 512, 4, 1, False, "float32"),
    (1, 512, 512, 16, 1, False, "float32"),
    (1, 512, 512, 64, 1, False, "float32"),
    (8, 512, 512, 8, 1, False, "float32"),
    (1, 512, 256, 64, 2, False, "float32"),
    (1, 256, 256, 128, 1, False, "float32"),
    (1, 128, 128, 256, 1, False, "float32"),
    (1, 64, 64, 512, 1, False, "float32"),
    (1, 64, 32, 512, 2, False, "float32"),
    (1, 64, 64, 4, 1, True, "float32"),
    (1, 512, 512, 4, 1, True, "float32"),
    (2, 512, 512, 32, 1, True, "float32"),
    (1, 256, 128, 128, 2, True, "float32"),
    (1, 64, 64, 512, 1, True, "float32"),
]
GPU_CASES = [
    (8, 512, 512, 4, 1, False, "float16"),
    (8, 512, 512, 64, 1, False, "float32"),
    (8, 512, 512, 64, 1, False, "float16"),
    (8, 512, 512, 64, 1, False, "bfloat16"),
    (8, 512, 256, 64, 2, False, "float16"),
    (8, 64, 32, 512, 2, False, "float16"),
    (8, 32, 32, 1024, 1, False, "float16"),
    (8, 512, 512, 64, 1, True, "float16"),
    (8, 64, 32, 512, 2, True, "float16"),
]


def test_modulated_conv2d(
    compare: Any, device: str, case: tuple[int, int, int, int, int, bool, str]
) -> None:
    n, inputs, outputs, side, up, gradients, dtype = case
    shape = (n, inputs, side, side)
    on = {"count": 1, "device": device}
    (w,) = feature_maps((outputs, inputs, 3, 3), dtype, **on)
    (noise,) = feature_maps((1, 1, side * up, side * up), dtype, **on)
    (styles,) = feature_maps((n, inputs), dtype, gradients=gradients, **on)
    (bias,) = feature_maps((outputs,), dtype, **on)
    with torch.no_grad():  # within the range of float16
        styles /= (9 * inputs) ** 0.5

    def arguments(kind: str, styles: Tensor) -> list[tuple[Any, ...]]:
        maps = feature_maps(shape, kind, gradients=gradients, **on)
        return [(x, w, styles, noise, bias, up) for x in maps]

    compare(
        f"[{n}, {inputs}, {side}, {side}] to {outputs} channels"
        f"{', up 2' if up == 2 else ''}{'' if dtype == 'float32' else ', ' + dtype}"
        f"{', gradients' if gradients else ''}",
        {"eager": expert, "grouped": grouped, "ours": ours, "convolution": bare_convolution},
        arguments(f"{dtype} channels_last", styles),
        own_inputs={
            "grouped": arguments(dtype, styles),
            "convolution": arguments(f"{dtype} channels_last", styles.detach()),
        },
        flops=2 * 9 * n * inputs * outputs * side**2 * (2 if gradients else 1),
    )
