"""Files of LPIPS with random weights, named as the published ones."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

ALEX = [(0, 3, 64, 11), (3, 64, 192, 5), (6, 192, 384, 3), (8, 384, 256, 3), (10, 256, 256, 3)]
"""(index in torchvision's `features`, channels before and after, kernel)."""


def write_alex(folder: Path, seed: int = 0) -> tuple[Path, Path, dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    features = {}
    for i, inputs, outputs, kernel in ALEX:
        scale = (2 / (inputs * kernel**2)) ** 0.5
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=rng) * scale
        features |= {f"features.{i}.weight": weight}
        features |= {f"features.{i}.bias": 0.1 * torch.randn(outputs, generator=rng)}
    classes = {"classifier.6.weight": torch.zeros(2, 3), "classifier.6.bias": torch.zeros(2)}
    widths = [outputs for _, _, outputs, _ in ALEX]
    weights = {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=rng)
        for i, width in enumerate(widths)
    }
    torch.save(features | classes, folder / "alexnet.pth")
    torch.save(weights, folder / "alex.pth")
    return folder / "alexnet.pth", folder / "alex.pth", features | weights
