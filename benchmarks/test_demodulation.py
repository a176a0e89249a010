"""demodulation of the weights of StyleGAN2 against the usual formula."""

from __future__ import annotations

from typing import Any

import torch
from op_cases import feature_maps
from torch import Tensor

from sdd_fast.ops import demodulation


def usual(weight: Tensor, styles: Tensor) -> Tensor:
    return torch.rsqrt(styles.square() @ weight.square().sum((2, 3)).t() + 1e-8)


# N, shape of the weight, dtype and layout, gradient of the styles
CASES = [
    (1, (64, 64, 3, 3), "float32", False),
    (1, (512, 512, 3, 3), "float32", False),
    (8, (512, 512, 3, 3), "float32", False),
    (1, (512, 512, 3, 3), "float32 channels_last", False),
    (1, (512, 512, 1, 1), "float32", False),
    (1, (512, 512, 3, 3), "bfloat16", False),
    (1, (64, 64, 3, 3), "float32", True),
    (1, (512, 512, 3, 3), "float32", True),
]
GPU_CASES = [
    (8, (64, 64, 3, 3), "float16 channels_last", False),
    (8, (512, 512, 3, 3), "float32", False),
    (8, (512, 512, 3, 3), "float16", False),
    (8, (512, 512, 3, 3), "float16 channels_last", False),
    (8, (512, 512, 3, 3), "float16 channels_last", True),
]


def test_demodulation(
    compare: Any, device: str, case: tuple[int, tuple[int, ...], str, bool]
) -> None:
    n, shape, kind, gradients = case
    weights = feature_maps(shape, kind, device=device)
    inputs = shape[1]
    styles = feature_maps((n, inputs), kind.split()[0], gradients=gradients, device=device)
    with torch.no_grad():  # within the range of float16
        for s in styles:
            s /= (9 * inputs) ** 0.5
    compare(
        f"{list(shape)}, {kind}, batch {n}{', gradients' if gradients else ''}",
        {"eager": usual, "ours": demodulation},
        list(zip(weights, styles, strict=True)),
        read=weights[0].numel() * weights[0].element_size(),
    )
