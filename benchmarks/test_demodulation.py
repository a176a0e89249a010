"""demodulation of the weights of StyleGAN2, in every order in memory, against the usual formula."""

from __future__ import annotations

from typing import Any

import torch
from op_cases import feature_maps
from torch import Tensor

from sdd_fast.ops import demodulation


def usual(weight: Tensor, styles: Tensor) -> Tensor:
    return torch.rsqrt(styles.square() @ weight.square().sum((2, 3)).t() + 1e-8)


# N, shape of the weight, dtype and layout, transposed, gradient of the styles
CASES = [
    (1, (64, 64, 3, 3), "float32", False, False),
    (1, (512, 512, 3, 3), "float32", False, False),
    (8, (512, 512, 3, 3), "float32", False, False),
    (1, (512, 512, 3, 3), "float32 channels_last", False, False),
    (1, (512, 512, 3, 3), "float32", True, False),
    (1, (512, 512, 3, 3), "float32 channels_last", True, False),
    (1, (512, 512, 1, 1), "float32", False, False),
    (1, (512, 512, 3, 3), "bfloat16", False, False),
    (1, (64, 64, 3, 3), "float32", False, True),
    (1, (512, 512, 3, 3), "float32", False, True),
]
GPU_CASES = [
    (8, (64, 64, 3, 3), "float16 channels_last", False, False),
    (8, (512, 512, 3, 3), "float32", False, False),
    (8, (512, 512, 3, 3), "float16", False, False),
    (8, (512, 512, 3, 3), "float16 channels_last", False, False),
    (8, (512, 512, 3, 3), "float16 channels_last", True, False),
    (8, (512, 512, 3, 3), "float16 channels_last", False, True),
]


def test_demodulation(
    compare: Any, device: str, case: tuple[int, tuple[int, ...], str, bool, bool]
) -> None:
    n, shape, kind, turned, gradients = case
    weights = feature_maps(shape, kind, device=device)
    weights = [w.transpose(0, 1) for w in weights] if turned else weights
    inputs = weights[0].shape[1]
    styles = feature_maps((n, inputs), kind.split()[0], gradients=gradients, device=device)
    with torch.no_grad():  # within the range of float16
        for s in styles:
            s /= (9 * inputs) ** 0.5
    compare(
        f"{list(weights[0].shape)}, {kind}{', transposed' if turned else ''}, batch {n}"
        f"{', gradients' if gradients else ''}",
        {"eager": usual, "ours": demodulation},
        list(zip(weights, styles, strict=True)),
        read=weights[0].numel() * weights[0].element_size(),
    )
