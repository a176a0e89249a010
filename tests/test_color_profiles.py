from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import icc_profiles as icc
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms

from sdd_fast.images import load_image, load_pil

H, W = 20, 24


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)


def values(image: torch.Tensor) -> np.ndarray:
    """[3, H, W] in [-1, 1] → [H, W, 3] of 0…255."""
    return (image.permute(1, 2, 0).double().numpy() + 1) * 127.5


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "avif"])
@pytest.mark.parametrize(
    ("primaries", "gamma"), [(icc.DISPLAY_P3, None), (icc.ADOBE_RGB, 563 / 256)]
)
def test_wide_gamuts_are_converted_to_srgb(
    tmp_path: Path, rgb: np.ndarray, suffix: str, primaries: icc.Primaries, gamma: float | None
) -> None:
    path = tmp_path / f"a.{suffix}"
    lossless = {"webp": {"lossless": True}, "avif": {"quality": 100, "subsampling": "4:4:4"}}
    profile = icc.rgb_profile(primaries, gamma)
    Image.fromarray(rgb).save(path, icc_profile=profile, **lossless.get(suffix, {}))
    with Image.open(path) as opened:
        stored = np.asarray(opened.convert("RGB"))
        from_pil = load_image(opened)
    want = icc.rgb_in_srgb(stored, primaries, gamma)
    assert abs(want - stored).max() > 10
    assert abs(values(load_image(path)) - want).max() < 1.5
    assert torch.equal(from_pil, load_image(path))
    assert abs(np.asarray(load_pil(path)) - want).max() < 1.5
    # A part of it, as every user of images reads it.
    small = load_image(Image.fromarray(np.round(want).clip(0, 255).astype(np.uint8)), 8)
    assert (load_image(path, 8) - small).abs().max() < 0.02


def test_the_red_of_srgb_in_display_p3(tmp_path: Path) -> None:
    red = np.full((H, W, 3), (234, 51, 35), dtype=np.uint8)
    profile = icc.rgb_profile(icc.DISPLAY_P3)
    Image.fromarray(red).save(tmp_path / "a.png", icc_profile=profile)
    assert abs(values(load_image(tmp_path / "a.png")) - (255, 0, 0)).max() < 3
    # The palette of a GIF-like PNG, and alpha, whose white is that of the screen.
    palette = Image.fromarray(red).quantize(2)
    palette.save(tmp_path / "p.png", icc_profile=profile)
    assert abs(values(load_image(tmp_path / "p.png")) - (255, 0, 0)).max() < 3
    clear = Image.fromarray(red).convert("RGBA")
    clear.putalpha(51)
    clear.save(tmp_path / "c.png", icc_profile=profile)
    assert abs(values(load_image(tmp_path / "c.png")) - (255, 204, 204)).max() < 3


def test_premultiplied_gray() -> None:
    gray = Image.fromarray(np.full((H, W), 128, dtype=np.uint8)).convert("LA")
    gray.putalpha(128)
    assert abs(values(load_image(gray.convert("La"))) - values(load_image(gray))).max() < 1.5
    gray.info["icc_profile"] = icc.gray_profile(1.0)
    assert abs(values(load_image(gray.convert("La"))) - values(load_image(gray))).max() < 1.5


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grayscale_profiles(tmp_path: Path, mode: str) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(gray.astype(np.uint16) * 257 if mode == "I;16" else gray)
    if mode == "LA":
        picture = picture.convert("LA")
    picture.save(tmp_path / "a.png", icc_profile=icc.gray_profile(1.0))
    want = icc.srgb(gray[..., None] / 255.0).repeat(3, 2)
    assert abs(values(load_image(tmp_path / "a.png")) - want).max() < 1.5


def test_grayscale_with_an_rgb_profile(tmp_path: Path) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(gray).save(tmp_path / "a.jpg", icc_profile=icc.rgb_profile(icc.SRGB, 1.0))
    with Image.open(tmp_path / "a.jpg") as opened:
        want = icc.srgb(np.asarray(opened)[..., None] / 255.0).repeat(3, 2)
    assert abs(values(load_image(tmp_path / "a.jpg")) - want).max() < 1.5


def test_cmyk_profile(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    corners = rng.uniform((30, -20, -20), (80, 20, 20), (2, 2, 2, 2, 3))
    corners[0, 0, 0, 0], corners[..., 1, :] = (100, 0, 0), 0  # paper, and black ink
    inks = rng.integers(0, 2, (H, W, 4))
    picture = Image.fromarray((inks * 255).astype(np.uint8), "CMYK")
    picture.save(tmp_path / "a.tif", icc_profile=icc.cmyk_profile(corners))
    want = icc.lab_in_srgb(corners[tuple(inks.transpose(2, 0, 1))])
    assert abs(values(load_image(tmp_path / "a.tif")) - want).max() < 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
def test_srgb_profiles_change_no_bit(tmp_path: Path, rgb: np.ndarray, mode: str) -> None:
    gray = mode in ("L", "I;16")
    picture = Image.fromarray(rgb[..., 0] if gray else rgb)
    picture = Image.fromarray(rgb[..., 0].astype(np.uint16) * 200) if mode == "I;16" else picture
    picture = picture.convert(mode)
    picture.save(tmp_path / "plain.png")
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (made, icc.rgb_profile(icc.SRGB), *([icc.gray_profile(None)] if gray else [])):
        picture.save(tmp_path / "a.png", icc_profile=profile)
        assert torch.equal(load_image(tmp_path / "a.png"), load_image(tmp_path / "plain.png"))


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (b"no profile at all", "cannot open profile"),
        (icc.rgb_profile(icc.DISPLAY_P3)[:200], "cannot open profile"),
        (icc.gray_profile(2.2), "it is for L images, this one is RGB"),
        (icc.cmyk_profile(np.zeros((2, 2, 2, 2, 3))), "it is for CMYK images, this one is RGB"),
    ],
)
def test_broken_profiles_are_told(
    tmp_path: Path, rgb: np.ndarray, profile: bytes, message: str
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(rgb).save(path, icc_profile=profile)
    with pytest.warns(UserWarning, match=rf"a\.png: its color profile .*{message}.*read as sRGB"):
        image = load_image(path)
    assert torch.equal(image, load_image(rgb))
    with pytest.raises(ValueError, match=rf"a\.png: its color profile cannot be used .*{message}"):
        load_image(path, strict=True)


def test_jpeg_2000_is_converted(tmp_path: Path, rgb: np.ndarray) -> None:
    """Pillow neither writes profiles into its header nor reads them."""
    Image.fromarray(rgb).save(tmp_path / "plain.jp2")
    data, profile = (tmp_path / "plain.jp2").read_bytes(), icc.rgb_profile(icc.DISPLAY_P3)
    old = b"\0\0\0\x0fcolr\1\0\0\0\0\0\x10"
    new = struct.pack(">I", 11 + len(profile)) + b"colr\2\0\0" + profile
    start = data.index(b"jp2h") - 4
    (size,) = struct.unpack(">I", data[start : start + 4])
    longer = struct.pack(">I", size - len(old) + len(new))
    data = data[:start] + longer + data[start + 4 :].replace(old, new, 1)
    (tmp_path / "a.jp2").write_bytes(data)
    expected = icc.rgb_in_srgb(rgb, icc.DISPLAY_P3)
    assert abs(values(load_image(tmp_path / "a.jp2")) - expected).max() < 1.5
    assert torch.equal(load_image(tmp_path / "plain.jp2"), load_image(rgb))


def test_profiles_that_pillow_cannot_put_together_are_told(tmp_path: Path, rgb: np.ndarray) -> None:
    """It leaves None in their place."""
    path = tmp_path / "a.jpg"
    Image.fromarray(rgb).save(path, icc_profile=icc.rgb_profile(icc.DISPLAY_P3))
    first_of = b"ICC_PROFILE\0\1"
    path.write_bytes(path.read_bytes().replace(first_of + b"\1", first_of + b"\2"))
    with pytest.warns(UserWarning, match=r"a\.jpg: its color profile .*incomplete.* read as sRGB"):
        load_image(path)
    with pytest.raises(ValueError, match=r"a\.jpg: its color profile cannot be used .*incomplete"):
        load_image(path, strict=True)


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    start, size, rest = png.partition(b"\0\0\0\x0dIHDR")
    chunk = struct.pack(">I", len(data)) + kind + data
    return start + size + rest[:17] + chunk + struct.pack(">I", zlib.crc32(kind + data)) + rest[17:]


def with_code_points(image: bytes, primaries: int, transfer: int) -> bytes:
    """Of a PNG or AVIF file, in the numbers of H.273."""
    if image.startswith(b"\x89PNG"):
        return with_chunk(image, b"cICP", bytes([primaries, transfer, 0, 1]))
    start, box, rest = image.partition(b"colrnclx")
    return start + box + struct.pack(">2H", primaries, transfer) + rest[4:]


def adobe_by_exif() -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: "R03", 2: b"0100"}
    return exif


@pytest.mark.parametrize(
    ("suffix", "points", "gamma", "told"),
    [
        ("png", (12, 13), None, "code points 12/13"),
        ("avif", (12, 13), None, "code points 12/13"),
        ("avif", (9, 16), None, "code points 9/16"),
        ("png", None, 1.0, "gamma of 1"),
        ("jpg", None, None, "Adobe RGB"),
        ("png", (1, 13), 0.45455, ""),
        ("png", (2, 2), 0.0, ""),
        ("avif", (1, 1), None, ""),
        ("avif", (2, 2), None, ""),
    ],
)
def test_colors_told_without_a_profile_are_told_of(
    tmp_path: Path,
    rgb: np.ndarray,
    suffix: str,
    points: tuple[int, int] | None,
    gamma: float | None,
    told: str,
) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rgb).save(path, **({"exif": adobe_by_exif()} if suffix == "jpg" else {}))
    if points:
        path.write_bytes(with_code_points(path.read_bytes(), *points))
    if gamma is not None:
        said = struct.pack(">I", round(gamma * 100_000))
        path.write_bytes(with_chunk(path.read_bytes(), b"gAMA", said))
    if told:
        with pytest.warns(UserWarning, match=rf"a\.{suffix}: its color profile .*{told}.*as sRGB"):
            load_image(path)
        with pytest.raises(ValueError, match=told):
            load_image(path, strict=True)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_image(path, strict=True)


def test_the_profile_goes_before_what_else_is_told(tmp_path: Path, rgb: np.ndarray) -> None:
    profile = icc.rgb_profile(icc.DISPLAY_P3)
    Image.fromarray(rgb).save(tmp_path / "a.png", icc_profile=profile)
    data = with_code_points((tmp_path / "a.png").read_bytes(), 9, 16)
    (tmp_path / "a.png").write_bytes(with_chunk(data, b"gAMA", struct.pack(">I", 100_000)))
    want = icc.rgb_in_srgb(rgb, icc.DISPLAY_P3)
    assert abs(values(load_image(tmp_path / "a.png", strict=True)) - want).max() < 1.5


def test_a_profile_larger_than_pillow_accepts_is_told(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png", icc_profile=bytes(2 * 2**20))
    with pytest.raises(ValueError, match=r"a\.png holds a color profile .* save it again without"):
        load_image(tmp_path / "a.png")


def test_the_caller_s_image_is_left_as_it_is(rgb: np.ndarray) -> None:
    picture = Image.fromarray(rgb)
    picture.info["icc_profile"] = icc.rgb_profile(icc.DISPLAY_P3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = load_image(picture), load_image(picture)
    assert torch.equal(first, second) and "icc_profile" in picture.info
    assert np.array_equal(np.asarray(picture), rgb)
    # What it becomes carries no profile that could be applied again.
    assert torch.equal(load_image(load_pil(picture)), first)
