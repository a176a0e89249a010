"""bias_act at the sizes of StyleGAN2-1024 against the usual formulation and a bare pass over as
many bytes."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from op_cases import feature_maps
from torch import Tensor

from sdd_fast.ops import bias_act

CLAMP = 256.0


def usual(x: Tensor, b: Tensor) -> Tensor:
    y = F.leaky_relu(x + b.reshape([1, -1] + [1] * (x.ndim - 2)), 0.2)
    return (y * 2**0.5).clamp(-CLAMP, CLAMP)


def ours(x: Tensor, b: Tensor) -> Tensor:
    return bias_act(x, b, clamp=CLAMP)


# shape, dtype and layout, gradients
CASES = [
    ((1, 64, 4, 4), "float32", False),
    ((8, 512, 4, 4), "float32", False),
    ((1, 512, 16, 16), "float32", False),
    ((1, 512, 64, 64), "float32", False),
    ((1, 512, 64, 64), "bfloat16", False),
    ((1, 512, 64, 64), "float16", False),
    ((1, 256, 128, 128), "float32", False),
    ((1, 64, 512, 512), "float32", False),
    ((1, 32, 1024, 1024), "float32", False),
    ((1, 32, 1024, 1024), "float32 channels_last", False),
    ((1, 64, 4, 4), "float32", True),
    ((8, 512, 4, 4), "float32", True),
    ((1, 512, 64, 64), "float32", True),
    ((1, 64, 512, 512), "float32 channels_last", True),
]
# At batch 8, with the dtypes and layouts of training.
GPU_CASES = [
    ((8, 512, 4, 4), "float16 channels_last", False),
    ((8, 512, 64, 64), "float32", False),
    ((8, 512, 64, 64), "float16", False),
    ((8, 512, 64, 64), "float16 channels_last", False),
    ((8, 128, 256, 256), "bfloat16 channels_last", False),
    ((8, 32, 1024, 1024), "float32", False),
    ((8, 32, 1024, 1024), "float32 channels_last", False),
    ((8, 32, 1024, 1024), "float16", False),
    ((8, 32, 1024, 1024), "float16 channels_last", False),
    ((8, 512, 64, 64), "float16 channels_last", True),
    ((8, 32, 1024, 1024), "float32", True),
    ((8, 32, 1024, 1024), "float16 channels_last", True),
]


def test_bias_act(compare: Any, device: str, case: tuple[tuple[int, ...], str, bool]) -> None:
    shape, kind, gradients = case
    x = feature_maps(shape, kind, gradients=gradients, device=device)
    b = feature_maps((shape[1],), kind.split()[0], gradients=gradients, device=device)
    bytes_of_x = x[0].numel() * x[0].element_size()
    # Backwards: the gradient and the result (or the input) are read, a gradient is written.
    read, written = (3, 2) if gradients else (1, 1)
    compare(
        f"{list(shape)}, {kind}{', gradients' if gradients else ''}",
        {"eager": usual, "ours": ours},
        list(zip(x, b, strict=True)),
        read=read * bytes_of_x,
        written=written * bytes_of_x,
    )
