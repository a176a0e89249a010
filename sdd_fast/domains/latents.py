"""The latents of a domain: those to distill with, and those held out to judge by."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from .. import draws
from ..checkpoints.load import load_latents
from ..files import load_tensors
from ..models import StyleGAN2

SAMPLED = 1064
"""Latents that are drawn from the generator's mapping network if the domain names none."""
SAMPLED_PSI = 0.7
"""Their truncation ψ: latents drawn at random are edited at 0.7 since StyleCLIP (Sec. 5)."""
HELD_OUT = 64
"""Latents that are put aside to judge by, if the domain does not say which; at most a tenth."""


def sample_latents(generator: StyleGAN2) -> tuple[Tensor, Tensor]:
    """Return latents of random z, the same every time: to train with, and to judge by."""
    w = generator.random_w(SAMPLED, draws.generator(0), SAMPLED_PSI)
    w_plus = generator.broadcast(w).contiguous()
    return w_plus[:-HELD_OUT], w_plus[-HELD_OUT:]


def read_latents(path: Path, generator: StyleGAN2) -> tuple[Tensor, Tensor]:
    """Return a file's latents to train with and to judge by, told apart by the file or put aside.

    Raises:
        ValueError: they are not W+ latents of this generator.
    """
    train = latents_of(path, generator)
    if path.suffix == ".safetensors":
        tensors, _ = load_tensors(path)
        if {"train", "held_out"} <= set(tensors):
            held_out = tensors["held_out"].float()
            if held_out.ndim != 3 or held_out.shape[1:] != train.shape[1:] or not len(held_out):
                raise ValueError(
                    f"{path}: held_out is {list(held_out.shape)}, but train {list(train.shape)}; "
                    "expected latents of one generator"
                )
            return train, held_out
    return put_aside(train)


def latents_of(path: Path, generator: StyleGAN2) -> Tensor:
    """`load_latents`, and ValueError where they do not fit the generator."""
    w_plus = load_latents(path, generator.num_layers)
    if w_plus.shape[2] != generator.w_dim:
        raise ValueError(
            f"{path} holds latents of {w_plus.shape[2]} elements a layer, the generator has "
            f"{generator.w_dim}: they belong to another generator"
        )
    return w_plus


def put_aside(w_plus: Tensor) -> tuple[Tensor, Tensor]:
    """Split latents [N, num_layers, w_dim]: those to train with, and some to judge by.

    A hash of each decides, so that their order does not: files are often sorted by what the images
    show. Equal latents stay together. A single one serves both purposes.
    """
    equal: dict[bytes, list[int]] = {}
    for i, w in enumerate(w_plus):
        digest = hashlib.blake2b(w.numpy().tobytes(), digest_size=16).digest()
        equal.setdefault(digest, []).append(i)
    if len(equal) == 1:
        return w_plus, w_plus
    count = min(HELD_OUT, max(1, len(w_plus) // 10))
    held_out: list[int] = []
    for _, index in sorted(equal.items()):
        if len(held_out) + len(index) <= count:
            held_out += index
    held_out = held_out or min(equal.values(), key=len)
    kept = torch.ones(len(w_plus), dtype=torch.bool)
    kept[held_out] = False
    return w_plus[kept], w_plus[held_out]
