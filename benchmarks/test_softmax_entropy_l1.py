"""softmax_entropy_l1 of the maps of a curve over 17 timesteps, against what one writes in PyTorch
and a bare pass over the input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import gradient_rows
from torch import Tensor

from sdd_fast.ops.softmax_entropy_l1 import softmax_entropy_l1


def signed_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    log_p = x.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1), x.abs().sum(-1)


def abs_mean_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    return signed_statistics(x.abs().mean(1))


# name, rows, numbers in a row, standard deviation, dtype
SIGNED = [
    ("17 x 3·1024², float32", 17, 3 * 1024**2, 1e-3, torch.float32),
    ("17 x 3·512², float32", 17, 3 * 512**2, 1e-3, torch.float32),
    ("17 x 3·512², float32, std 1", 17, 3 * 512**2, 1.0, torch.float32),
    ("17 x 3·512², bfloat16", 17, 3 * 512**2, 1e-3, torch.bfloat16),
    ("17 x 3·512², float16", 17, 3 * 512**2, 1e-3, torch.float16),
    ("1 x 3·1024², float32", 1, 3 * 1024**2, 1e-3, torch.float32),
    ("1000 x 4·64², float32", 1000, 4 * 64**2, 1e-3, torch.float32),
    ("17 x 4·64², float32", 17, 4 * 64**2, 1e-3, torch.float32),
    ("1 x 4·64², float32", 1, 4 * 64**2, 1e-3, torch.float32),
    ("1 x 1, float32", 1, 1, 1e-3, torch.float32),
]


@pytest.mark.parametrize("case", SIGNED, ids=lambda c: c[0])
def test_signed(compare: Any, case: tuple[str, int, int, float, torch.dtype]) -> None:
    name, rows, n, std, dtype = case
    count = 1 if rows * n > 1 << 25 else 3
    inputs = [(gradient_rows(rows, n, std, seed=s).to(dtype),) for s in range(count)]
    sides = {"eager": signed_statistics, "ours": softmax_entropy_l1}
    compare(name, sides, inputs, read=rows * n * dtype.itemsize)


@pytest.mark.parametrize("resolution", [512, 1024])
def test_abs_mean(compare: Any, resolution: int) -> None:
    x = gradient_rows(17 * 3, resolution**2, 1e-3).view(17, 3, resolution**2)
    sides = {"eager": abs_mean_statistics, "ours": lambda x: softmax_entropy_l1(x, "abs-mean")}
    name = f"17 x 3x{resolution}², float32, abs-mean map"
    compare(name, sides, [(x,)], read=x.numel() * 4)
