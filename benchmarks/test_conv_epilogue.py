"""conv_epilogue at the sizes of StyleGAN2-1024 against its composition and a bare pass over as many
bytes."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from op_cases import feature_maps
from torch import Tensor

from sdd_fast.ops import conv_epilogue


def usual(x: Tensor, factor: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    y = x * factor[:, :, None, None] + noise + bias.reshape(1, -1, 1, 1)
    return F.leaky_relu(y, 0.2) * 2**0.5


def ours(x: Tensor, factor: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    return conv_epilogue(x, factor, noise, bias, "lrelu")


# shape, dtype and layout, gradients
CASES = [
    ((1, 64, 4, 4), "float32", False),
    ((1, 512, 4, 4), "float32 channels_last", False),
    ((8, 512, 4, 4), "float32 channels_last", False),
    ((1, 512, 64, 64), "float32", False),
    ((1, 512, 64, 64), "float32 channels_last", False),
    ((1, 512, 64, 64), "bfloat16 channels_last", False),
    ((1, 64, 512, 512), "float32 channels_last", False),
    ((1, 64, 4, 4), "float32", True),
    ((1, 512, 64, 64), "float32", True),
    ((1, 512, 64, 64), "float32 channels_last", True),
    ((1, 64, 512, 512), "float32 channels_last", True),
]
GPU_CASES = [
    ((8, 512, 4, 4), "float16 channels_last", False),
    ((8, 512, 64, 64), "float32 channels_last", False),
    ((8, 512, 64, 64), "float16", False),
    ((8, 512, 64, 64), "float16 channels_last", False),
    ((8, 128, 256, 256), "bfloat16 channels_last", False),
    ((8, 32, 1024, 1024), "float32", False),
    ((8, 32, 1024, 1024), "float32 channels_last", False),
    ((8, 32, 1024, 1024), "float16 channels_last", False),
    ((8, 512, 64, 64), "float16 channels_last", True),
    ((8, 32, 1024, 1024), "float32 channels_last", True),
    ((8, 32, 1024, 1024), "float16 channels_last", True),
]


def test_conv_epilogue(compare: Any, device: str, case: tuple[tuple[int, ...], str, bool]) -> None:
    shape, kind, gradients = case
    n, channels, *size = shape
    dtype = kind.split()[0]
    x = feature_maps(shape, kind, gradients=gradients, device=device)
    factor = feature_maps((n, channels), dtype, gradients=gradients, device=device)
    noise = feature_maps((1, 1, *size), dtype, device=device)
    bias = feature_maps((channels,), dtype, device=device)
    bytes_of_x = x[0].numel() * x[0].element_size()
    # Backwards: the gradient and the input (or the result) are read, a gradient is written.
    read, written = (3, 2) if gradients else (1, 1)
    compare(
        f"{list(shape)}, {kind}{', gradients' if gradients else ''}",
        {"eager": usual, "ours": ours},
        list(zip(x, factor, noise, bias, strict=True)),
        read=read * bytes_of_x,
        written=written * bytes_of_x,
    )
