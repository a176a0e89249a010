"""A Fashion-MNIST of a few garments, drawn here, in the files that the real one comes in."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

KINDS = 10


def draw_garments(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return negated gray values, uint8 [N, 28, 28], and labels, uint8 [N].

    The kind is told by a garment's height and the brightness is one of three, all combinations in
    turn; a few of its pixels vary.
    """
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 28, 28), np.uint8)
    labels = np.arange(count, dtype=np.uint8) % KINDS
    for i in range(count):
        ink = (225, 150, 70)[i // KINDS % 3]  # dark, medium, light once it is no longer negated
        height = 6 + 2 * int(labels[i])
        body = images[i, 14 - height // 2 : 14 + height // 2, 9:19]
        body[:] = ink + rng.integers(-12, 13, body.shape)
    return images, labels


def idx(array: np.ndarray) -> bytes:
    """The bytes of an IDX file of unsigned bytes."""
    sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sides + array.astype(np.uint8).tobytes()


def write_fashion(folder: Path, count: int = 120, *, compressed: bool = True) -> Path:
    """Write the four files; the test set has half as many."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (part, n) in enumerate((("train", count), ("t10k", count // 2))):
        images, labels = draw_garments(n, seed)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx(array)
            path = folder / f"{part}-{name}-ubyte"
            if compressed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(data, mtime=0))
            else:
                path.write_bytes(data)
    return folder
