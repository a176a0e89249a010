"""Pictures of an edit for its card, where no run has left any: of images that nobody gave."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import draws
from ..grid import grid
from ..manipulator import MapperInfo, manipulate
from ..memory import rendering_batch
from ..models import StyleGAN2
from ..notebook import png_of
from ..shield import shielded

COUNT, STRENGTHS = 6, (0.5, 1.0)
_PSI, _CELL = 0.7, 256


@shielded(grad=False)
def drawn_edit(generator: Any, mapper: nn.Module, info: MapperInfo) -> bytes | None:
    """Return a PNG of images of random latents, before and after an edit.

    The latents are the first of a fixed seed, truncated to ψ = 0.7; None of a generator whose
    latents cannot be drawn without more than that.
    """
    if not isinstance(generator, StyleGAN2) or generator.c_dim:
        return None
    device = next(generator.parameters()).device
    z = draws.noise((COUNT, generator.z_dim), 0).to(device)
    generator.eval()
    w_plus = generator.broadcast(generator.mapping(z, truncation_psi=_PSI))
    rows = [_rendered(generator, w_plus, [])]
    rows += [_rendered(generator, w_plus, [(mapper, info.lam * one)]) for one in STRENGTHS]
    labels = ["before", *(f"strength {strength:g}" for strength in STRENGTHS)]
    cell = _CELL if generator.image_size[1] > _CELL else None
    return png_of(grid(rows, row_labels=labels, cell=cell))


def _rendered(generator: StyleGAN2, w_plus: Tensor, mappers: list[Any]) -> Tensor:
    """Images [B, 3, H, W] on the CPU, a few at a time: large ones need not fit at once."""
    some = w_plus.split(rendering_batch(generator))
    images = [manipulate(generator, one, mappers).images.cpu() for one in some]
    return torch.cat(images).nan_to_num(0.0).clamp(-1, 1)
