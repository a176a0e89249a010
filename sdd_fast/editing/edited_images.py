"""What `Editor.edit` returns: a tensor, an array, or PIL images that a notebook shows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..images import to_pil
from ..notebook import image_tag

OUTPUTS = ("tensor", "pil", "numpy")
_SHOWN = 32  # images in a notebook; a list of thousands would fill its file


class EditedImages(list[Image.Image]):
    """A list of PIL images that a notebook shows side by side.

    Args:
        titles: shown below the first images, one each; none: their numbers.
    """

    def __init__(self, images: Sequence[Image.Image] = (), titles: Sequence[str] = ()) -> None:
        super().__init__(images)
        self.titles = tuple(titles)

    def __repr__(self) -> str:
        sizes = sorted({f"{image.width}×{image.height}" for image in self})
        count = f"{len(self)} image" + ("" if len(self) == 1 else "s")
        return f"EditedImages({count} of {', '.join(sizes)})" if self else "EditedImages([])"

    def _repr_html_(self) -> str:
        figures = []
        for i, image in enumerate(self[:_SHOWN]):
            title = escape(self.titles[i] if i < len(self.titles) else str(i))
            figures.append(
                '<figure style="display:inline-block;margin:2px;text-align:center">'
                f"{image_tag(image, title)}<figcaption>{title}</figcaption></figure>"
            )
        more = len(self) - len(figures)
        return "".join(figures) + (f"<p>and {more:,} more</p>" if more > 0 else "")


def check_output(output: str) -> None:
    """Raise ValueError unless `output` is one of `OUTPUTS`."""
    if output not in OUTPUTS:
        raise ValueError(
            f'output must be "tensor", "pil" or "numpy", got {output!r:.40}; files are written by '
            "edit_files"
        )


def as_output(images: Tensor, output: str) -> Any:
    """Images [B, 3, H, W] in [-1, 1] as `Editor.edit` was asked for them."""
    if output == "tensor":
        return images
    pictures = [to_pil(image) for image in images.cpu()]
    if output == "numpy":
        return np.stack([np.asarray(picture) for picture in pictures])
    return EditedImages(pictures)
