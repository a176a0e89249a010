"""Noise of an image's own, whatever images are edited beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import draws
from ..checks import check_seed


class ImageNoise:
    """Draws noise that is a function of a seed and of what an image shows, to 8 bits.

    So an image gets the same noise alone and in any batch, and two images get unrelated noise.

    Args:
        images: [B, 3, H, W] in [-1, 1]. seed: 0 … 2⁶⁴ − 1.
    """

    def __init__(self, images: Tensor, seed: int) -> None:
        pixels = ((images + 1) * 127.5).round().to(torch.uint8).cpu()
        self._seed, self._contents = check_seed(seed), [_number_of(image) for image in pixels]
        self._device = images.device

    def draw(self, shape: Sequence[int], *numbers: int) -> Tensor:
        """Return standard normal [B, *shape] float32, another one for other `numbers` ≥ 0."""
        drawn = [draws.noise(shape, self._seed, one, *numbers) for one in self._contents]
        return torch.stack(drawn).to(self._device)

    def generators(self) -> list[torch.Generator]:
        """Return a generator for each image, on the CPU."""
        return [draws.stream(self._seed, f"image {one}") for one in self._contents]


def _number_of(pixels: Tensor) -> int:
    digest = hashlib.blake2b(pixels.contiguous().numpy().tobytes(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
