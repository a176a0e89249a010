"""Rendered faces as a source of captioned images: what `sdd train-domain` trains on by default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import draws
from ...files import atomic_path
from ...progress import Listener, Task
from ...training.data import HELD_OUT, CaptionedImages, Source, Split, to_bytes
from .attributes import ATTRIBUTES
from .captions import SOURCE_TEXT, captions
from .edits import EDITS, GUIDANCE_RMS
from .renderer import render, sample_faces

COUNT, TRAIN_SEED, HELD_OUT_SEED = 40_000, 1, 2
_CHUNK = 512


@dataclass(frozen=True)
class RenderedFaces:
    """Faces from the renderer, with labels, and captions drawn from them."""

    source_text: str = SOURCE_TEXT
    progress: bool | Listener = True
    labeled = True
    resolutions = (64, 32, 128)
    shares = MappingProxyType[str, float]({})

    def images(self, folder: Path, resolution: int, budget: float) -> Split:
        """Return faces to train on, fewer of them for a small budget, and others to measure on."""
        count = max(256, round(COUNT * min(1.0, budget)))
        return Split(
            self._drawn(folder, count, resolution, TRAIN_SEED),
            self._drawn(folder, HELD_OUT, resolution, HELD_OUT_SEED),
        )

    def pair(
        self, size: int, resolution: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor] | None:
        """Return two images of each person: pose and every attribute but skin differ."""
        faces = sample_faces(size, rng)
        return render(faces, resolution), render(faces.same_person(rng), resolution)

    def domain(self, out: Path, resolution: int) -> dict[str, Any]:
        """Return the name, the source text, and the prompts that are measured."""
        return {
            "name": f"faces{resolution}",
            "source_text": self.source_text,
            "prompts": list(EDITS),
            "guidance_rms": GUIDANCE_RMS,
        }

    def keep(self, out: Path) -> None:
        """Do nothing: the renderer draws others whenever they are needed."""

    def measure(self, out: Path, device: str, record: dict[str, dict[str, Any]]) -> None:
        """Write quality.json and MODEL_CARD.md."""
        from .evaluate import measure_domain

        measure_domain(out, device, record)

    def _drawn(self, folder: Path, count: int, resolution: int, seed: int) -> CaptionedImages:
        """`count` faces, drawn once and kept in `folder`."""
        stem = folder / f"faces-{resolution}-{count}-{seed}"
        pixels_path, labels_path = stem.with_suffix(".npy"), stem.with_suffix(".labels.npy")
        if not labels_path.exists():
            shape = (count, 3, resolution, resolution)
            task = Task("drawing faces", count, self.progress, unit="faces")
            with atomic_path(pixels_path) as temporary, task:
                out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
                rows = []
                for i in range(0, count, _CHUNK):
                    rng = draws.generator(seed * 1_000_003 + i)
                    faces = sample_faces(min(_CHUNK, count - i), rng)
                    out[i : i + len(faces)] = to_bytes(render(faces, resolution)).numpy()
                    rows.append(torch.stack([faces.labels[k] for k in ATTRIBUTES], 1))
                    task.advance(len(faces))
                out.flush()
            with atomic_path(labels_path) as temporary, open(temporary, "wb") as file:
                np.save(file, torch.cat(rows).numpy(), allow_pickle=False)
        table = torch.from_numpy(np.load(labels_path, allow_pickle=False))
        return CaptionedImages(
            np.load(pixels_path, mmap_mode="r", allow_pickle=False),
            labels={k: table[:, i] for i, k in enumerate(ATTRIBUTES)},
            draw_captions=_captions,
            source="rendered faces",
        )


def source(images: str | Path | None, source_text: str | None, progress: bool | Listener) -> Source:
    """Return the renderer.

    Raises:
        ValueError: a folder of images is given.
    """
    if images is not None:
        raise ValueError(f"faces64 draws its faces: give no folder of images, such as {images}")
    return RenderedFaces(source_text or SOURCE_TEXT, progress)


def _captions(labels: dict[str, Tensor], seed: int) -> list[str]:
    return captions(labels, draws.choices(seed))
