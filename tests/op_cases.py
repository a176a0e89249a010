"""Inputs, independent references and tolerances of the ops, for tests and benchmarks alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class MapStatistics:
    """[N] float64 each, see ops.softmax_entropy_l1."""

    entropy: np.ndarray
    l1: np.ndarray
    deficit: np.ndarray


# Relative error of a deficit, by the dtype of x, against the reference on the very same numbers:
# the 16-bit types are widened exactly, so their tolerance is that of float32.
DEFICIT_TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 2e-6,
    torch.bfloat16: 2e-6,
    torch.float16: 2e-6,
}


def entropy_reference(x: Tensor) -> MapStatistics:
    """The definition itself, p = softmax(x), H = -sum p log p, D = log n - H, in extended precision
    (80-bit on x86: log n is rounded at 1e-19, far below the smallest deficit of the tests)."""
    y = x.detach().to(torch.float64).numpy().astype(np.longdouble)
    y = y - y.mean(-1, keepdims=True)
    y = y - y.max(-1, keepdims=True)
    z = np.exp(y)
    total = z.sum(-1, keepdims=True)
    entropy = np.log(total[:, 0]) - (z / total * y).sum(-1)
    deficit = np.log(np.longdouble(x.shape[-1])) - entropy
    l1 = np.abs(x.detach().to(torch.float64).numpy()).sum(-1)
    return MapStatistics(entropy.astype(np.float64), l1, deficit.astype(np.float64))


def entropy_reference_small(x: Tensor) -> np.ndarray:
    """Deficits [N] of maps with |x - mean| << 1, from the cumulants of x in float64:
    D = k2 / 2 + k3 / 3 + k4 / 8 + ..., the Taylor series of the definition at the uniform softmax.
    """

    def deficit(row: Tensor) -> float:
        y = row.to(torch.float64)
        y -= y.mean()
        square = y * y
        k2, k3, m4 = (float((square * f).mean()) for f in (torch.ones(()), y, square))
        return k2 / 2 + k3 / 3 + (m4 - 3 * k2**2) / 8

    return np.array([deficit(row) for row in x.detach()])


def gradient_rows(
    rows: int, n: int, std: float, *, offset: float = 0.0, spread: float = 2.0, seed: int = 0
) -> Tensor:
    """[rows, n] float32 like the guidance gradients of a curve over `rows` timesteps: normal, the
    standard deviation growing from `std` to `spread * std`, around a mean `offset`."""
    rng = torch.Generator().manual_seed(seed)
    scale = torch.linspace(std, spread * std, rows)[:, None]
    return torch.randn(rows, n, generator=rng) * scale + offset


def curve_error(measured: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference of two curves after min-max normalisation of each."""

    def normalised(v: np.ndarray) -> np.ndarray:
        return (v - v.min()) / (v.max() - v.min())

    return float(np.abs(normalised(measured) - normalised(expected)).max())
