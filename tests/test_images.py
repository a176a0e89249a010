from __future__ import annotations

import io
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdd_fast import decoding, images
from sdd_fast.grid import grid

H, W = 20, 24


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)


def expected(array: np.ndarray) -> torch.Tensor:
    """[H, W, 3] of 0…255 → [3, H, W] in [-1, 1], in float64."""
    return torch.from_numpy(array.astype(np.float64) / 127.5 - 1).permute(2, 0, 1)


def assert_close(image: torch.Tensor, want: torch.Tensor, atol: float = 1e-6) -> None:
    assert image.dtype == torch.float32
    assert image.shape == want.shape
    torch.testing.assert_close(image.double(), want, atol=atol, rtol=0)


def test_file_pil_array_and_tensor_agree(tmp_path: Path, rgb: np.ndarray) -> None:
    picture = Image.fromarray(rgb)
    picture.save(tmp_path / "a.png")
    want = expected(rgb)
    uint8 = torch.from_numpy(rgb).permute(2, 0, 1)
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        picture,
        rgb,
        rgb.astype(np.float32) / 255,
        uint8,
        uint8.float() / 127.5 - 1,
        (uint8.double() / 127.5 - 1)[None],
    ):
        assert_close(images.load_image(source), want)


def test_alpha_is_composited_on_white(tmp_path: Path, rgb: np.ndarray) -> None:
    alpha = np.zeros((H, W, 1), dtype=np.uint8)
    alpha[: H // 2] = 255
    alpha[0] = 51
    rgba = np.concatenate([rgb, alpha], axis=2)
    a = alpha / 255.0
    want = expected(rgb * a + 255 * (1 - a))
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert_close(images.load_image(tmp_path / "a.png"), want)
    assert_close(images.load_image(rgba), want)
    gray = np.concatenate([rgb[..., :1], alpha], axis=2)
    image = images.load_image(Image.fromarray(gray, "LA"))
    assert_close(image, expected(np.repeat(rgb[..., :1], 3, 2) * a + 255 * (1 - a)))


def test_palette_with_a_transparent_color_is_white_there(tmp_path: Path) -> None:
    index = np.zeros((H, W), dtype=np.uint8)
    index[:, W // 2 :] = 1
    picture = Image.fromarray(index, "P")
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.save(tmp_path / "opaque.png")
    picture.save(tmp_path / "clear.png", transparency=1)
    opaque, clear = (images.load_image(tmp_path / f"{n}.png") for n in ("opaque", "clear"))
    assert opaque[:, 0, 0].tolist() == clear[:, 0, 0].tolist() == [1, -1, -1]
    assert opaque[:, 0, -1].tolist() == [-1, -1, 1]
    assert clear[:, 0, -1].tolist() == [1, 1, 1]


def test_rgb_png_with_a_transparent_color_is_white_there(tmp_path: Path, rgb: np.ndarray) -> None:
    rgb[0, 0] = (1, 2, 3)
    Image.fromarray(rgb).save(tmp_path / "a.png", transparency=(1, 2, 3))
    assert images.load_image(tmp_path / "a.png")[:, 0, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_becomes_three_equal_channels(tmp_path: Path, rgb: np.ndarray, mode: str) -> None:
    picture = Image.fromarray(rgb[..., 0]).convert(mode)
    picture.save(tmp_path / "a.png")
    image = images.load_image(tmp_path / "a.png")
    want = np.asarray(picture.convert("L"))
    assert_close(image, expected(np.repeat(want[..., None], 3, axis=2)))


def test_sixteen_bit_keeps_its_precision(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, H * W).astype(np.uint16).reshape(H, W)
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep).save(tmp_path / "a.tif")
    want = torch.from_numpy(deep / 32767.5 - 1).expand(3, H, W)
    assert_close(images.load_image(tmp_path / "a.png"), want)
    assert_close(images.load_image(tmp_path / "a.tif"), want)
    assert_close(images.load_image(deep), want)
    assert_close(images.load_image(deep[..., None]), want)
    assert len(torch.unique(images.load_image(deep)[0])) == H * W


@pytest.mark.parametrize("mode", ["I", "I;16"])
def test_deep_modes_hold_8_or_16_bits(tmp_path: Path, mode: str, rgb: np.ndarray) -> None:
    gray = rgb[..., 0]
    want = expected(np.repeat(gray[..., None], 3, 2))
    kind = np.int32 if mode == "I" else np.uint16
    eight, sixteen = (Image.fromarray(gray.astype(kind) * factor) for factor in (1, 257))
    assert eight.mode == mode
    assert_close(images.load_image(sixteen), want)
    with pytest.warns(UserWarning, match="the PIL image .* none above 254: .* taken as 0…255"):
        assert_close(images.load_image(eight), want)
    eight.save(tmp_path / "a.tif")
    with pytest.warns(UserWarning, match=r"a\.tif .* taken as 0…255"):
        assert_close(images.load_image(tmp_path / "a.tif"), want)
    assert images.load_image(Image.new(mode, (W, H))).max() == -1


def test_sixteen_bit_rgb_png(tmp_path: Path, rgb: np.ndarray) -> None:
    # Pillow cannot write this kind of file, so it is assembled here: 16-bit samples v·257.
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    deep = (rgb.astype(np.uint16) * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert_close(images.load_image(tmp_path / "a.png"), expected(rgb))


def test_float_tiff(tmp_path: Path) -> None:
    unit = np.linspace(0, 1, H * W, dtype=np.float32).reshape(H, W)
    Image.fromarray(unit).save(tmp_path / "a.tif")
    want = torch.from_numpy(unit.astype(np.float64) * 2 - 1).expand(3, H, W)
    assert_close(images.load_image(tmp_path / "a.tif"), want)
    Image.fromarray(unit * 1000).save(tmp_path / "b.tif")
    with pytest.raises(ValueError, match=r"b\.tif has values from 0 to 1000"):
        images.load_image(tmp_path / "b.tif")


def test_cmyk_jpeg(tmp_path: Path) -> None:
    flat = np.full((H, W, 3), (200, 60, 20), dtype=np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.mode == "CMYK"
    assert_close(images.load_image(tmp_path / "a.jpg"), expected(flat), atol=0.05)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_rotation_is_applied(tmp_path: Path, suffix: str) -> None:
    upright = np.zeros((32, 48, 3), dtype=np.uint8)
    upright[:16, :24] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90° clockwise to show", so the stored pixels are turned back
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif, **({"quality": 100} if suffix != "png" else {}))
    image = images.load_image(path)
    assert image.shape == (3, 32, 48)
    torch.testing.assert_close(image[:, 8, 12], torch.tensor([1.0, -1, -1]), atol=0.05, rtol=0)
    assert float(image[0, 24:].max()) < -0.9


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (15, 15), (500, 15)])
def test_tiny_images_are_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    Image.fromarray(np.zeros((*shape, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"a\.png is too small: {shape[1]}×{shape[0]} pixels"):
        images.load_image(tmp_path / "a.png", size=32)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("keep", [0.1, 0.6, 0.9])
def test_truncated_files_are_refused(
    tmp_path: Path, rgb: np.ndarray, fmt: str, keep: float
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, fmt)
    data = buffer.getvalue()
    path = tmp_path / f"a.{fmt.lower()}"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=rf"a\.{fmt.lower()} is (a truncated|not an image)"):
        images.load_image(path, strict=True)


def test_a_jpeg_whose_end_is_zeros_is_read_with_a_warning(tmp_path: Path, rgb: np.ndarray) -> None:
    """As a download leaves it that was interrupted after its place on the disk was taken."""
    buffer, path = io.BytesIO(), tmp_path / "a.jpg"
    thumbnail = Image.fromarray(rgb[:16, :16])
    thumbnail.save(buffer, "JPEG")
    exif = b"Exif\0\0" + Image.Exif().tobytes()[6:] + buffer.getvalue()
    Image.fromarray(np.tile(rgb, (4, 4, 1))).save(path, exif=exif)
    data = path.read_bytes()
    for whole in (data, data + b"a film \xff\xda after it"):
        path.write_bytes(whole)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            images.load_image(path, strict=True)
    path.write_bytes(data[:-900] + bytes(900))
    with pytest.warns(UserWarning, match=r"a\.jpg lacks its end"):
        images.load_image(path)
    with pytest.raises(ValueError, match=r"a\.jpg is a truncated or corrupt image"):
        images.load_image(path, strict=True)


def test_a_progressive_jpeg_is_read_wherever_it_ends(tmp_path: Path, rgb: np.ndarray) -> None:
    """Between two scans it has tables, half of which no decoder takes."""
    buffer, path = io.BytesIO(), tmp_path / "a.jpg"
    Image.fromarray(rgb).save(buffer, "JPEG", progressive=True, quality=50)
    data = buffer.getvalue()
    first = data.index(b"\xff\xda")
    header = int.from_bytes(data[first + 2 : first + 4], "big")
    for length in range(first + 2 + header, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.warns(UserWarning, match=r"a\.jpg lacks its end"):
            assert images.load_image(path).shape == (3, *rgb.shape[:2])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_read_with_a_warning(tmp_path: Path, progressive: bool) -> None:
    smooth = np.linspace(0, 255, 64 * 64 * 3).astype(np.uint8).reshape(64, 64, 3)
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth).save(path, quality=95, progressive=progressive)
    whole, data = images.load_image(path), path.read_bytes()
    path.write_bytes(data[:-40])
    with pytest.warns(UserWarning, match=r"a\.jpg lacks its end"):
        image = images.load_image(path)
    assert torch.equal(image[:, :32], whole[:, :32]) or progressive
    assert (image[:, :32] - whole[:, :32]).abs().max() < 0.1
    with pytest.raises(ValueError, match=r"a\.jpg is a truncated or corrupt image"):
        images.load_image(path, strict=True)
    path.write_bytes(data[:100])
    with pytest.raises(ValueError, match=r"a\.jpg is (a truncated|not an image)"):
        images.load_image(path)


def test_missing_empty_folder_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such image file.*gone\.png"):
        images.load_image(tmp_path / "gone.png")
    with pytest.raises(IsADirectoryError, match="folder"):
        images.load_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match="empty"):
        images.load_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.png is not an image"):
        images.load_image(tmp_path / "text.png")


@pytest.mark.parametrize("limit", [None, 1])
def test_images_beyond_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    smooth = Image.linear_gradient("L").resize((100, 80)).convert("RGB")
    for name, options in {
        "a.png": {}, "p.jpg": {"progressive": True}, "a.jpg": {}, "a.jp2": {}, "fits.png": {},
    }.items():  # fmt: skip
        smooth.save(tmp_path / name, **options)
    smooth.resize((200, 100)).save(tmp_path / "large.jpg")
    smooth.resize((64, 64)).save(tmp_path / "fits.png")
    # Pillow's own limit is any program's to set or lift.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 5000)
    for name in ("a.png", "p.jpg", "large.jpg"):
        with pytest.raises(ValueError, match=rf"{name} has .* million pixels, at most"):
            images.load_image(tmp_path / name)
    assert images.load_image(tmp_path / "fits.png").shape == (3, 64, 64)
    half = images.load_image(smooth.resize((50, 40), Image.Resampling.BOX))
    for name in ("a.jpg", "a.jp2"):
        image = images.load_image(tmp_path / name)
        assert image.shape == (3, 40, 50) and (image - half).abs().max() < 0.1


@pytest.mark.parametrize("size", [8, (40, 31), (16, 90), 64, 150])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_large_images_are_resized_in_strips(
    monkeypatch: pytest.MonkeyPatch, size: images.Size, channels: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (97, 120, channels), dtype=np.uint8)
    whole = images.fit(images.load_image(pixels), size)
    heights = []

    def rgb(rows: np.ndarray, largest: int, convert: Any = images._rgb) -> torch.Tensor:
        heights.append(len(rows))
        return convert(rows, largest)

    monkeypatch.setattr(images, "_rgb", rgb)
    monkeypatch.setattr(images, "_STRIP", 10 * 120)
    assert torch.equal(images.load_image(pixels, size), whole)
    assert len(heights) > 2 and max(heights) < 40
    if channels > 1:
        picture = Image.fromarray(pixels)
        assert torch.equal(images.load_image(picture, size), whole)
    for strange in (pixels[::-1], pixels[:, ::-1]):  # strides below zero
        want = images.fit(images.load_image(strange.copy()), size)
        assert torch.equal(images.load_image(strange, size), want)


@pytest.mark.parametrize("shape", [(17, 40_000), (40_000, 17)])
def test_strips_of_long_images_are_exact(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert torch.equal(images.load_image(Image.fromarray(pixels)), images.load_image(pixels))


def test_only_known_formats_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
    for name in ("a.eps", "a.png", "a.jpg", "a"):
        (tmp_path / name).write_bytes(eps)
        with pytest.raises(ValueError, match=rf"{name} is not an image .*known formats: PNG, JPEG"):
            images.load_image(tmp_path / name)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.pdf")
    Image.new("RGB", (32, 32)).save(tmp_path / "b.png", "PCX")
    for name in ("a.pdf", "b.png"):
        with pytest.raises(ValueError, match="is not an image"):
            images.load_image(tmp_path / name)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is a device or pipe"):
        images.load_image(tmp_path / "a.png")


def test_pillows_guards_are_left_on() -> None:
    from PIL import ImageFile

    assert Image.MAX_IMAGE_PIXELS is not None
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((3, 20, 24), np.uint8), ValueError, r"\[3, 20, 24\].*channels-first"),
        (np.zeros((20, 24, 3), np.int64), TypeError, "int64"),
        (np.full((20, 24, 3), 200.0), ValueError, "from 200 to 200"),
        (np.full((20, 24, 3), -0.5), ValueError, "from -0.5"),
        (np.full((20, 24), np.nan), ValueError, "nan"),
        (torch.zeros(20, 24, 3), ValueError, r"\[20, 24, 3\]"),
        (torch.zeros(2, 3, 20, 24), ValueError, r"\[2, 3, 20, 24\]"),
        (torch.zeros(3, 20, 24, dtype=torch.int64), TypeError, "int64"),
        (torch.full((3, 20, 24), 255.0), ValueError, "largest magnitude is 255.*127.5"),
        (torch.full((3, 20, 24), float("nan")), ValueError, "nan"),
    ],
)
def test_wrong_arrays_and_tensors(source: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        images.load_image(source)  # type: ignore[arg-type]


def test_overshoot_of_a_generator_is_clamped() -> None:
    assert images.load_image(torch.full((3, 16, 16), 1.3)).max() == 1


def test_fit_crops_the_center_and_keeps_exact_pixels(rgb: np.ndarray) -> None:
    image = images.load_image(rgb)
    assert torch.equal(images.fit(image, H), image[:, :, 2:22])
    batch = image.expand(2, 5, 3, H, W)
    assert images.fit(batch, 10).shape == (2, 5, 3, 10, 10)
    torch.testing.assert_close(images.fit(batch, 10)[1, 4], images.load_image(rgb, size=10))
    for wrong in ("64", 64.0, (3, 4, 5), (8, 0), [8, 8.0]):
        with pytest.raises(ValueError, match="size must be"):
            images.fit(image, wrong)
    assert images.fit(image, np.int64(8)).shape[-2:] == (8, 8)
    with pytest.raises(ValueError, match="size must be a positive integer"):
        images.fit(image, 0)


def test_fit_downscale_is_antialiased_and_never_overshoots() -> None:
    # A one-pixel checkerboard averages to gray; without antialiasing it would alias to ±1.
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1).expand(3, 64, 64)
    assert images.fit(board, 16).abs().max() < 0.05
    step = torch.ones(3, 16, 16)
    step[:, :, :8] = -1
    assert images.fit(step, 64).abs().max() <= 1


def test_load_folder(tmp_path: Path, rgb: np.ndarray) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png"):
        Image.fromarray(rgb).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    with pytest.warns(UserWarning, match=r"2 images; passed over: 1 other file \(\.txt\)$"):
        batch, paths = images.load_folder(tmp_path, 16)
    assert [p.name for p in paths] == ["a.JPG", "b.png"]
    assert batch.shape == (2, 3, 16, 16)
    assert len(images.load_folder(tmp_path, 16, limit=1)[1]) == 1
    for name in ("lost.png", "gone.png"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere.png")
    links = (
        r"1 other file \(\.txt\), 2 links to a file that does not exist \(gone\.png, lost\.png\)$"
    )
    with pytest.warns(UserWarning, match=links):
        assert images.list_images(tmp_path) == paths
    (tmp_path / "c.png").write_bytes(b"broken")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"c\.png"):
        images.load_folder(tmp_path, 16)


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        images.load_folder(tmp_path / "gone", 16)
    with pytest.raises(ValueError, match=r"no images in .*no files at all"):
        images.load_folder(tmp_path, 16)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "more").mkdir()
    with pytest.raises(
        ValueError, match=r"no images in .*1 other file \(\.txt\), 1 folder\).*\.jpg"
    ):
        images.load_folder(tmp_path, 16)
    with pytest.raises(NotADirectoryError, match="is a file"):
        images.load_folder(tmp_path / "notes.txt", 16)


def test_one_list_of_what_is_an_image(tmp_path: Path, rgb: np.ndarray) -> None:
    names = ["a.png", "b.JPG", "c.jfif", "d.jp2", "e.mpo", "f.webp", "g.tiff", "h.bmp", "i.gif",
             "j.avif", "k.jpeg", "l.tif", "m.ppm"]  # fmt: skip
    for name in names:
        kind = "JPEG" if name.endswith("jfif") else None
        Image.fromarray(rgb).save(tmp_path / name, kind)
    for other in ("x.eps", "x.pdf", "x.psd", "x.txt"):
        (tmp_path / other).touch()
    with pytest.warns(UserWarning, match=r"13 images; passed over: 4 other files"):
        listed = images.list_images(tmp_path)
    assert [path.name for path in listed] == sorted(names)
    for path in listed:
        assert images.load_image(path).shape == (3, H, W)


def test_heic_is_read_where_a_plugin_is_installed(
    tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import BmpImagePlugin

    Image.init()  # whose registers are exchanged for a while
    plugin = ModuleType("pillow_heif")
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    Image.OPEN.pop("HEIF", None)
    Image.fromarray(rgb).save(tmp_path / "a.heic", "BMP")  # stands for the format
    monkeypatch.setattr(Image, "ID", [*Image.ID])

    def register_heif_opener() -> None:
        Image.register_open("HEIF", BmpImagePlugin.BmpImageFile, lambda start: start[:2] == b"BM")
        Image.register_extension("HEIF", ".heic")

    plugin.register_heif_opener = register_heif_opener  # type: ignore[attr-defined]
    decoding._load_plugins.cache_clear()
    with pytest.raises(ValueError, match="no images"):
        images.list_images(tmp_path)
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    decoding._load_plugins.cache_clear()
    assert images.list_images(tmp_path) == [tmp_path / "a.heic"]
    assert_close(images.load_image(tmp_path / "a.heic"), expected(rgb))


def test_errors_of_a_plugin_name_the_file(
    tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What libheif cannot decode is found when the image is loaded, not when it is opened."""
    Image.fromarray(rgb).save(tmp_path / "a.png")

    def load(picture: Any) -> None:
        raise RuntimeError("Memory allocation error: Security limit exceeded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(ValueError, match=r"a\.png is a truncated or corrupt image \(Memory alloc"):
        images.load_image(tmp_path / "a.png")


def test_save_png_round_trip_is_exact(tmp_path: Path, rgb: np.ndarray) -> None:
    images.save_png(tmp_path / "x" / "a.png", images.load_image(rgb))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x" / "a.png")), rgb)
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["a.png"]


def test_to_pil_clamps_and_refuses_nan_and_batches() -> None:
    picture = images.to_pil(torch.tensor([2.0, -2.0, 0.0]).reshape(3, 1, 1).expand(3, 16, 16))
    assert picture.getpixel((0, 0)) in ((255, 0, 127), (255, 0, 128))
    with pytest.raises(ValueError, match="NaN"):
        images.to_pil(torch.full((3, 4, 4), float("nan")))
    with pytest.raises(ValueError, match=r"\[1, 3, 4, 4\]"):
        images.to_pil(torch.zeros(1, 3, 4, 4))


def test_grids_are_found_by_their_earlier_name() -> None:
    with pytest.warns(DeprecationWarning, match=r"sdd_fast.images.grid is now sdd_fast.grid.grid"):
        assert images.grid is grid
