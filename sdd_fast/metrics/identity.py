"""Whether an edit keeps who is seen."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from ..shield import shielded
from .pairs import BATCH, check_pairs, in_batches


@shielded(grad=False)
def identity_similarity(
    identity: Callable[[Tensor], Tensor],
    before: Tensor,
    after: Tensor,
    *,
    device: str = "cpu",
    batch_size: int = BATCH,
) -> Tensor:
    """Return cos(R(after), R(before)) [N], float64; 1 is the same subject.

    Args:
        identity: images → vectors, such as `Domain.identity`.
        before, after: [N, 3, R, R] in [-1, 1].

    Raises:
        ValueError: images that do not pair up, see `check_pairs`.
    """
    before, after = check_pairs(before, after)
    seen = (in_batches(identity, images, device, batch_size) for images in (before, after))
    return similarity(*seen)


def similarity(before: Tensor, after: Tensor) -> Tensor:
    """Return the cosine similarity [B] of identity vectors [B, D]."""
    return F.cosine_similarity(after, before)
