"""How different two images look to the domain's own network: in the manner of LPIPS, untrained.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features", Eq. 1, with all weights equal:
LPIPS itself, whose weights people trained, is in `lpips`, for those who have its files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..models.clip import Clip
from ..models.convnet import ResidualTrunk
from ..shield import shielded
from .pairs import BATCH, check_pairs

if TYPE_CHECKING:
    from ..domains import Domain

_LEAST = 1e-10  # of a squared length that is divided by


@dataclass(frozen=True, eq=False)
class FeatureDistance:
    """A distance of images by the feature maps of a network.

    Args:
        name: of the network, for tables, such as "faces64 classifier".
        maps: images [B, 3, R, R] in [-1, 1] → feature maps [B, C, h, w], some.
        device: where the network is.
    """

    name: str
    maps: Callable[[Tensor], list[Tensor]]
    device: str = "cpu"

    @shielded(grad=False)
    def __call__(self, a: Tensor, b: Tensor, batch_size: int = BATCH) -> Tensor:
        """Return the distance [N] of images [N, 3, R, R] in [-1, 1], float64; 0 for equal ones.

        Raises:
            ValueError: images that do not pair up, see `check_pairs`.
        """
        a, b = check_pairs(a, b)
        parts = []
        for some in zip(a.split(batch_size), b.split(batch_size), strict=True):
            maps = [self.maps(images.to(self.device)) for images in some]
            pairs = zip(*maps, strict=True)
            parts.append(torch.stack([map_distance(x, y) for x, y in pairs]).mean(0).cpu())
        return torch.cat(parts)


def map_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared distance [B] of unit vectors over the places of maps [B, C, h, w]."""
    return (unit_vectors(a) - unit_vectors(b)).square().sum(1).mean((1, 2))


def unit_vectors(maps: Tensor) -> Tensor:
    """Return maps [B, C, h, w] whose vector at every place has length 1, float64."""
    maps = maps.double()
    return maps / maps.square().sum(1, keepdim=True).clamp(min=_LEAST).sqrt()


def domain_distance(domain: Domain) -> FeatureDistance | None:
    """Return the distance by a domain's classifier, or its small CLIP; None if it has neither."""
    found = domain_trunk(domain)
    if found is None:
        return None
    name, trunk = found
    return FeatureDistance(name, trunk, domain.device)


def domain_trunk(domain: Domain) -> tuple[str, ResidualTrunk] | None:
    """Return the name and the trunk of the domain's own network, the classifier's first."""
    if domain.classifier is not None:
        return f"{domain.name} classifier", domain.classifier.trunk
    if isinstance(domain.clip, Clip):
        return f"{domain.name} CLIP", domain.clip.image.trunk
    return None
