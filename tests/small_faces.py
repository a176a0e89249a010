"""Rendered faces of the size of a tiny domain."""

from __future__ import annotations

import torch
from tiny_domain import RESOLUTION

from sdd_fast.domains.faces64.renderer import render, sample_faces


def small_faces(count: int = 3) -> torch.Tensor:
    """Draw [count, 3, 32, 32] in [-1, 1]."""
    return render(sample_faces(count, torch.Generator().manual_seed(5)), RESOLUTION)
