"""Networks that work on a batch piece by piece, and again in the backward pass: nothing is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def piece_by_piece(function: Callable[..., Tensor], at_once: int) -> Callable[..., Tensor]:
    """Return `function` of a batch, of which at most `at_once` samples have a graph at one time."""

    def call(*batch: Tensor) -> Tensor:
        pieces = zip(*(x.split(at_once) for x in batch), strict=True)
        return torch.cat([checkpoint(function, *piece, use_reentrant=False) for piece in pieces])

    return call


class GeneratorAgain:
    """What `manipulate` needs of a generator; the images are made piece by piece."""

    def __init__(self, generator: Any, at_once: int) -> None:
        self.style_vectors = getattr(generator, "style_vectors", None)
        self.synthesis = piece_by_piece(generator.synthesis, at_once)
        self._generator, self._at_once = generator, at_once

    def synthesis_from_styles(self, styles: list[Tensor]) -> Tensor:
        """Render style vectors, [B, n] each, to images [B, 3, H, W]."""

        def render(*some: Tensor) -> Tensor:
            images: Tensor = self._generator.synthesis_from_styles(some)
            return images

        return piece_by_piece(render, self._at_once)(*styles)
