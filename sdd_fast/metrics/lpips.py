"""LPIPS of images, by weights that a user gives, see `checkpoints.lpips.load_lpips`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.lpips import LPIPS
from ..shield import shielded
from .pairs import BATCH, check_pairs


@shielded(grad=False)
def lpips_distance(network: LPIPS, a: Tensor, b: Tensor, batch_size: int = BATCH) -> Tensor:
    """Return LPIPS [N], float64, of images [N, 3, H, W] in [-1, 1]; 0 for equal ones.

    Raises:
        ValueError: images that do not pair up, see `check_pairs`, or are too small.
    """
    a, b = check_pairs(a, b)
    device = next(network.parameters()).device
    pairs = zip(a.split(batch_size), b.split(batch_size), strict=True)
    return torch.cat([network(x.to(device), y.to(device)).double().cpu() for x, y in pairs])
