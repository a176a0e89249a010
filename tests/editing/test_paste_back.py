"""The edited crop lies where it was cut from, and nothing else of the photograph changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sdd_fast.editing.paste_back import change_mask, paste_back, sides_within, upright_quad
from sdd_fast.images import load_image
from sdd_fast.inversion.align import align_face, face_quad

SIZE = (240, 200)  # of the photograph: width, height


def smooth_photo() -> Image.Image:
    """Colors that change slowly with the place, so that a shift of a pixel is seen."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]].astype(np.float64)
    channels = [x * 0.9, y * 1.2, 128 + 100 * np.sin(x / 40) * np.cos(y / 30)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


def landmarks(angle: float) -> np.ndarray:
    """A face about (120, 100), turned by `angle` degrees: eye, eye, nose, mouth, mouth."""
    points = np.array([[-15, -12], [15, -12], [0, 0], [-10, 18], [10, 18]], dtype=np.float64)
    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned: np.ndarray = points @ matrix.T + [120, 100]
    return turned


def with_disk(image: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """The image with a red disk in the middle, and where that is."""
    side = image.shape[-1]
    y, x = torch.meshgrid(*[torch.arange(side) - (side - 1) / 2] * 2, indexing="ij")
    disk = x**2 + y**2 <= (radius * side) ** 2
    return torch.where(disk, torch.tensor([1.0, -1.0, -1.0])[:, None, None], image), disk


@pytest.mark.parametrize("angle", [0.0, 25.0, -70.0])
@pytest.mark.parametrize("size", [64, 512])  # coarser than the photograph, and finer
def test_a_crop_comes_back_to_where_it_was(angle: float, size: int) -> None:
    photo, points = smooth_photo(), landmarks(angle)
    crop = align_face(photo, points, size)
    quad = crop.info["quad"]
    assert np.array_equal(quad, face_quad(points))
    before = load_image(crop)
    after = (before + 0.2).clamp(-1, 1)  # all of it
    result = np.asarray(paste_back(photo, after, before, quad)).astype(float)
    original = np.asarray(photo).astype(float)
    lighter = (original + 0.2 * 127.5).clip(0, 255)
    # The middle half of the crop, where the mask is 1.
    center, reach = quad.mean(0), np.hypot(*(quad[3] - quad[0])) / 4
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    middle = np.hypot(x - center[0], y - center[1]) < reach
    assert middle.sum() > 500
    assert abs(result - lighter)[middle].max() <= 4
    outside = np.hypot(x - center[0], y - center[1]) > 3 * reach  # beyond the corners
    assert outside.sum() > 1000 and np.array_equal(result[outside], original[outside])


def test_only_what_the_edit_changed_is_replaced() -> None:
    photo, points = smooth_photo(), landmarks(10)
    crop = align_face(photo, points, 128)
    before = -load_image(crop)  # a generator that renders everything wrong
    after, _ = with_disk(before, 0.1)
    result = np.asarray(paste_back(photo, after, before, crop.info["quad"])).astype(int)
    original = np.asarray(photo).astype(int)
    changed = abs(result - original).max(-1) > 0
    quad = crop.info["quad"]
    side, center = np.hypot(*(quad[3] - quad[0])), quad.mean(0)
    y, x = np.nonzero(changed)
    assert np.hypot(x - center[0], y - center[1]).max() < 0.25 * side
    assert tuple(result[round(center[1]), round(center[0])]) == (255, 0, 0)


def test_without_an_edit_the_photograph_stays_as_it_is() -> None:
    photo, crop = smooth_photo(), torch.zeros(3, 64, 64)
    result = paste_back(photo, crop + 0.02, crop, upright_quad(slice(20, 100), slice(30, 110)))
    assert result is not photo and result.tobytes() == photo.tobytes()


def test_the_mask_grows_from_changes_and_fades_towards_edges() -> None:
    before = torch.zeros(3, 100, 100)
    after, disk = with_disk(before, 0.2)
    mask = np.asarray(change_mask(after, before)).astype(float) / 255
    assert mask[disk.numpy()].min() > 0.9 and mask[:, :20].max() == 0 and mask[:20].max() == 0
    everything = np.asarray(change_mask(before + 1, before)).astype(int)
    assert everything[0].max() < 30 and everything[50, 50] == 255
    assert (np.diff(everything[50, :50]) >= 0).all()  # no step back on the way in
    open_sides = np.asarray(change_mask(before + 1, before, [False] * 4))
    assert open_sides.min() == 255
    with pytest.raises(ValueError, match=r"of one shape.*\[3, 100, 100\] and \[3, 9, 9\]"):
        change_mask(before, torch.zeros(3, 9, 9))


def test_a_crop_that_is_the_whole_photograph_has_no_frame() -> None:
    photo = smooth_photo().crop((0, 0, 120, 120))
    quad = upright_quad(slice(0, 120), slice(0, 120))
    assert sides_within(photo.size, quad) == [False] * 4
    before = load_image(photo)
    result = np.asarray(paste_back(photo, torch.ones_like(before), before, quad))
    assert result.min() >= 254
    wide = smooth_photo()  # 240 × 200: cut on the left and right
    sides = sides_within(wide.size, upright_quad(slice(0, 200), slice(20, 220)))
    assert sides == [True, False, True, False]


def test_a_crop_that_reaches_beyond_the_photograph() -> None:
    photo = smooth_photo()
    quad = upright_quad(slice(150, 250), slice(-40, 60))
    before = torch.zeros(3, 50, 50)
    result = np.asarray(paste_back(photo, before + 1, before, quad)).astype(int)
    original = np.asarray(photo).astype(int)
    assert (result[199, 0] >= 250).all()  # the corner of the photograph is in the crop's middle
    assert np.array_equal(result[:150], original[:150])
    beside = upright_quad(slice(300, 400), slice(300, 400))
    assert paste_back(photo, before + 1, before, beside).tobytes() == photo.tobytes()


def test_corners_that_are_none() -> None:
    photo, image = smooth_photo(), torch.zeros(3, 50, 50)
    with pytest.raises(ValueError, match=r"four finite points, \[4, 2\], got \[3, 2\]"):
        paste_back(photo, image + 1, image, np.zeros((3, 2)))
    line = np.array([[0.0, 0.0], [10.0, 10.0], [20.0, 20.0], [10.0, 10.0]])
    with pytest.raises(ValueError, match="span no area"):
        paste_back(photo, image + 1, image, line)
