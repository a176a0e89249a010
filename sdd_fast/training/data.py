"""The images a domain is trained on, and where they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..images import load_image
from ..progress import Listener, Task

HELD_OUT = 256
"""Images that a domain is measured on."""


@dataclass(frozen=True)
class CaptionedImages:
    """Images in bytes, which may be memory-mapped, with what is known about them.

    Args:
        pixels: uint8 [N, 3, R, R].
        texts: one caption an image; None where captions are drawn from labels.
        labels: {attribute: int64 [N]}, if any are known.
        draw_captions: (labels of some images, seed) → a fresh caption for each.
        source: what tells these images from others; default: a digest of them.
    """

    pixels: np.ndarray
    texts: list[str] | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    draw_captions: Callable[[dict[str, Tensor], int], list[str]] | None = None
    source: str = ""

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def resolution(self) -> int:
        return int(self.pixels.shape[-1])

    def images(self, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Return float32 [B, 3, R, R] in [-1, 1] of the images `index` [B]."""
        batch = torch.from_numpy(self.pixels[index.numpy()]).to(device)
        return batch.float() / 127.5 - 1.0

    def captions(self, index: Tensor, seed: int) -> list[str]:
        """Return one caption an image; where labels are known a fresh one for every `seed`."""
        if self.texts is not None:
            return [self.texts[i] for i in index.tolist()]
        assert self.draw_captions is not None
        return self.draw_captions({k: v[index] for k, v in self.labels.items()}, seed)

    def digest(self) -> str:
        """Return a text that tells these images and captions from others."""
        if self.source:
            return self.source
        digest = hashlib.blake2b(self.pixels.tobytes(), digest_size=16)
        digest.update("\0".join(self.texts or []).encode())
        return digest.hexdigest()

    def batch(self, size: int, rng: torch.Generator) -> Tensor:
        """Return the indices of a random batch [size]."""
        return torch.randint(len(self), (size,), generator=rng)

    def chunks(self, size: int = 256) -> Iterator[Tensor]:
        """Yield all indices in order, `size` at a time."""
        yield from torch.arange(len(self)).split(size)


class Source(Protocol):
    """Where the images of a domain come from, and what is known about them."""

    labeled: bool

    def images(self, folder: Path, resolution: int, budget: float) -> CaptionedImages:
        """Return the images to train on; what has to be made is kept in `folder`."""

    def split(
        self, images: CaptionedImages, folder: Path
    ) -> tuple[Tensor, CaptionedImages, Tensor]:
        """Return the indices to distill on, and images with the indices to measure on."""

    def pair(
        self, size: int, resolution: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor] | None:
        """Return two images [B, 3, R, R] of each of `size` subjects, if that can be had."""

    def domain(self, out: Path, resolution: int) -> dict[str, Any]:
        """Return what domain.json says besides its files: "name", "source_text", …"""

    def measure(self, out: Path, device: str, record: dict[str, dict[str, Any]]) -> None:
        """Measure the finished domain, if its images are labeled; `record` of its training."""


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images with `metadata.jsonl` (the imagefolder convention).

    Every line of `metadata.jsonl` is an object with `file_name` (relative to the folder) and
    `text`. Images are cropped to a square at the center and resized.
    """

    path: Path
    source_text: str
    progress: bool | Listener = True
    labeled = False

    def images(self, folder: Path, resolution: int, budget: float) -> CaptionedImages:
        """Read all images.

        Raises:
            FileNotFoundError: no folder, no `metadata.jsonl`, or an image it names is missing.
            ValueError: a line is not such an object, or an image cannot be read.
        """
        listing = self.path / "metadata.jsonl"
        if not self.path.is_dir():
            raise FileNotFoundError(f"there is no folder {self.path}")
        if not listing.is_file():
            raise FileNotFoundError(
                f"{self.path} has no metadata.jsonl; expected one JSON object a line, such as "
                '{"file_name": "0001.png", "text": "a photo of a smiling face"}'
            )
        pixels, texts = [], []
        lines = listing.read_text(encoding="utf-8").splitlines()
        with Task("reading images", len(lines), self.progress, unit="images") as task:
            for number, line in enumerate(lines, 1):
                task.advance()
                if not line.strip():
                    continue
                name, text = _row(line, f"{listing}, line {number}")
                pixels.append(to_bytes(load_image(self.path / name, resolution)))
                texts.append(text)
        if len(pixels) < 16:
            raise ValueError(f"{listing} names {len(pixels)} images; a domain needs at least 16")
        return CaptionedImages(torch.stack(pixels).numpy(), texts)

    def split(
        self, images: CaptionedImages, folder: Path
    ) -> tuple[Tensor, CaptionedImages, Tensor]:
        """Put the last images aside."""
        cut = max(1, len(images) - min(HELD_OUT, len(images) // 5))
        return torch.arange(cut), images, torch.arange(cut, len(images))

    def pair(
        self, size: int, resolution: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor] | None:
        """Return None: one image is all that is known of a subject."""
        return None

    def domain(self, out: Path, resolution: int) -> dict[str, Any]:
        """Return the name of the domain's folder, and the source text."""
        return {"name": out.name, "source_text": self.source_text}

    def measure(self, out: Path, device: str, record: dict[str, dict[str, Any]]) -> None:
        """Do nothing: without labels nothing can be measured."""


def _row(line: str, place: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        name, text = row["file_name"], row["text"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{place}: expected an object with file_name and text ({error})"
        ) from error
    if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
        raise ValueError(f"{place}: file_name and text must be non-empty text")
    return name, text.strip()


def to_bytes(images: Tensor) -> Tensor:
    """Round images in [-1, 1] to uint8."""
    return ((images + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
