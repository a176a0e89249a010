"""Tells networks and tensors from others, quickly: by names, shapes and some elements of each."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

_ELEMENTS = 64  # of each tensor; another checkpoint differs in nearly all


def fingerprint(*things: Any) -> str:
    """Return a digest of networks and tensors; of anything else the name of its type counts."""
    digest = hashlib.blake2b(digest_size=8)
    for thing in things:
        digest.update(type(thing).__name__.encode())
        tensors = thing.state_dict() if isinstance(thing, nn.Module) else {}
        if isinstance(thing, Tensor):
            tensors = {"": thing}
        for name, tensor in tensors.items():
            digest.update(f"{name} {list(tensor.shape)}".encode())
            digest.update(_some(tensor).numpy().tobytes())
    return digest.hexdigest()


def _some(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _ELEMENTS)].cpu().to(torch.float64)
