"""Whose face is it: ArcFace, which most work on StyleGAN faces measures identity with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .irse import IR50, FrozenBatchNorm, IRTrunk
from .save import SaveLoadMixin

_LEAST = 112  # what the trunk sees; smaller images are enlarged before the crop


class ArcFace(SaveLoadMixin, IRTrunk):
    """A unit vector for an aligned face; cosine 1 is the same person (Deng et al. 2019).

    Args:
        units, width, squeeze_excitation: see `IRTrunk`; the defaults are those of
            `model_ir_se50.pth`.
        dim: length of the vector.
    """

    def __init__(
        self,
        units: Sequence[int] = IR50,
        width: int = 64,
        dim: int = 512,
        squeeze_excitation: bool = True,
    ) -> None:
        super().__init__(units, width, squeeze_excitation)
        if dim < 1:
            raise ValueError(f"ArcFace: dim must be positive, got {dim}")
        self.config = {
            "units": list(units), "width": width, "dim": dim,
            "squeeze_excitation": squeeze_excitation,
        }  # fmt: skip
        self.output_layer = nn.Sequential(
            FrozenBatchNorm(8 * width),
            nn.Identity(),  # stands for dropout: the file's names count it
            nn.Flatten(),
            nn.Linear(8 * width * 7 * 7, dim),
            FrozenBatchNorm(dim),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map faces [B, 3, R, R] in [-1, 1], aligned as FFHQ, to unit vectors [B, dim].

        Other sizes than 256 are first brought to 256 by averaging, smaller ones too (which repeats
        pixels), as StyleCLIP and its successors do; their identity scores compare with ours.

        Warns:
            UserWarning: R is below 112, so that the network sees less than it was trained on.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise ValueError(
                f"ArcFace: images must be [B, 3, R, R], got {list(images.shape)}; "
                "crop faces to squares first"
            )
        if images.shape[2] < _LEAST:
            warnings.warn(
                f"ArcFace: images of {images.shape[2]} × {images.shape[2]} are enlarged; below "
                f"{_LEAST} × {_LEAST} faces are told apart less well",
                stacklevel=1,  # the command line shows warnings of this package only
            )
        features = self.features(face_crop(images))
        return F.normalize(self.output_layer(features[-1]), dim=1)


def face_crop(images: Tensor) -> Tensor:
    """Crop an FFHQ-aligned face [B, 3, R, R] to the [B, 3, 112, 112] that ArcFace knows."""
    if images.shape[2] != 256:
        images = F.adaptive_avg_pool2d(images, 256)
    return F.adaptive_avg_pool2d(images[:, :, 35:223, 32:220], 112)
