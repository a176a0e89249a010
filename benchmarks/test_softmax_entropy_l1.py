"""softmax_entropy_l1 of the maps of a curve over 17 timesteps, against what one writes in PyTorch
and a bare pass over the input."""

from __future__ import annotations

from typing import Any

import torch
from op_cases import gradient_rows
from torch import Tensor

from sdd_fast.ops.softmax_entropy_l1 import softmax_entropy_l1


def signed_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    log_p = x.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1), x.abs().sum(-1)


def abs_mean_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    return signed_statistics(x.abs().mean(1))


# name, rows, elements in a row, standard deviation, dtype, whether of the abs-mean map
CASES = [
    ("17 x 3·1024², float32", 17, 3 * 1024**2, 1e-3, torch.float32, False),
    ("17 x 3·512², float32", 17, 3 * 512**2, 1e-3, torch.float32, False),
    ("17 x 3·512², float32, std 1", 17, 3 * 512**2, 1.0, torch.float32, False),
    ("17 x 3·512², bfloat16", 17, 3 * 512**2, 1e-3, torch.bfloat16, False),
    ("17 x 3·512², float16", 17, 3 * 512**2, 1e-3, torch.float16, False),
    ("1 x 3·1024², float32", 1, 3 * 1024**2, 1e-3, torch.float32, False),
    ("1000 x 4·64², float32", 1000, 4 * 64**2, 1e-3, torch.float32, False),
    ("17 x 4·64², float32", 17, 4 * 64**2, 1e-3, torch.float32, False),
    ("1 x 4·64², float32", 1, 4 * 64**2, 1e-3, torch.float32, False),
    ("1 x 4·16², float32", 1, 4 * 16**2, 1e-3, torch.float32, False),
    ("17 x 3x512², float32, abs-mean map", 17, 512**2, 1e-3, torch.float32, True),
    ("17 x 3x1024², float32, abs-mean map", 17, 1024**2, 1e-3, torch.float32, True),
]
# A curve over 50 timesteps, of the latents of Stable Diffusion too.
GPU_CASES = [
    ("1 x 3·1024², float32", 1, 3 * 1024**2, 1e-3, torch.float32, False),
    ("50 x 3·1024², float32", 50, 3 * 1024**2, 1e-3, torch.float32, False),
    ("50 x 3·1024², float16", 50, 3 * 1024**2, 1e-3, torch.float16, False),
    ("50 x 3·512², float32", 50, 3 * 512**2, 1e-3, torch.float32, False),
    ("50 x 3·512², float32, std 1", 50, 3 * 512**2, 1.0, torch.float32, False),
    ("50 x 3·512², bfloat16", 50, 3 * 512**2, 1e-3, torch.bfloat16, False),
    ("1000 x 4·64², float32", 1000, 4 * 64**2, 1e-3, torch.float32, False),
    ("50 x 4·64², float32", 50, 4 * 64**2, 1e-3, torch.float32, False),
    ("50 x 3x512², float32, abs-mean map", 50, 512**2, 1e-3, torch.float32, True),
    ("50 x 3x1024², float32, abs-mean map", 50, 1024**2, 1e-3, torch.float32, True),
]


def test_softmax_entropy_l1(
    compare: Any, device: str, case: tuple[str, int, int, float, torch.dtype, bool]
) -> None:
    name, rows, n, std, dtype, abs_mean = case
    channels = 3 if abs_mean else 1
    count = 1 if channels * rows * n > 1 << 25 else 3
    maps = [gradient_rows(rows * channels, n, std, seed=s, device=device) for s in range(count)]
    inputs = [(x.to(dtype).view(rows, channels, n) if abs_mean else x.to(dtype),) for x in maps]
    if abs_mean:
        sides = {"eager": abs_mean_statistics, "ours": lambda x: softmax_entropy_l1(x, "abs-mean")}
    else:
        sides = {"eager": signed_statistics, "ours": softmax_entropy_l1}
    compare(name, sides, inputs, read=channels * rows * n * dtype.itemsize)
