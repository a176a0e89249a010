"""Photographs that no network was trained on, kept beside the weights to show and measure edits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...files import load_tensors, save_tensors, write_text
from ..reader import Target
from .attributes import ATTRIBUTES
from .photographs import SIDE, Photographs, to_square

if TYPE_CHECKING:
    from .. import Domain

FILE = "held-out.safetensors"
LICENSE = Path(__file__).with_name("LICENSE-fashion-mnist.txt")


def save_held_out(folder: Path, photographs: Photographs) -> None:
    """Write them into a domain's folder, with the licence that goes with them."""
    labels = {name: values.to(torch.uint8) for name, values in photographs.labels.items()}
    save_tensors(folder / FILE, {"pixels": photographs.pixels, **labels})
    write_text(folder / LICENSE.name, LICENSE.read_text(encoding="utf-8"))


def load_held_out(domain: Domain) -> Photographs:
    """Read what `save_held_out` wrote.

    Raises:
        FileNotFoundError: the domain has none. ValueError: the file is damaged.
    """
    if domain.folder is None or not (domain.folder / FILE).exists():
        raise FileNotFoundError(
            f"the domain {domain.name} reads attributes of clothes, but has no {FILE} beside its "
            "domain.json with photographs to measure on; `sdd train-domain` writes it"
        )
    path = domain.folder / FILE
    tensors, _ = load_tensors(path)
    pixels = tensors.get("pixels", torch.empty(0))
    labels = {name: tensors.get(name, torch.empty(0)).long() for name in ATTRIBUTES}
    fits = pixels.dtype == torch.uint8 and pixels.shape[1:] == (SIDE, SIDE) and len(pixels) > 0
    for name, values in labels.items():
        fits = fits and values.shape == (len(pixels),)
        fits = fits and int(values.max()) < len(ATTRIBUTES[name])
    if not fits:
        raise ValueError(
            f"{path} is damaged: expected pixels [N, {SIDE}, {SIDE}] of uint8 and the labels "
            f"{', '.join(ATTRIBUTES)} of each"
        )
    return Photographs(pixels, labels)


def without(photographs: Photographs, lacking: Sequence[Target], count: int) -> Photographs:
    """Return the first `count` photographs that have none of the targets; fewer if there are."""
    keep = torch.ones(len(photographs), dtype=torch.bool)
    for attribute, values in lacking:
        wanted = torch.tensor([ATTRIBUTES[attribute].index(value) for value in values])
        keep &= ~torch.isin(photographs.labels[attribute], wanted)
    return photographs[keep.nonzero()[:count, 0]]


def to_images(photographs: Photographs) -> Tensor:
    """Return float32 [N, 3, 32, 32] in [-1, 1]."""
    return to_square(photographs.pixels).float() / 127.5 - 1.0


def sample_images(domain: Domain, count: int, lacking: Sequence[Target] = ()) -> Tensor:
    """Return the first held-out photographs that lack the targets, see `AttributeReader`."""
    found = without(load_held_out(domain), lacking, count)
    if len(found) < count:
        raise ValueError(
            f"only {len(found)} held-out photographs"
            + (f" lack all of {list(lacking)}" if lacking else " are there")
            + f", {count} were wanted"
        )
    return to_images(found)
