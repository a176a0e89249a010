"""The pictures a domain is trained on: rendered faces, or a user's folder with captions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sdd_fast import draws
from sdd_fast.domains.faces64.attributes import ATTRIBUTES
from sdd_fast.domains.faces64.captions import captions as face_captions
from sdd_fast.domains.faces64.renderer import render, sample_faces
from sdd_fast.files import atomic_path
from sdd_fast.images import load_image

_CHUNK = 512


@dataclass(frozen=True)
class Pictures:
    """Pictures in memory-mapped bytes, with what is known about them.

    ``pixels``: uint8 [N, 3, R, R]. ``labels``: {attribute: int64 [N]}, empty for a user's folder.
    ``texts``: one caption a picture for a user's folder, None where captions are drawn from labels.
    """

    pixels: np.ndarray
    labels: dict[str, Tensor]
    texts: list[str] | None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def resolution(self) -> int:
        return int(self.pixels.shape[-1])

    def images(self, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """float32 [B, 3, R, R] in [-1, 1]."""
        batch = torch.from_numpy(self.pixels[index.numpy()]).to(device)
        return batch.float() / 127.5 - 1.0

    def captions(self, index: Tensor, seed: int) -> list[str]:
        """One caption a picture; where labels are known a fresh one for every ``seed``."""
        if self.texts is not None:
            return [self.texts[i] for i in index.tolist()]
        return face_captions({k: v[index] for k, v in self.labels.items()}, draws.choices(seed))

    def digest(self) -> str:
        """Tells a user's pictures and captions from others; rendered faces are all one source."""
        if self.texts is None:
            return "rendered faces"
        digest = hashlib.blake2b(self.pixels.tobytes(), digest_size=16)
        digest.update("\0".join(self.texts).encode())
        return digest.hexdigest()

    def batch(self, size: int, rng: torch.Generator) -> Tensor:
        """Indices of a random batch [size]."""
        return torch.randint(len(self), (size,), generator=rng)

    def chunks(self, size: int = 256) -> Iterator[Tensor]:
        """All indices in order, ``size`` at a time."""
        yield from torch.arange(len(self)).split(size)


def rendered_faces(folder: Path, n: int, resolution: int, seed: int) -> Pictures:
    """``n`` rendered faces, drawn once and kept in ``folder``."""
    stem = folder / f"faces-{resolution}-{n}-{seed}"
    pixels_path, labels_path = stem.with_suffix(".npy"), stem.with_suffix(".labels.npy")
    if not labels_path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(pixels_path) as temporary:
            out = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=np.uint8, shape=(n, 3, resolution, resolution)
            )
            rows = []
            for i in tqdm(range(0, n, _CHUNK), desc="drawing faces", disable=None):
                rng = draws.generator(seed * 1_000_003 + i)
                faces = sample_faces(min(_CHUNK, n - i), rng)
                out[i : i + len(faces)] = to_bytes(render(faces, resolution)).numpy()
                rows.append(torch.stack([faces.labels[k] for k in ATTRIBUTES], 1))
            out.flush()
        with atomic_path(labels_path) as temporary, open(temporary, "wb") as file:
            np.save(file, torch.cat(rows).numpy(), allow_pickle=False)
    table = torch.from_numpy(np.load(labels_path, allow_pickle=False))
    labels = {k: table[:, i] for i, k in enumerate(ATTRIBUTES)}
    return Pictures(np.load(pixels_path, mmap_mode="r", allow_pickle=False), labels, None)


def captioned_folder(folder: Path, resolution: int) -> Pictures:
    """A folder of pictures with ``metadata.jsonl`` (the imagefolder convention).

    Every line of ``metadata.jsonl`` is an object with ``file_name`` (relative to the folder) and
    ``text``. Pictures are cropped to a square at the centre and resized.

    Raises:
        FileNotFoundError: no folder, no ``metadata.jsonl``, or a picture it names is missing.
        ValueError: a line is not such an object, or a picture cannot be read.
    """
    listing = folder / "metadata.jsonl"
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    if not listing.is_file():
        raise FileNotFoundError(
            f"{folder} has no metadata.jsonl; expected one JSON object a line, such as "
            '{"file_name": "0001.png", "text": "a photo of a smiling face"}'
        )
    pixels, texts = [], []
    lines = listing.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(tqdm(lines, desc="reading pictures", disable=None), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["file_name"], row["text"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{listing}, line {number}: expected an object with file_name and text ({error})"
            ) from error
        if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
            raise ValueError(f"{listing}, line {number}: file_name and text must be non-empty text")
        pixels.append(to_bytes(load_image(folder / name, resolution)))
        texts.append(text.strip())
    if len(pixels) < 16:
        raise ValueError(f"{listing} names {len(pixels)} pictures; a domain needs at least 16")
    return Pictures(torch.stack(pixels).numpy(), {}, texts)


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] → uint8, rounded."""
    return ((images + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
