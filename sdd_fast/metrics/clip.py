"""Whether an edit goes towards a text, as a CLIP sees it.

Two figures belong together. The directional similarity (Gal et al. 2022, "StyleGAN-NADA") alone can
be large for a change of almost nothing; the absolute one alone rewards images that showed the
target before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from ..shield import shielded
from .pairs import BATCH, check_pairs, in_batches


class ImageTextEncoder(Protocol):
    """A CLIP: images [B, 3, R, R] in [-1, 1] and texts to vectors [B, D] of one space."""

    def encode_images(self, images: Tensor) -> Tensor: ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class ClipSimilarity:
    """How an edit looks to a CLIP.

    Args:
        source_text, target_text: what the images show before, and what they should show after.
        direction: [N] cos(I(after) − I(before), T(target) − T(source)), in [-1, 1]; 0 for an edit
            that changes nothing.
        absolute: [N] cos(I(after), T(target)), in [-1, 1], the paper's CLIP similarity (Table 1).
        before: [N] the same of the images before the edit.
    """

    source_text: str
    target_text: str
    direction: Tensor
    absolute: Tensor
    before: Tensor


@shielded(grad=False)
def clip_similarity(
    clip: ImageTextEncoder,
    before: Tensor,
    after: Tensor,
    source_text: str,
    target_text: str,
    *,
    device: str = "cpu",
    batch_size: int = BATCH,
) -> ClipSimilarity:
    """Measure how far an edit goes from one text to another.

    Args:
        before, after: [N, 3, R, R] in [-1, 1].

    Raises:
        ValueError: images that do not pair up, see `check_pairs`, an empty text, or two texts that
            say the same, between which there is no direction.
    """
    before, after = check_pairs(before, after)
    if not (source_text.strip() and target_text.strip()):
        raise ValueError(
            "the direction of an edit needs a source text, which says what the images show before, "
            f"and a target text; got {source_text!r} and {target_text!r}"
        )
    texts = F.normalize(clip.encode_texts([source_text, target_text]).double().cpu(), dim=1)
    source, target = texts
    if (target - source).norm() < 1e-6:
        raise ValueError(
            f"{source_text!r} and {target_text!r} are the same to this CLIP: there is no direction "
            "from one to the other; give another source text"
        )

    def embed(images: Tensor) -> Tensor:
        found = in_batches(clip.encode_images, images, device, batch_size)
        return F.normalize(found, dim=1)

    seen_before, seen_after = embed(before), embed(after)
    return ClipSimilarity(
        source_text,
        target_text,
        direction=direction(seen_before, seen_after, source, target),
        absolute=seen_after @ target,
        before=seen_before @ target,
    )


def direction(before: Tensor, after: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return the directional similarity [B] of unit vectors.

    Args:
        before, after: [B, D] of images. source, target: [D] of texts.
    """
    return F.cosine_similarity(after - before, (target - source).expand_as(after))
