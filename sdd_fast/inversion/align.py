"""Cropping a face the way FFHQ's images were cropped, from its landmarks.

The crop is a square that turns with the face. With e0, e1 the centers of the eyes and m0, m1 the
corners of the mouth (0: on the left of an upright image; y grows downwards)

    x' = e1 − e0,   y' = (m0 + m1) / 2 − (e0 + e1) / 2
    center = (e0 + e1) / 2 + 0.1 y'
    side   = max(4.0 |x'|, 3.6 |y'|)
    x      = the direction of x' − rot90(y'),   y = rot90(x)

Source: Karras et al. 2018, "Progressive Growing of GANs", appendix C, which Karras et al. 2019,
"A Style-Based Generator Architecture", appendix A, applies to FFHQ. What lies outside the image
is mirrored, blurred and faded to the median color.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from PIL import Image, ImageFilter

from ..color_profiles import to_srgb

LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)  # of 68 points: the outlines of the eyes
MOUTH = (48, 54)  # of 68 points: the outer corners of the mouth
MIN_FACE = 32  # side of a crop in pixels of the image; below this no face is left to see
SUPERSAMPLED = 4  # the turned square is sampled this much finer, then reduced


def face_points(landmarks: np.ndarray) -> np.ndarray:
    """The four points that the crop depends on, [4, 2]: eye, eye, mouth corner, mouth corner.

    Args:
        landmarks: [68, 2], the usual 68 points, of which the eyes' outlines (36–47) are averaged;
            or [5, 2]: eye, eye, nose, mouth corner, mouth corner, the one on the picture's left
            first where the face is upright. x and y in pixels, whole at the center of a pixel.

    Raises:
        ValueError: another shape, NaN, points that all coincide, or left and right exchanged.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape == (68, 2):
        eyes = [points[LEFT_EYE].mean(0), points[RIGHT_EYE].mean(0)]
        chosen = np.stack([*eyes, *points[list(MOUTH)]])
    elif points.shape == (5, 2):
        chosen = points[[0, 1, 3, 4]]
    else:
        raise ValueError(
            "landmarks must be [68, 2], or [5, 2] (eye, eye, nose, mouth corner, mouth corner), "
            f"got {list(points.shape)}"
        )
    if not np.isfinite(chosen).all():
        raise ValueError("the landmarks hold NaN or infinity")
    e0, e1, m0, m1 = chosen
    (ex, ey), (mx, my) = e1 - e0, (m0 + m1 - e0 - e1) / 2
    if ex * my - ey * mx <= 0:  # of a face, however it is turned, the mouth is on this side
        raise ValueError(
            "the landmarks are not those of a face: the eyes coincide with each other or the "
            "mouth, or left and right are exchanged (the eye on the left of an upright picture "
            "comes first)"
        )
    return chosen


def face_quad(landmarks: np.ndarray) -> np.ndarray:
    """The corners of the crop, [4, 2] in pixels: top left, bottom left, bottom right, top right.

    Args and Raises: see `face_points`.
    """
    e0, e1, m0, m1 = face_points(landmarks)
    across, down = e1 - e0, (m0 + m1) / 2 - (e0 + e1) / 2
    center = (e0 + e1) / 2 + 0.1 * down
    x = across + np.array([down[1], -down[0]])
    x *= max(2.0 * np.hypot(*across), 1.8 * np.hypot(*down)) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    return np.stack([center - x - y, center - x + y, center + x + y, center + x - y])


def align_face(image: Image.Image, landmarks: np.ndarray, size: int = 1024) -> Image.Image:
    """Turn, crop and scale a face to [size, size] pixels, as in FFHQ.

    Args:
        image: the photograph.
        landmarks: of the face, in its pixels; see `face_points`.
        size: side of the result in pixels.

    `info["quad"]` of the result holds its corners in the photograph, see `face_quad`.

    Raises:
        ValueError: eyes or mouth outside the image, a crop of less than 32 pixels, or no
            landmarks of a face.

    Warns:
        UserWarning: the face is so small that it is enlarged more than four times.
    """
    aligned, note = align_with_note(image, landmarks, size)
    if note:
        warnings.warn(note, stacklevel=2)
    return aligned


def align_with_note(
    image: Image.Image, landmarks: np.ndarray, size: int
) -> tuple[Image.Image, str]:
    """Do as `align_face`, and return what that warns of, or "": threads cannot catch warnings."""
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    points, quad = face_points(landmarks), face_quad(landmarks)
    for name, (x, y) in (("eyes", points[:2].mean(0)), ("mouth", points[2:].mean(0))):
        if not (-0.5 <= x <= image.width - 0.5 and -0.5 <= y <= image.height - 0.5):
            raise ValueError(
                f"the {name} at ({x:.0f}, {y:.0f}) lie outside the picture of {image.width}×"
                f"{image.height} pixels: are the landmarks of this picture, and in its pixels?"
            )
    side = float(np.hypot(*(quad[3] - quad[0])))
    if side < MIN_FACE:
        raise ValueError(
            f"the face is too small: a crop of {side:.0f} pixels, at least {MIN_FACE} are needed"
        )
    note = ""
    if side < size / 4:
        note = (
            f"a small face: its crop of {side:.0f} pixels is enlarged to {size} and stays blurred"
        )
    picture = to_srgb(image, "the photograph").convert("RGB")
    quad = quad + 0.5  # Pillow counts from the corner of a pixel, landmarks from its center
    shrink = max(1, math.floor(side / size / 2))
    if shrink > 1:
        shrunk = (max(1, round(image.width / shrink)), max(1, round(image.height / shrink)))
        quad *= np.array(shrunk) / np.array(image.size)
        picture = picture.resize(shrunk, Image.Resampling.LANCZOS)
        side /= shrink
    picture, corner = _surroundings(picture, quad, side)
    fine = size * SUPERSAMPLED
    corners = tuple((quad - corner).ravel())
    turned = picture.transform(
        (fine, fine), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR
    )
    aligned = turned.resize((size, size), Image.Resampling.LANCZOS)
    aligned.info["quad"] = face_quad(landmarks)
    return aligned, note


def _surroundings(
    picture: Image.Image, quad: np.ndarray, side: float
) -> tuple[Image.Image, np.ndarray]:
    """The part of a picture around the quad, continued beyond its edges; and where it starts."""
    border = max(round(0.1 * side), 3)
    left, top = (np.floor(quad.min(0)).astype(int) - border).tolist()
    right, bottom = (np.ceil(quad.max(0)).astype(int) + border).tolist()
    box = (max(left, 0), max(top, 0), min(right, picture.width), min(bottom, picture.height))
    cropped = picture.crop(box)
    missing = [box[0] - left, box[1] - top, right - box[2], bottom - box[3]]
    if max(missing) <= border - 4:  # the quad itself lies within the picture
        return cropped, np.array(box[:2])
    # Wide on all sides, for the fade to be gradual.
    pads = [max(missed, round(0.3 * side)) for missed in missing]
    return _continued(cropped, pads, 0.02 * side), np.array(box[:2]) - pads[:2]


def _continued(picture: Image.Image, pads: list[int], blur: float) -> Image.Image:
    """Mirror a picture by (left, top, right, bottom) pixels, blur that, fade it to the median."""
    left, top, right, bottom = pads
    mirrored = np.pad(np.asarray(picture), ((top, bottom), (left, right), (0, 0)), mode="reflect")
    # 1 on the outermost pixels, 0 at the edge of the picture, negative within it.
    depth = np.maximum(
        _depth(mirrored.shape[0], top, bottom)[:, None],
        _depth(mirrored.shape[1], left, right)[None, :],
    )
    median = tuple(int(value) for value in np.median(np.asarray(picture), axis=(0, 1)))
    sharp = Image.fromarray(mirrored)
    blurred = sharp.filter(ImageFilter.GaussianBlur(blur))
    soft = Image.composite(blurred, sharp, _mask(3 * depth + 1))  # begins within the picture
    return Image.composite(Image.new("RGB", sharp.size, median), soft, _mask(depth))


def _depth(length: int, before: int, after: int) -> np.ndarray:
    at = np.arange(length, dtype=np.float64)
    return 1 - np.minimum(at / max(before, 1), at[::-1] / max(after, 1))


def _mask(weight: np.ndarray) -> Image.Image:
    return Image.fromarray((weight.clip(0, 1) * 255).round().astype(np.uint8))
