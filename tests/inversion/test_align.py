from __future__ import annotations

import math
import os
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdd_fast.inversion.align import align_face, face_points, face_quad
from sdd_fast.inversion.landmarks import WEIGHTS, YuNet

# A face in units of half the distance of its eyes, y downwards: the eyes at (±1, 0).
FACE = np.array([[-1.0, 0.0], [1.0, 0.0], [0.1, 1.2], [-0.8, 2.2], [0.8, 2.2]])
CENTER, HALF = np.array([0.0, 0.22]), 4.0  # by the formulas: 0.1 · 2.2, and max(2 · 2, 1.8 · 2.2)


def colors(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A smooth picture of the plane in the face's units, 0 … 255: [..., 3]."""
    red = 128 + 90 * np.sin(0.9 * u + 0.3 * v)
    green = 128 + 90 * np.cos(0.7 * v - 0.2 * u)
    blue = 128 + 60 * np.sin(0.5 * u * v / 2) * np.exp(-(u**2 + v**2) / 30)
    return np.stack([red, green, blue], -1)


def photograph(
    width: int, height: int, angle: float, scale: float, shift: tuple[float, float]
) -> tuple[Image.Image, np.ndarray]:
    """The plane under a similarity (pixels = scale · turned + shift), and the face's landmarks."""
    turn = np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )  # y points down: positive angles turn clockwise
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = np.einsum("ij,jhw->ihw", turn.T, np.stack([x - shift[0], y - shift[1]])) / scale
    picture = Image.fromarray(colors(u, v).round().clip(0, 255).astype(np.uint8))
    return picture, FACE @ turn.T * scale + np.array(shift)


def crop(size: int, center: np.ndarray = CENTER, half: float = HALF) -> np.ndarray:
    """What the aligned picture must show, straight from the plane."""
    at = (np.arange(size) + 0.5) / size * 2 * half - half
    u, v = np.meshgrid(center[0] + at, center[1] + at)
    return colors(u, v)


def points68(five: np.ndarray) -> np.ndarray:
    """68 points around five, the rest of them somewhere."""
    points = np.random.default_rng(0).uniform(0, 500, (68, 2))
    outline = np.array([[-9.0, 0], [-3, -4], [3, -4], [9, 0], [3, 4], [-3, 4]])
    points[36:42], points[42:48] = five[0] + outline, five[1] + outline
    points[48], points[54] = five[3], five[4]
    return points


# --- the crop -------------------------------------------------------------------------------------


def test_the_square_by_hand() -> None:
    face = np.array([[100, 100], [160, 100], [131, 140], [110, 170], [150, 170]])
    # x' = (60, 0), y' = (0, 70): half a side is max(2 · 60, 1.8 · 70) = 126, around (130, 107)
    expected = [[4, -19], [4, 233], [256, 233], [256, -19]]
    np.testing.assert_allclose(face_quad(face), expected, atol=1e-9)
    wide = np.array([[100, 100], [200, 100], [131, 140], [110, 170], [190, 170]])
    expected = [[-50, -93], [-50, 307], [350, 307], [350, -93]]  # 2 · 100 around (150, 107)
    np.testing.assert_allclose(face_quad(wide), expected, atol=1e-9)


def test_a_skewed_face_turns_by_the_mean_of_both_directions() -> None:
    # x' = (60, 0), y' = (60, 60): x points along (60, 0) + (60, -60)
    face = np.array([[0, 0], [60, 0], [0, 0], [80, 60], [100, 60]])
    along = face_quad(face)[3] - face_quad(face)[0]
    np.testing.assert_allclose(along / np.hypot(*along), np.array([2, -1]) / 5**0.5, atol=1e-12)
    assert math.isclose(np.hypot(*along), 2 * 1.8 * 60 * 2**0.5)


@pytest.mark.parametrize("angle", [0.0, 0.6, -2.0])
def test_68_points_give_the_square_of_5(angle: float) -> None:
    _, five = photograph(20, 20, angle, 40.0, (200.0, 180.0))
    np.testing.assert_allclose(face_quad(points68(five)), face_quad(five), atol=1e-9)


@pytest.mark.parametrize(
    ("angle", "scale", "size"),
    [(0.0, 30.0, 256), (0.5, 35.0, 128), (-1.2, 20.0, 64), (3.0, 25.0, 100), (0.2, 40.0, 90)],
)
def test_a_turned_scaled_and_shifted_face_comes_back(angle: float, scale: float, size: int) -> None:
    width = round(12.5 * scale)
    picture, landmarks = photograph(
        width, width + 7, angle, scale, (width / 2 + 3.3, width / 2 - 1.7)
    )
    aligned = align_face(picture, landmarks, size)
    assert aligned.size == (size, size) and aligned.mode == "RGB"
    error = np.abs(np.asarray(aligned, dtype=np.float64) - crop(size))
    assert error.max() < 2.0 and error.mean() < 0.6


def test_a_large_photograph_is_reduced_without_a_shift() -> None:
    picture, landmarks = photograph(800, 800, 0.3, 60.0, (400.0, 390.0))
    error = np.abs(np.asarray(align_face(picture, landmarks, 32), np.float64) - crop(32))
    assert error.max() < 2.0 and error.mean() < 0.6


def test_beyond_the_edge_the_picture_is_mirrored_and_fades() -> None:
    # Only the left half of the crop lies in the picture: a face at its right edge.
    picture, landmarks = photograph(330, 600, 0.0, 40.0, (300.0, 300.0))
    aligned = np.asarray(align_face(picture, landmarks, 160), np.float64)
    expected = crop(160)
    edge = (330 - 300 + 4 * 40) / 320 * 160  # column 95
    kept = slice(0, int(edge - 65 / 3) - 2)  # the blur begins a third of the padding before it
    assert np.abs(aligned[:, kept] - expected[:, kept]).max() < 2.0
    # The last column: u = 3.975, mirrored at the last pixel (329, u = 0.725) to −2.525.
    v = CENTER[1] + (np.arange(160) + 0.5) / 20 - HALF
    mirrored = colors(np.full(160, -2.525), v)
    median = np.median(np.asarray(picture)[116:, 124:], axis=(0, 1))
    assert np.abs(aligned[:, -1] - median).mean() < 0.3 * np.abs(mirrored - median).mean()
    just_out = round(edge) + 4  # little faded yet
    u = (just_out + 0.5) / 20 - HALF
    mirrored = colors(np.full(160, 2 * 0.725 - u), v)
    assert np.abs(aligned[:, just_out] - mirrored).mean() < 8
    steps = np.abs(np.diff(aligned, axis=1)).max()
    assert steps < 8  # and no visible edge


def test_a_plain_picture_stays_plain_however_far_the_crop_reaches() -> None:
    picture = Image.new("RGB", (90, 60), (200, 30, 90))
    landmarks = FACE * 20 + np.array([45.0, 10.0])
    assert (np.asarray(align_face(picture, landmarks, 40)) == [200, 30, 90]).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_kinds_of_pictures(mode: str) -> None:
    picture, landmarks = photograph(200, 200, 0.0, 20.0, (100.0, 100.0))
    aligned = align_face(picture.convert(mode), landmarks, 32)
    same = align_face(picture.convert(mode).convert("RGB"), landmarks, 32)
    assert aligned.mode == "RGB" and np.array_equal(np.asarray(aligned), np.asarray(same))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (np.zeros((7, 2)), r"must be \[68, 2\], or \[5, 2\].* got \[7, 2\]"),
        (np.full((5, 2), np.nan), "NaN or infinity"),
        (np.zeros((5, 2)), "not those of a face"),
        (FACE[[1, 0, 2, 3, 4]], "left and right are exchanged"),
    ],
)
def test_landmarks_of_no_face(landmarks: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        face_points(landmarks)


def test_landmarks_of_another_picture() -> None:
    picture = Image.new("RGB", (100, 80))
    with pytest.raises(ValueError, match=r"eyes at \(300, 40\) lie outside the picture of 100×80"):
        align_face(picture, FACE * 10 + np.array([300.0, 40.0]))
    with pytest.raises(ValueError, match=r"mouth at \(50, 95\) lie outside"):
        align_face(picture, FACE * 10 + np.array([50.0, 73.0]))


def test_tiny_faces() -> None:
    picture = Image.new("RGB", (300, 300))
    with pytest.raises(ValueError, match="too small: a crop of 24 pixels, at least 32"):
        align_face(picture, FACE * 3 + 150.0)
    with pytest.warns(UserWarning, match="its crop of 48 pixels is enlarged to 256"):
        align_face(picture, FACE * 6 + 150.0, 256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        align_face(picture, FACE * 6 + 150.0, 128)
    with pytest.raises(ValueError, match="size must be at least 1"):
        align_face(picture, FACE * 6 + 150.0, 0)


# --- the detector, with a stand-in for OpenCV -----------------------------------------------------

INKS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]  # of the five points


class _Error(Exception):
    pass


class FakeDetector:
    """Finds a face whose points are dots of the five inks, as FaceDetectorYN would return it."""

    def __init__(self) -> None:
        self.size = (0, 0)
        self.shapes: list[tuple[int, ...]] = []

    def setInputSize(self, size: tuple[int, int]) -> None:
        self.size = size

    def detect(self, image: np.ndarray) -> tuple[int, np.ndarray | None]:
        assert image.dtype == np.uint8 and image.flags.c_contiguous
        if image.any():
            assert image.shape == (self.size[1], self.size[0], 3)
            self.shapes.append(image.shape)
        points = []
        for red, green, blue in INKS:
            off = np.abs(image.astype(float) - [blue, green, red]).max(2)  # BGR
            ink = (1 - off / 128).clip(0.2) - 0.2  # how much of it, beyond the rings of resizing
            if not ink.any():
                return 0, None
            y, x = np.mgrid[0 : ink.shape[0], 0 : ink.shape[1]]
            points += [(x * ink).sum() / ink.sum(), (y * ink).sum() / ink.sum()]
        xs, ys = points[::2], points[1::2]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        return 1, np.array([[*box, *points, 0.9]], np.float32)


@pytest.fixture
def fake_cv2(monkeypatch: pytest.MonkeyPatch) -> FakeDetector:
    detector = FakeDetector()

    def create(model: str, config: str, size: tuple[int, int], score: float) -> FakeDetector:
        if b"yunet" not in Path(model).read_bytes():
            raise _Error("no ONNX")
        return detector

    module: Any = SimpleNamespace(
        error=_Error, __version__="9.9", FaceDetectorYN=SimpleNamespace(create=create)
    )
    monkeypatch.setitem(sys.modules, "cv2", module)
    return detector


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "yunet.onnx").write_bytes(b"yunet")
    return tmp_path / "yunet.onnx"


def dotted(size: tuple[int, int], points: np.ndarray, radius: float) -> Image.Image:
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    picture = np.full((size[1], size[0], 3), 128, np.uint8)
    for (px, py), ink in zip(points, INKS, strict=True):
        picture[(x - px) ** 2 + (y - py) ** 2 <= radius**2] = ink
    return Image.fromarray(picture)


@pytest.mark.parametrize("angle", [0.0, 0.7])
@pytest.mark.parametrize("size", [(400, 300), (300, 900)])
def test_points_are_in_pixels_of_the_photograph(
    fake_cv2: FakeDetector, weights: Path, size: tuple[int, int], angle: float
) -> None:
    _, points = photograph(1, 1, angle, 25.0, (180.3, 120.6))
    (found,) = YuNet(weights)(dotted(size, points, 7.0))
    np.testing.assert_allclose(found, points, atol=0.4)
    assert max(fake_cv2.shapes[0]) == 640  # then close-ups, which are square
    assert len(fake_cv2.shapes) > 2 and all(a == b for a, b, _ in fake_cv2.shapes[1:])


def test_several_threads(
    fake_cv2: FakeDetector, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is told the size of an image first: of another thread's it would be wrong."""

    def told(self: FakeDetector, size: tuple[int, int]) -> None:
        self.size = size
        time.sleep(0.005)

    def detect(image: np.ndarray) -> tuple[int, None]:
        assert image.shape == (fake_cv2.size[1], fake_cv2.size[0], 3)
        return 0, None

    detector = YuNet(weights)
    monkeypatch.setattr(FakeDetector, "setInputSize", told)
    monkeypatch.setattr(fake_cv2, "detect", detect)
    pictures = [Image.new("RGB", (100, height)) for height in (40, 60, 80, 100)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detector, pictures)) == [[]] * 4


def test_no_face_is_looked_for_at_other_sizes(fake_cv2: FakeDetector, weights: Path) -> None:
    assert YuNet(weights)(Image.new("L", (200, 100), 90)) == []
    assert [shape[:2] for shape in fake_cv2.shapes] == [(320, 640), (160, 320), (640, 1280)]


def test_the_largest_face_comes_first(
    fake_cv2: FakeDetector, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = FACE * 10 + 50.0, FACE * 20 + np.array([300.0, 100.0])

    def detect(image: np.ndarray) -> tuple[int, np.ndarray | None]:
        if image.shape[0] == image.shape[1]:
            return 0, None  # nothing in a close-up: the first look counts
        rows = []
        for face in (small, large):
            corner, extent = face.min(0), face.max(0) - face.min(0)
            rows.append([*corner, *extent, *face.ravel(), 0.9])
        return 1, np.array(rows, np.float32)

    monkeypatch.setattr(fake_cv2, "detect", detect)
    first, second = YuNet(weights)(Image.new("RGB", (640, 480)))
    np.testing.assert_allclose(first, large, atol=1e-3)
    np.testing.assert_allclose(second, small, atol=1e-3)


def test_a_detector_that_cannot_be_had(
    fake_cv2: FakeDetector, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=f"weights of YuNet.*get {WEIGHTS} from https.*--aligned"):
        YuNet(None)
    with pytest.raises(FileNotFoundError):
        YuNet("nowhere.onnx")
    other = weights.with_name("other.onnx")
    other.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"other\.onnx is not the detector YuNet for OpenCV 9\.9"):
        YuNet(other)
    other.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match="Git LFS pointer"):
        YuNet(other)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="4.4"))
    with pytest.raises(ModuleNotFoundError, match=r"OpenCV 4\.4 has no YuNet"):
        YuNet(weights)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sdd_fast\[faces\]'.*--aligned"):
        YuNet(weights)


@pytest.mark.skipif("YUNET" not in os.environ, reason="YUNET=FILE names the detector's weights")
def test_the_real_detector_on_a_portrait() -> None:
    """On the portrait among matplotlib's sample data, upright, turned and small."""
    pytest.importorskip("cv2")
    import matplotlib

    path = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    portrait = Image.open(path).convert("RGB")
    detector = YuNet(os.environ["YUNET"])
    (upright,) = detector(portrait)
    # Where the eyes, the tip of the nose and the corners of the mouth are, read off by eye.
    seen = np.array([[226, 192], [307, 193], [267, 236], [229, 271], [302, 272]])
    eyes = 81.0
    assert np.hypot(*(upright - seen).T).max() < 0.08 * eyes
    for angle, scale in ((25.0, 1.0), (-40.0, 2.0), (10.0, 0.3)):
        turned = portrait.resize((round(512 * scale), round(600 * scale)), Image.Resampling.LANCZOS)
        center = np.array(turned.size) / 2
        turned = turned.rotate(angle, Image.Resampling.BICUBIC)
        (found,) = detector(turned)
        a = math.radians(-angle)
        turn = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
        expected = (upright * scale - center) @ turn.T + center
        assert np.hypot(*(found - expected).T).max() < 0.08 * eyes * scale
