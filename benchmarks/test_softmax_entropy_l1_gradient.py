"""softmax_entropy_l1 and its gradient, against what one writes in PyTorch and a bare pass
over as many bytes: a loss on the curve of HQS differentiates it."""

from __future__ import annotations

from typing import Any

import torch
from op_cases import gradient_rows
from torch import Tensor

from sdd_fast.ops.softmax_entropy_l1 import softmax_entropy_l1


def signed_sum(x: Tensor) -> Tensor:
    log_p = x.log_softmax(-1)
    return x.abs().sum(-1) - (log_p.exp() * log_p).sum(-1)


def abs_mean_sum(x: Tensor) -> Tensor:
    return signed_sum(x.abs().mean(1))


def ours(x: Tensor) -> Tensor:
    entropy, l1, _ = softmax_entropy_l1(x)
    return l1 + entropy


def ours_abs_mean(x: Tensor) -> Tensor:
    entropy, l1, _ = softmax_entropy_l1(x, "abs-mean")
    return l1 + entropy


# name, rows, elements in a row, standard deviation, dtype, whether of the abs-mean map
CASES = [
    ("17 x 3·512², float32", 17, 3 * 512**2, 1e-3, torch.float32, False),
    ("17 x 3·512², float32, std 1", 17, 3 * 512**2, 1.0, torch.float32, False),
    ("17 x 3·512², bfloat16", 17, 3 * 512**2, 1e-3, torch.bfloat16, False),
    ("17 x 4·64², float32", 17, 4 * 64**2, 1e-3, torch.float32, False),
    ("1 x 4·16², float32", 1, 4 * 16**2, 1e-3, torch.float32, False),
    ("17 x 3x512², float32, abs-mean map", 17, 512**2, 1e-3, torch.float32, True),
]
GPU_CASES = [
    ("50 x 3·1024², float32", 50, 3 * 1024**2, 1e-3, torch.float32, False),
    ("50 x 3·1024², float16", 50, 3 * 1024**2, 1e-3, torch.float16, False),
    ("50 x 3·512², float32, std 1", 50, 3 * 512**2, 1.0, torch.float32, False),
    ("50 x 4·64², float32", 50, 4 * 64**2, 1e-3, torch.float32, False),
    ("50 x 3x1024², float32, abs-mean map", 50, 1024**2, 1e-3, torch.float32, True),
]


def test_softmax_entropy_l1_gradient(
    compare: Any, device: str, case: tuple[str, int, int, float, torch.dtype, bool]
) -> None:
    name, rows, n, std, dtype, abs_mean = case
    channels = 3 if abs_mean else 1
    elements = channels * rows * n
    maps = [
        gradient_rows(rows * channels, n, std, seed=s, device=device)
        for s in range(1 if elements > 1 << 25 else 3)
    ]
    inputs = [
        (x.to(dtype).view((rows, channels, n) if abs_mean else (rows, n)).requires_grad_(),)
        for x in maps
    ]
    sides = (
        {"eager": abs_mean_sum, "ours": ours_abs_mean}
        if abs_mean
        else {"eager": signed_sum, "ours": ours}
    )
    # x is read forwards and backwards; its gradient is written.
    read, written = 2 * elements * dtype.itemsize, elements * dtype.itemsize
    compare(name, sides, inputs, read=read, written=written)
