"""Results in the format, and with what of their originals, that was asked for."""

from __future__ import annotations

from pathlib import Path

import icc_profiles
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from sdd_fast.color_profiles import to_srgb
from sdd_fast.decoding import read_image
from sdd_fast.editing.editor import Editor
from sdd_fast.editing.image_paths import find_images
from sdd_fast.editing.save_as import SaveAs, save_image
from sdd_fast.models import Encoder, LevelsMapper, StyleGAN2

DATE = 0x0132


@pytest.fixture(scope="module")
def editor() -> Editor:
    torch.manual_seed(0)
    generator = StyleGAN2(32, w_dim=16, z_dim=16, n_mlp=2, channel_base=256, channel_max=8)
    encoder = Encoder(32, 8, 16, channel_base=256, channel_max=8, head_channels=2)
    return Editor(generator, LevelsMapper(8, 16, ["coarse", "medium"], zero_init=False), encoder)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph of a camera: on its side, in Display P3, with a date, a place and notes."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[DATE] = 6, "2024:05:06 07:08:09"
    exif[ExifTags.IFD.Exif] = {0xA001: 65535, 0x927C: b"notes", 0xA002: 90, 0xA003: 60}
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (48.0, 8.0, 0.0)}
    profile = icc_profiles.rgb_profile(icc_profiles.DISPLAY_P3)
    picture = Image.fromarray(pixels).resize((90, 60), Image.Resampling.BICUBIC)
    (tmp_path / "album" / "may").mkdir(parents=True)
    path = tmp_path / "album" / "may" / "a.jpg"
    picture.save(path, exif=exif, icc_profile=profile, quality=95)
    return path


def test_formats_by_name_and_by_file(editor: Editor, photo: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(photo.parent / "b.bmp")
    Image.new("RGB", (40, 40)).save(photo.parent / "c.webp")
    for told, names, kinds in (
        ("webp", ["a.webp", "b.webp", "c.webp"], ["WEBP"] * 3),
        ("JPG", ["a.jpg", "b.jpg", "c.jpg"], ["JPEG"] * 3),
        ("same", ["a.jpg", "b.png", "c.webp"], ["JPEG", "PNG", "WEBP"]),
    ):
        written = editor.edit_files(photo.parent, tmp_path / told, save_as=told, progress=False)
        assert [path.name for path in written] == names
        assert [Image.open(path).format for path in written] == kinds
    (one,) = editor.edit_files(photo, tmp_path / "me.webp", progress=False)
    assert one == tmp_path / "me.webp" and Image.open(one).format == "WEBP"
    with pytest.raises(ValueError, match="you.png is the name of one image, but 3 are to be"):
        editor.edit_files(photo.parent, tmp_path / "you.png")
    with pytest.raises(FileExistsError, match="me.webp would be replaced"):
        editor.edit_files(photo, tmp_path / "me.webp")


def test_quality_is_that_of_the_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    sizes = []
    for quality in (20, 60, 95):
        save_image(tmp_path / "a.jpg", Image.fromarray(pixels), SaveAs("jpeg", quality))
        sizes.append((tmp_path / "a.jpg").stat().st_size)
    assert sizes == sorted(sizes) and sizes[2] > 3 * sizes[0]


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_exif_data_that_are_still_true_are_kept(photo: Path, ending: str, tmp_path: Path) -> None:
    original, result = read_image(photo), Image.new("RGB", (32, 48))
    path = tmp_path / f"a.{ending}"
    save_image(path, result, SaveAs(keep=("exif",)), original)
    with Image.open(path) as opened:
        opened.load()
        found = opened.getexif()
        inner = found.get_ifd(ExifTags.IFD.Exif)
        assert found[DATE] == "2024:05:06 07:08:09"
        assert found.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
        assert 0x0112 not in found and 0x927C not in inner
        assert (inner[0xA001], inner[0xA002], inner[0xA003]) == (1, 32, 48)
        assert "icc_profile" not in opened.info
    save_image(path, result, SaveAs(), original)
    with Image.open(path) as opened:
        opened.load()
        assert not opened.getexif() and "icc_profile" not in opened.info


def test_colors_are_converted_back_to_a_profile_that_is_kept(photo: Path, tmp_path: Path) -> None:
    original = read_image(photo)
    # No saturated colors: of those a step in one profile can be several in the other.
    colors = np.random.default_rng(1).integers(90, 180, (90, 60, 3), dtype=np.uint8)
    shown = Image.fromarray(colors)
    save_image(tmp_path / "kept.png", shown, SaveAs(keep=("icc",)), original)
    with Image.open(tmp_path / "kept.png") as kept:
        assert kept.info["icc_profile"] == original.info["icc_profile"]
        stored = np.asarray(kept.convert("RGB"))
    again = icc_profiles.rgb_in_srgb(stored, icc_profiles.DISPLAY_P3)
    assert abs(again - colors).max() <= 2  # the same colors to the eye
    assert abs(stored.astype(int) - colors).max() > 5  # in other numbers
    gray = original.convert("L")
    gray.info["icc_profile"] = icc_profiles.gray_profile(1.8)
    with pytest.warns(UserWarning, match="gray.png: the color profile of the original is not kept"):
        save_image(tmp_path / "gray.png", shown, SaveAs(keep=("icc",)), gray)
    assert "icc_profile" not in Image.open(tmp_path / "gray.png").info


def test_photographs_are_put_back_whole(editor: Editor, photo: Path, tmp_path: Path) -> None:
    how = SaveAs("png", keep=("exif",), paste_back=True)
    (path,) = editor.edit_files(photo, tmp_path / "out", 3.0, save_as=how, progress=False)
    with Image.open(path) as result:
        assert result.size == (60, 90)  # upright
        assert result.getexif()[DATE] == "2024:05:06 07:08:09"
        given = np.asarray(result).astype(int)
    want = np.asarray(editor.edit_photo(photo, 3.0)).astype(int)
    assert np.array_equal(given, want)
    untouched = np.asarray(editor.edit_photo(photo.read_bytes(), 0.0)).astype(int)
    original = np.asarray(to_srgb(read_image(photo), "it").convert("RGB")).astype(int)
    assert np.array_equal(untouched, original)
    # The crop is the square in the middle: above and below it nothing changes.
    assert np.array_equal(want[:15], original[:15]) and np.array_equal(want[75:], original[75:])
    assert abs(want - original).max() > 5
    latents = editor.encode(photo)
    np.save(tmp_path / "w.npy", latents.numpy())
    both = editor.edit_files(
        [photo, tmp_path / "w.npy"], tmp_path / "both", save_as=how, progress=False
    )
    assert [Image.open(path).size for path in both] == [(60, 90), (32, 32)]


def test_folders_in_depth_keep_their_folders(editor: Editor, photo: Path, tmp_path: Path) -> None:
    album = tmp_path / "album"
    for name in ("june/a.jpg", "b.png", ".hidden/c.png", "june/notes.txt"):
        (album / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40)).save(album / name, format="PNG")
    out = album / "edited"
    with pytest.warns(UserWarning, match=r"album: 3 images; passed over: 1 other file \(.txt\)"):
        first = editor.edit_files(album, out, recursive=True, progress=False)
    assert [str(path.relative_to(out)) for path in first] == ["b.png", "june/a.png", "may/a.png"]
    with pytest.warns(UserWarning, match="3 images"):  # results are no inputs
        again = editor.edit_files(album, out, recursive=True, overwrite=True, progress=False)
    assert again == first
    with pytest.raises(ValueError, match=r"would be written to a\.jpg\.png.*recursive"):
        editor.edit_files([album / "june", album / "may"], tmp_path / "out")
    (tmp_path / "empty" / "within").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no images in .*empty or the folders in it"):
        editor.edit_files(tmp_path / "empty", tmp_path / "out", recursive=True)
    assert not (tmp_path / "out").exists()


def test_patterns(photo: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "album" / "b[1].jpg")
    album = tmp_path / "album"
    assert find_images([album / "**" / "*.jpg"], None) == [album / "b[1].jpg", photo]
    assert find_images([album / "b[1].jpg"], None) == [album / "b[1].jpg"]  # a name, as it exists
    with pytest.raises(FileNotFoundError, match=r"nothing matches .*\*\.gif"):
        find_images([album / "*.gif"], None)
    told: list[Path] = []
    found = find_images([album / "*.gif", photo], lambda path, error: told.append(path))
    assert found == [photo] and told == [album / "*.gif"]


def test_what_cannot_be_asked_for(tmp_path: Path) -> None:
    for wrong, message in (
        ({"format": "gif"}, "format must be png, jpeg, webp or same, got 'gif'"),
        ({"quality": 101}, "quality must be 1 to 100, got 101"),
        ({"quality": 0}, "quality must be a positive integer"),
        ({"keep": "xmp"}, "what can be kept is exif and icc, got 'xmp'"),
    ):
        with pytest.raises(ValueError, match=message):
            SaveAs(**wrong)  # type: ignore[arg-type]
    picture = Image.new("RGB", (40, 40))
    with pytest.raises(ValueError, match=r"a.bmp must end in .png, .jpg, .jpeg, .webp"):
        save_image(tmp_path / "a.bmp", picture, SaveAs())
    with pytest.raises(ValueError, match="at most 16383 pixels a side, this image is 17000×16"):
        save_image(tmp_path / "a.webp", Image.new("RGB", (17000, 16)), SaveAs())
    assert list(tmp_path.iterdir()) == []
