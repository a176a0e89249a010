"""A global direction in StyleSpace: the same change of styles for every image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..memory import rendering_batch
from ..models.style_space import is_to_rgb

if TYPE_CHECKING:
    from ..domains import Domain


class StyleShift(nn.Module):
    """Adds a direction to styles; a manipulator of `manipulate`. It starts as no change.

    The toRGB layers are left out, as in StyleCLIP and StyleMC: they change colors everywhere.

    Args:
        scales: [n] of each style, the unit of the direction, see `style_scales`.
    """

    of_styles = True  # tells `manipulate` what it takes and changes

    def __init__(self, scales: list[Tensor]) -> None:
        super().__init__()
        self.scales = scales
        self.counts = [0 if is_to_rgb(i) else len(scale) for i, scale in enumerate(scales)]
        self.direction = nn.Parameter(scales[0].new_zeros(sum(self.counts)))

    def changes(self) -> list[Tensor]:
        """Return the change of each style, [n]; zeros of toRGB."""
        parts = self.direction.split(self.counts)
        return [
            part * scale if len(part) else torch.zeros_like(scale)
            for part, scale in zip(parts, self.scales, strict=True)
        ]

    def forward(self, styles: list[Tensor]) -> list[Tensor]:
        """Return the change of styles [B, n] each, in the same shapes."""
        return [by.expand_as(style) for by, style in zip(self.changes(), styles, strict=True)]


@torch.no_grad()
def style_scales(domain: Domain) -> list[Tensor]:
    """Return the standard deviation over the domain's latents of every style channel, [n] each."""
    generator = domain.generator
    chunks = [generator.style_vectors(w) for w in domain.w_plus.split(rendering_batch(generator))]
    return [torch.cat(styles).std(0) for styles in zip(*chunks, strict=True)]
