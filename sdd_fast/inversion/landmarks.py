"""Finding faces in photographs, with OpenCV's YuNet: the optional extra `faces`.

Any other detector does as well: a function from a PIL image to the landmarks of its faces.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ..files import PathLike, expanded, read_bytes
from .align import face_quad

Detector = Callable[[Image.Image], list[np.ndarray]]
"""Image → the landmarks of each face in it, [5, 2] or [68, 2] (see `align.face_points`), the
largest face first; none: an empty list."""

WEIGHTS = "face_detection_yunet_2023mar.onnx"
WEIGHTS_FROM = "https://huggingface.co/opencv/face_detection_yunet"

_LARGEST = 64 * 2**20  # bytes; YuNet has 230 kB
_SIDES = (640, 320, 1280)  # YuNet was trained for faces of 10 to 300 pixels: other sizes in turn
_CLOSE_UPS = (256, 320, 384, 448)  # sides of the second looks at a face; their mean is steadier
_LOOKS = 2  # the first one hardly sees how far a face is turned


class YuNet:
    """Five landmarks of each face, in milliseconds.

    Source: Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector".

    Args:
        weights: the file face_detection_yunet_2023mar.onnx of OpenCV's model zoo. It is not part
            of this package, and nothing is downloaded.
        score: between 0 and 1; candidates below it are no faces.

    Raises:
        ModuleNotFoundError: OpenCV is not installed.
        FileNotFoundError: there is no such file.
        ValueError: no file was given, or it is not YuNet's.
    """

    def __init__(self, weights: PathLike | None, score: float = 0.7) -> None:
        cv2 = _opencv()
        if weights is None:
            raise ValueError(
                f"finding faces needs the weights of YuNet (230 kB, MIT license): get {WEIGHTS} "
                f"from {WEIGHTS_FROM} and give --detector {WEIGHTS}. Pictures that are already "
                "cropped to the face need none: --aligned"
            )
        weights = expanded(weights)
        data = read_bytes(weights, _LARGEST)
        if data.startswith(b"version https://git-lfs"):
            raise ValueError(
                f"{weights} is a Git LFS pointer, not the weights themselves: get them from "
                f"{WEIGHTS_FROM}"
            )
        self._one_at_a_time = threading.Lock()  # the network is told the size before each image
        self.digest = hashlib.blake2b(data, digest_size=8).hexdigest()
        try:
            self._network = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), score)
            self._network.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise ValueError(
                f"{weights} is not the detector YuNet for OpenCV {cv2.__version__}; get {WEIGHTS} "
                f"from {WEIGHTS_FROM}"
            ) from error

    def __call__(self, image: Image.Image) -> list[np.ndarray]:
        picture = image.convert("RGB")
        for side in _SIDES:
            faces = self._detect(picture, side)
            if len(faces):
                order = np.argsort(-faces[:, 2] * faces[:, 3], kind="stable")
                return [self._look_again(picture, faces[i]) for i in order]
        return []

    def _detect(self, picture: Image.Image, side: int) -> np.ndarray:
        """[F, 15] in pixels of the image: x, y, width, height, five points, score."""
        scale = side / max(picture.size)
        width, height = (max(32, round(length * scale)) for length in picture.size)
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.ascontiguousarray(np.asarray(resized)[:, :, ::-1])
        with self._one_at_a_time:
            self._network.setInputSize((width, height))
            found = self._network.detect(pixels)[1]
        if found is None:
            return np.zeros((0, 15))
        scales = np.array([picture.width / width, picture.height / height])
        found = found.astype(np.float64)
        found[:, :14] *= np.tile(scales, 7)
        # From corner-based coordinates of the smaller image to those of the centers of pixels.
        found[:, 4:14] += np.tile((scales - 1) / 2, 5)
        return found

    def _look_again(self, picture: Image.Image, face: np.ndarray) -> np.ndarray:
        """The five points [5, 2] from close-ups turned upright, where they are far more exact."""
        points = face[4:14].reshape(5, 2)
        for _ in range(_LOOKS):
            try:
                quad = face_quad(points)
            except ValueError:  # a profile whose points coincide; `align_face` says so
                return points
            looks = [self._close_up(picture, quad, size) for size in _CLOSE_UPS]
            found = [look for look in looks if look is not None]
            if not found:
                return points
            points = np.mean(found, 0)
        return points

    def _close_up(self, picture: Image.Image, quad: np.ndarray, size: int) -> np.ndarray | None:
        corners = tuple((quad + 0.5).ravel())
        square = picture.transform(
            (size, size), Image.Transform.QUAD, corners, Image.Resampling.BICUBIC
        )
        faces = self._detect(square, size)
        if not len(faces):
            return None
        centers = faces[:, :2] + faces[:, 2:4] / 2
        nearest = np.hypot(*(centers - size / 2).T).argmin()
        within = (faces[nearest, 4:14].reshape(5, 2) + 0.5) / size
        axes = np.stack([quad[3] - quad[0], quad[1] - quad[0]])  # of the square, in the picture
        points: np.ndarray = quad[0] + within @ axes
        return points


def _opencv() -> Any:
    # OpenCV 5 warns of its own default settings; the variable is read when it is imported.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    try:
        import cv2
    except ImportError as error:
        raise ModuleNotFoundError(
            "finding faces in photographs needs OpenCV: pip install 'sdd_fast[faces]'. Pictures "
            "that are already cropped to the face need none: --aligned"
        ) from error
    if not hasattr(cv2, "FaceDetectorYN"):
        raise ModuleNotFoundError(
            f"OpenCV {cv2.__version__} has no YuNet face detector: pip install 'sdd_fast[faces]'"
        )
    return cv2
