"""group_norm_silu at the sizes of Stable Diffusion's VAE encoder against PyTorch's two operations
and a bare pass over as many bytes. The parameters are frozen."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from op_cases import feature_maps
from torch import Tensor

from sdd_fast.ops import group_norm_silu

GROUPS = 32


def usual(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, GROUPS, weight, bias, 1e-6))


def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return group_norm_silu(x, GROUPS, weight, bias)


# shape, dtype and layout, gradients
CASES = [
    ((1, 128, 512, 512), "bfloat16 channels_last", False),
    ((1, 256, 256, 256), "bfloat16 channels_last", False),
    ((1, 512, 64, 64), "bfloat16 channels_last", False),
    ((2, 512, 64, 64), "bfloat16 channels_last", False),
    ((1, 128, 512, 512), "float32 channels_last", False),
    ((1, 512, 64, 64), "float32 channels_last", False),
    ((1, 512, 64, 64), "bfloat16", False),
    ((1, 512, 64, 64), "float32", False),
    ((1, 64, 4, 4), "float32", False),
    ((1, 128, 512, 512), "bfloat16 channels_last", True),
    ((1, 256, 256, 256), "bfloat16 channels_last", True),
    ((1, 512, 64, 64), "bfloat16 channels_last", True),
    ((2, 512, 64, 64), "bfloat16 channels_last", True),
    ((1, 512, 64, 64), "float32 channels_last", True),
    ((1, 512, 64, 64), "float32", True),
    ((1, 64, 4, 4), "float32", True),
]
GPU_CASES = [
    ((1, 128, 512, 512), "float16 channels_last", False),
    ((1, 512, 64, 64), "float16 channels_last", False),
    ((8, 128, 512, 512), "float16 channels_last", False),
    ((8, 512, 64, 64), "float16 channels_last", False),
    ((8, 512, 64, 64), "float16", False),
    ((8, 128, 512, 512), "float32 channels_last", False),
    ((1, 128, 512, 512), "float16 channels_last", True),
    ((1, 512, 64, 64), "float16 channels_last", True),
    ((8, 128, 512, 512), "float16 channels_last", True),
    ((8, 512, 64, 64), "float16", True),
]


def test_group_norm_silu(
    compare: Any, device: str, case: tuple[tuple[int, ...], str, bool]
) -> None:
    shape, kind, gradients = case
    shape = (shape[0], -(-shape[1] // GROUPS) * GROUPS, *shape[2:])  # also of a dry run
    x = feature_maps(shape, kind, gradients=gradients, device=device)
    dtype = x[0].dtype
    weight = torch.linspace(0.5, 1.5, shape[1], device=device).to(dtype)
    bias = torch.linspace(-1.0, 1.0, shape[1], device=device).to(dtype)
    bytes_of_x = x[0].numel() * x[0].element_size()
    # Twice through the maps: for the statistics and for the result. Backwards twice through the
    # maps and the gradient, which no cache holds.
    read, written = (6, 2) if gradients else (2, 1)
    compare(
        f"{list(shape)}, {kind}{', gradients' if gradients else ''}",
        {"eager": usual, "ours": ours},
        [(maps, weight, bias) for maps in x],
        read=read * bytes_of_x,
        written=written * bytes_of_x,
    )
