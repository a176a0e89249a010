"""Resampling filters as checkpoints store them: one copy per layer, mostly as an outer product."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

USUAL = [1, 3, 3, 1]


def resampling_taps(filters: Mapping[str, Tensor], total: float) -> list[float]:
    """The taps [t] that all `filters` [t, t] or [t] were made of.

    Args:
        filters: by the name in the file, to be named in errors.
        total: what the values of a [t, t] filter sum to: its gain. Those of a [t] filter sum to 1.

    Returns:
        `USUAL`, or taps that sum to 1. `USUAL` for no filters at all.

    Raises:
        ValueError: the filters differ, are not separable, have an odd length or another gain.
    """
    found: Tensor | None = None
    for name, stored in filters.items():
        kernel = stored.double()
        taps = kernel.sum(1) / total if kernel.ndim == 2 else kernel
        rebuilt = torch.outer(taps, taps) * total if kernel.ndim == 2 else taps
        even = taps.numel() > 0 and taps.numel() % 2 == 0
        right = kernel.ndim in (1, 2) and even and rebuilt.shape == kernel.shape
        if not right or not (rebuilt - kernel).abs().max() < 1e-6 * total:
            raise ValueError(
                f"{name} {list(stored.shape)} is not a separable filter with an even number of "
                f"taps that sum to 1 and a gain of {total:g}: the network cannot be reproduced"
            )
        if abs(taps.sum() - 1) > 1e-6:
            raise ValueError(f"{name}: its taps sum to {float(taps.sum()):g} instead of 1")
        if found is not None and not (found.shape == taps.shape and torch.allclose(found, taps)):
            raise ValueError(f"{name} is another filter than that of the layers before it")
        found = taps if found is None else found
    if found is None:
        return list(USUAL)
    usual = torch.tensor(USUAL, dtype=torch.float64) / sum(USUAL)
    if found.shape == usual.shape and torch.allclose(found, usual, rtol=0, atol=1e-6):
        return list(USUAL)
    return [float(tap) for tap in found]
