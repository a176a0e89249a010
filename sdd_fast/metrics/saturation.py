"""How much of an image an edit pushes to the ends of its range, where nothing is left to see."""

from __future__ import annotations

from torch import Tensor

from .pairs import check_pairs

OUT_OF_RANGE = 1.02
"""Values beyond this count as saturated while a generator is trained, whose images overshoot ±1
slightly even where they are good."""
AT_THE_ENDS = 1 - 1 / 255
"""Values beyond this are 0 or 255 once an image is saved."""


def saturated_share(images: Tensor, above: float) -> Tensor:
    """Return the share of values of images [B, 3, H, W] whose magnitude exceeds `above`: [B]."""
    return (images.abs() > above).float().mean((1, 2, 3))


def saturation(before: Tensor, after: Tensor) -> Tensor:
    """Return by how much an edit raised the share of values that are 0 or 255 when saved, [N].

    Args:
        before, after: [N, 3, H, W] in [-1, 1]. What was at the ends before is not the edit's doing.

    Raises:
        ValueError: images that do not pair up, see `check_pairs`.
    """
    before, after = check_pairs(before, after)
    share = saturated_share(after, AT_THE_ENDS) - saturated_share(before, AT_THE_ENDS)
    return share.clamp(min=0).double().cpu()
