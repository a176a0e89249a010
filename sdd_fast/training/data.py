"""The images a domain is trained on, and where they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import draws
from ..files import listed
from ..images import load_image
from ..memory import check_memory
from ..progress import Listener, Task
from .captions import Captions, example_prompts, read_captions

HELD_OUT = 256
"""Images that a domain is measured on, at most a fifth of all; no part is trained on them."""
FEWEST = 16
"""Images that a domain can be trained on at all; some thousand are a good start."""
_NEAR_COPIES = 16
"""Images of one caption that are taken for views of one thing, at most a twentieth of all; more
than these are a kind of things."""


@dataclass(frozen=True)
class CaptionedImages:
    """Images in bytes, which may be memory-mapped, with what is known about them.

    Args:
        pixels: uint8 [N, 3, R, R].
        texts: captions of each image, one or several; None where they are drawn from labels.
        labels: {attribute: int64 [N]}, if any are known.
        draw_captions: (labels of some images, seed) → a fresh caption for each.
        names: of the images, where they come from files.
        source: what tells these images from others; default: a digest of them.
    """

    pixels: np.ndarray
    texts: Sequence[Sequence[str]] | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    draw_captions: Callable[[dict[str, Tensor], int], list[str]] | None = None
    names: Sequence[str] = ()
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
        """Return one caption an image: one of its own, or a fresh one, for every `seed`."""
        if self.texts is not None:
            rng = draws.choices(seed)
            return [rng.choice(self.texts[i]) for i in index.tolist()]
        assert self.draw_captions is not None
        return self.draw_captions({k: v[index] for k, v in self.labels.items()}, seed)

    def all_captions(self) -> list[str]:
        """Return every caption; where they are drawn, some of each image."""
        if self.texts is not None:
            return [text for texts in self.texts for text in texts]
        index = torch.arange(min(len(self), 20000))
        return [text for seed in range(3) for text in self.captions(index, seed)]

    def digest(self) -> str:
        """Return a text that tells these images and captions from others."""
        if self.source:
            return self.source
        digest = hashlib.blake2b(self.pixels.tobytes(), digest_size=16)
        digest.update(repr((list(self.names), self.texts)).encode())
        return digest.hexdigest()

    def batch(self, size: int, rng: torch.Generator) -> Tensor:
        """Return the indices of a random batch [size]."""
        return torch.randint(len(self), (size,), generator=rng)

    def chunks(self, size: int = 256) -> Iterator[Tensor]:
        """Yield all indices in order, `size` at a time."""
        yield from torch.arange(len(self)).split(size)


@dataclass(frozen=True)
class Split:
    """Images of a domain, told apart before anything is trained.

    Args:
        train: what every part is trained on.
        held_out: what the domain is measured on, and no part has seen.
    """

    train: CaptionedImages
    held_out: CaptionedImages

    def record(self) -> dict[str, Any]:
        """Return what tells a training on these images from one on others."""
        told = {"resolution": self.train.resolution, "digest": self.train.digest()}
        return told | ({"held_out": self.held_out.digest()} if self.held_out.names else {})


class Source(Protocol):
    """Where the images of a domain come from, and what is known about them."""

    labeled: bool

    @property
    def resolutions(self) -> tuple[int, ...]:
        """In pixels, the usual one first."""

    @property
    def shares(self) -> Mapping[str, float]:
        """Part → the share of its usual steps that suits these images, where it is not 1."""

    def images(self, folder: Path, resolution: int, budget: float) -> Split:
        """Return the images; what has to be made is kept in `folder`."""

    def pair(
        self, size: int, resolution: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor] | None:
        """Return two images [B, 3, R, R] of each of `size` subjects, if that can be had."""

    def domain(self, out: Path, resolution: int) -> dict[str, Any]:
        """Return what domain.json says besides its files: "name", "source_text", …"""

    def keep(self, out: Path) -> None:
        """Write into a domain's folder what measuring needs later of its images."""

    def measure(self, out: Path, device: str, record: dict[str, dict[str, Any]]) -> None:
        """Measure the finished domain, if its images are labeled; `record` of its training."""


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images with captions, in one of the forms that `captions` reads.

    Images are cropped to a square at the center and resized.
    """

    path: Path
    source_text: str
    progress: bool | Listener = True
    caption_column: str | None = None
    labeled = False
    resolutions = (64, 32, 128)
    shares = MappingProxyType[str, float]({})

    @cached_property
    def captions(self) -> Captions:
        """What `read_captions` finds."""
        return read_captions(self.path, self.caption_column)

    def check(self) -> None:
        """Read the captions, without the images; errors as for `read_captions`, and ValueError if
        these are too few."""
        if len(self.captions) < FEWEST:
            raise ValueError(
                f"{self.path} has {len(self.captions)} pictures with captions; a domain needs at "
                f"least {FEWEST}, and some thousand to be of use"
            )

    def images(self, folder: Path, resolution: int, budget: float) -> Split:
        """Read all images; errors as for `check`, and one that names all that cannot be read."""
        self.check()
        captions, parts, broken = self.captions, [], []
        needed = 3.0 * resolution**2 * len(captions)
        what = f"{len(captions):,} pictures of {resolution} × {resolution} pixels"
        check_memory(needed, what, "cpu")
        with Task("reading images", len(captions), self.progress, unit="images") as task:
            for names in hold_out(captions):
                pixels = np.empty((len(names), 3, resolution, resolution), np.uint8)
                for i, name in enumerate(names):
                    try:
                        picture = load_image(self.path.absolute() / name, resolution)
                        pixels[i] = to_bytes(picture).numpy()
                    except (OSError, ValueError) as error:
                        broken.append(str(error))
                    task.advance()
                texts = [captions[name] for name in names]
                parts.append(CaptionedImages(pixels, texts, names=names))
        if broken:
            raise ValueError(
                f"{len(broken):,} of {len(captions):,} pictures cannot be read; mend them, or take "
                "them and their captions away:" + listed(broken)
            )
        return Split(*parts)

    def pair(
        self, size: int, resolution: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor] | None:
        """Return None: one image is all that is known of a subject."""
        return None

    def domain(self, out: Path, resolution: int) -> dict[str, Any]:
        """Return the name of the domain's folder, the source text, and common captions to try."""
        trained_on = {name: self.captions[name] for name in hold_out(self.captions)[0]}
        return {
            "name": out.absolute().name or "domain",
            "source_text": self.source_text,
            "prompts": example_prompts(trained_on, self.source_text),
        }

    def keep(self, out: Path) -> None:
        """Do nothing: `HELD_OUT_FILE` names the images."""

    def measure(self, out: Path, device: str, record: dict[str, dict[str, Any]]) -> None:
        """Do nothing: without labels nothing can be measured."""


def hold_out(captions: Captions, seed: int = 0) -> tuple[list[str], list[str]]:
    """Split names into those to train on and those to measure on; both in random order.

    The choice depends on names, captions and seed alone, not on any order. The first so many of
    either list are a random sample of it. A few images of the same captions stay together: they
    are near-copies.
    """

    def rank(name: str) -> bytes:
        return hashlib.blake2b(f"{seed} {name}".encode(), digest_size=16).digest()

    few = min(_NEAR_COPIES, len(captions) // 20)
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(captions):
        texts = sorted(text.casefold() for text in captions[name])
        alike.setdefault(tuple(texts), []).append(name)
    groups = []
    for names in alike.values():
        groups += [names] if len(names) <= few else [[name] for name in names]
    wanted = min(HELD_OUT, len(captions) // 5)
    held_out: list[str] = []
    for names in sorted(groups, key=lambda names: rank(names[0])):
        if len(held_out) + len(names) <= wanted:
            held_out += names
    return sorted(set(captions) - set(held_out), key=rank), sorted(held_out, key=rank)


def to_bytes(images: Tensor) -> Tensor:
    """Round images in [-1, 1] to uint8."""
    return ((images + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
