"""Tells networks and tensors from others, quickly: by names, shapes and some elements of each."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

_ELEMENTS = 64  # of each tensor; another checkpoint differs in nearly all


def fingerprint(*things: Any, rounded: torch.dtype | None = None) -> str:
    """Return a digest of networks and tensors; of anything else the name of its type counts.

    With `rounded`, elements count as this dtype holds them.
    """
    digest = hashlib.blake2b(digest_size=8)
    for thing in things:
        digest.update(type(thing).__name__.encode())
        tensors = thing.state_dict() if isinstance(thing, nn.Module) else {}
        if isinstance(thing, Tensor):
            tensors = {"": thing}
        for name, tensor in tensors.items():
            digest.update(f"{name} {list(tensor.shape)}".encode())
            digest.update(_some(tensor, rounded).numpy().tobytes())
    return digest.hexdigest()


def _some(tensor: Tensor, rounded: torch.dtype | None) -> Tensor:
    flat = tensor.detach().reshape(-1)
    some = flat[:: max(1, len(flat) // _ELEMENTS)].cpu()
    return some.to(rounded or some.dtype).to(torch.float64)
