"""Photographs of clothing as a source of captioned images: `sdd train-domain --like fashion32`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ... import draws
from ...files import settled
from ...progress import Listener
from ...training.classifier import augment
from ...training.data import HELD_OUT, CaptionedImages, Source, Split
from .attributes import ATTRIBUTES
from .captions import SOURCE_TEXT, captions
from .edits import EDITS, GUIDANCE_RMS
from .held_out import save_held_out
from .photographs import (
    DEBIAN,
    PARTS,
    RESOLUTION,
    Photographs,
    balanced,
    read_photographs,
    to_square,
)

PER_CELL, HELD_OUT_PER_CELL = 1200, 34
"""Photographs of each kind in each brightness, to train on and to measure on."""
SHARES = MappingProxyType(
    {"clip": 0.4, "vae": 0.4, "classifier": 0.58, "identity": 0.4, "generator": 0.3, "unet": 0.22}
)
"""Of the steps that faces of 64 pixels take; an hour on a core."""
TRAIN_SEED, HELD_OUT_SEED = 1, 2


@dataclass(frozen=True)
class ClothingPhotographs:
    """Fashion-MNIST with as many dark, medium and light garments of every kind.

    Args:
        folder: of the four files, see `read_photographs`.
    """

    folder: Path = DEBIAN
    source_text: str = SOURCE_TEXT
    labeled = True
    resolutions = (RESOLUTION,)
    shares = SHARES

    @cached_property
    def train(self) -> Photographs:
        return read_photographs(self.folder, PARTS[0])

    @cached_property
    def held_out(self) -> Photographs:
        found = read_photographs(self.folder, PARTS[1])
        rng = draws.generator(HELD_OUT_SEED)
        return found[balanced(found, HELD_OUT_PER_CELL, rng, repeat=False)]

    def images(self, folder: Path, resolution: int, budget: float) -> Split:
        """Return photographs to train on, fewer of them for a small budget, and others to measure
        on; errors as for `read_photographs`."""
        per_cell = max(8, round(PER_CELL * min(1.0, budget)))
        chosen = balanced(self.train, per_cell, draws.generator(TRAIN_SEED))
        few = torch.arange(min(HELD_OUT, len(self.held_out)))
        return Split(_captioned(self.train[chosen]), _captioned(self.held_out[few]))

    def pair(self, size: int, resolution: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return each garment twice: as it is, and moved, mirrored and darker or lighter.

        What stays is what makes it the same garment in another shade.
        """
        index = torch.randint(len(self.train), (size,), generator=rng)
        first = to_square(self.train.pixels[index]).float() / 127.5 - 1.0
        return first, augment(shaded(first, rng), rng)

    def domain(self, out: Path, resolution: int) -> dict[str, Any]:
        """Return the name, the source text, and the prompts that are measured."""
        return {
            "name": f"fashion{resolution}",
            "source_text": self.source_text,
            "prompts": list(EDITS),
            "guidance_rms": GUIDANCE_RMS,
        }

    def keep(self, out: Path) -> None:
        """Write the held-out photographs and their labels beside the weights."""
        save_held_out(out, self.held_out)

    def measure(self, out: Path, device: str, record: dict[str, dict[str, Any]]) -> None:
        """Write quality.json and MODEL_CARD.md."""
        from .evaluate import measure_domain

        measure_domain(out, device, record)


def shaded(images: Tensor, rng: torch.Generator) -> Tensor:
    """Make garments [B, 3, R, R] on white darker or lighter, each at random; white stays white."""
    n = len(images)
    gamma = 0.35 + 1.25 * torch.rand(n, 1, 1, 1, generator=rng)
    strength = 0.5 + 0.5 * torch.rand(n, 1, 1, 1, generator=rng)
    ink = ((1.0 - images) / 2).clamp(0, 1)
    return 1.0 - 2.0 * strength * ink**gamma


def source(images: str | Path | None, source_text: str | None, progress: bool | Listener) -> Source:
    """Return the photographs in the folder `images`; default: where Debian's package puts them."""
    folder = DEBIAN if images is None else settled(images)
    return ClothingPhotographs(folder, source_text or SOURCE_TEXT)


def _captioned(photographs: Photographs) -> CaptionedImages:
    return CaptionedImages(
        to_square(photographs.pixels).numpy(),
        labels={name: photographs.labels[name] for name in ATTRIBUTES},
        draw_captions=lambda labels, seed: captions(labels, draws.choices(seed)),
    )
