"""Photographs cropped to their largest face: what an `Editor` does to them before it encodes."""

from __future__ import annotations

from functools import cached_property

from PIL import Image

from ..files import PathLike
from ..images import load_pil
from .align import align_face
from .landmarks import Detector, YuNet


def crop_to_face(photo: Image.Image, detector: Detector, size: int) -> Image.Image:
    """A raw photograph cropped to its largest face, [size, size], see `align_face`.

    Raises:
        ValueError: no face was found.
    """
    photo = load_pil(photo)  # upright, in sRGB
    faces = detector(photo)
    if not faces:
        raise ValueError(
            "no face was found in a picture; crop it to the face and say --aligned (in Python: "
            "aligned=True)"
        )
    return align_face(photo, faces[0], size)


class FaceCrop:
    """Crops photographs to `size` pixels a side, by a detector that is loaded when it is needed.

    Args:
        weights: of `YuNet`; None is an error only when a face is looked for.
    """

    def __init__(self, weights: PathLike | None, size: int) -> None:
        self.weights, self.size = weights, size

    @cached_property
    def detector(self) -> Detector:
        return YuNet(self.weights)

    def align_photo(self, photo: Image.Image) -> Image.Image:
        """See `crop_to_face`; errors of the detector are those of `YuNet`."""
        return crop_to_face(photo, self.detector, self.size)
