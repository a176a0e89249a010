"""The photographs of Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), from the files it comes in.

70,000 product photographs of clothing in 28 × 28 gray values with a label each, MIT licence. The
files are those of Debian's package dataset-fashion-mnist, or any other copy, compressed or not.
Fashion-MNIST is negated: a black shirt is white there, on black. Here it is as it was photographed.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...files import regular_file
from .attributes import ATTRIBUTES, DARK_BELOW, LIGHT_ABOVE

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SIDE, RESOLUTION = 28, 32
PARTS = ("train", "t10k")
"""To train on, and to measure on."""

_PAPER = 247
"""Gray values from here on are the white that garments lie on."""
_MOST = 1_000_000  # photographs in a file: the real ones have 60,000


@dataclass(frozen=True)
class Photographs:
    """Photographs as they were taken, dark clothes dark, on white.

    Args:
        pixels: uint8 [N, 28, 28]. labels: {"kind", "brightness": int64 [N]}.
    """

    pixels: Tensor
    labels: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Tensor) -> Photographs:
        return Photographs(self.pixels[index], {k: v[index] for k, v in self.labels.items()})


def read_photographs(folder: Path, part: str) -> Photographs:
    """Read the photographs and labels of one of `PARTS` from `folder`.

    Raises:
        FileNotFoundError: a file is missing; says where to get it.
        ValueError: a file is damaged, or the two do not belong together.
    """
    images_path, labels_path = (
        _find(folder, f"{part}-{name}-ubyte") for name in ("images-idx3", "labels-idx1")
    )
    images, labels = _read_idx(images_path, 3), _read_idx(labels_path, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise ValueError(
            f"{images_path} holds images of {images.shape[1]} × {images.shape[2]} pixels; expected "
            f"those of Fashion-MNIST, {SIDE} × {SIDE}"
        )
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} holds {len(images):,} images, but {labels_path} {len(labels):,} labels"
        )
    kinds = len(ATTRIBUTES["kind"])
    if labels.max(initial=0) >= kinds:
        raise ValueError(
            f"{labels_path} holds a label {labels.max()}; those of Fashion-MNIST are 0 to "
            f"{kinds - 1}"
        )
    pixels = torch.from_numpy(255 - images)
    kind = torch.from_numpy(labels.astype(np.int64))
    return Photographs(pixels, {"kind": kind, "brightness": brightness_class(pixels)})


def brightness(pixels: Tensor) -> Tensor:
    """Return the mean gray value of a garment, float [N] in 0 … 255, without the paper around it.

    Args:
        pixels: [N, H, W] in 0 … 255. Of one that shows nothing but paper: 255.
    """
    values = pixels.float()
    garment = values < _PAPER
    mean = (values * garment).sum((1, 2)) / garment.sum((1, 2)).clamp(min=1)
    return torch.where(garment.any(2).any(1), mean, 255.0)


def brightness_class(pixels: Tensor) -> Tensor:
    """Return which of `ATTRIBUTES["brightness"]` each photograph [N, H, W] is, int64 [N]."""
    value = brightness(pixels)
    return (value >= DARK_BELOW).long() + (value > LIGHT_ABOVE).long()


def to_square(pixels: Tensor) -> Tensor:
    """Put photographs, uint8 [N, 28, 28], on more white and into color: uint8 [N, 3, 32, 32].

    No pixel is resampled.
    """
    margin = (RESOLUTION - SIDE) // 2
    padded = F.pad(pixels, (margin,) * 4, value=255)
    return padded[:, None].expand(-1, 3, -1, -1).contiguous()


def balanced(
    photographs: Photographs, per_cell: int, rng: torch.Generator, *, repeat: bool = True
) -> Tensor:
    """Return the indices of as many photographs of every kind in every brightness, in random order.

    In the whole of Fashion-MNIST boots are dark and sandals light; what learns from that takes
    "dark" for half a word for boots.

    Args:
        repeat: where there are fewer than `per_cell`, some come repeatedly; else there are fewer.
    """
    kinds, brightnesses = (len(values) for values in ATTRIBUTES.values())
    chosen = []
    for kind in range(kinds):
        for level in range(brightnesses):
            labels = photographs.labels
            cell = ((labels["kind"] == kind) & (labels["brightness"] == level)).nonzero()[:, 0]
            if not len(cell):
                continue
            shuffled = cell[torch.randperm(len(cell), generator=rng)]
            times = -(-per_cell // len(cell)) if repeat else 1
            chosen.append(shuffled.repeat(times)[:per_cell])
    together = torch.cat(chosen)
    return together[torch.randperm(len(together), generator=rng)]


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{folder} has no {name}.gz: the photographs of Fashion-MNIST are expected there. On "
        f"Debian or Ubuntu: apt install dataset-fashion-mnist, which puts them into {DEBIAN}; else "
        "give the folder of a copy with --images (in Python: images=…)"
    )


def _read_idx(path: Path, axes: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes with so many axes; no more is unpacked than it should
    hold."""
    opened = gzip.open if path.suffix == ".gz" else open
    regular_file(path)
    try:
        with opened(path, "rb") as file:
            head = file.read(4 * (1 + axes))
            if head[:4] != bytes((0, 0, 8, axes)) or len(head) < 4 * (1 + axes):
                raise ValueError(
                    f"{path} is no IDX file of {axes} {'axis' if axes == 1 else 'axes'} of bytes: "
                    f"it begins with {head[:4].hex() or 'nothing'}, expected 0000080{axes}"
                )
            shape = [int.from_bytes(head[i : i + 4], "big") for i in range(4, len(head), 4)]
            if shape[0] > _MOST or any(side > 4096 for side in shape[1:]):
                raise ValueError(f"{path} says that it holds {shape}, which Fashion-MNIST does not")
            size = int(np.prod(shape, dtype=np.int64))
            data = file.read(size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); download it again") from error
    if len(data) != size:
        more = "more" if len(data) > size else f"only {len(data):,}"
        raise ValueError(
            f"{path} says that it holds {size:,} bytes, but has {more}; download it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)
