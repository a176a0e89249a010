"""Raw photographs in an Editor: cropped to the face before encoding, unless they are aligned."""

from __future__ import annotations

from pathlib import Path

import icc_profiles
import numpy as np
import pytest
import torch
from PIL import Image

from sdd_fast.domains import Domain, load_domain
from sdd_fast.editing.editor import Editor
from sdd_fast.images import load_image, load_pil
from sdd_fast.inversion.align import align_face
from sdd_fast.models import LevelsMapper

FIVE = np.array([[60.0, 70.0], [100.0, 75.0], [78.0, 95.0], [62.0, 115.0], [94.0, 119.0]])


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Domain:
    """The embedded faces, said to be photographs, with a detector that knows where the face is."""
    domain = load_domain("faces64")
    monkeypatch.setattr(Domain, "align", True)
    domain.__dict__["detector"] = lambda photo: [FIVE] if photo.getpixel((0, 0))[0] < 200 else []
    return domain


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 180, (200, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "me.png")
    return tmp_path / "me.png"


def editor_in(domain: Domain, tmp_path: Path) -> Editor:
    generator = domain.generator
    LevelsMapper(generator.num_layers, generator.w_dim).save(tmp_path / "m.safetensors")
    return Editor.load(tmp_path / "m.safetensors", domain)


def test_files_and_pil_images_are_aligned(domain: Domain, photo: Path, tmp_path: Path) -> None:
    editor = editor_in(domain, tmp_path)
    with Image.open(photo) as opened:
        picture = opened.convert("RGB")
    crop = load_image(align_face(picture, FIVE, 64), 64)
    assert domain.encoder is not None
    with torch.no_grad():
        want = domain.encoder(crop[None])
    for source in (photo, picture):
        torch.testing.assert_close(editor.encode([source]), want)
    # What is aligned, or a tensor, is taken as it is.
    with torch.no_grad():
        whole = domain.encoder(load_image(photo, 64)[None])
    torch.testing.assert_close(editor.encode([photo], aligned=True), whole)
    torch.testing.assert_close(editor.encode([load_image(photo)]), whole)
    assert not torch.allclose(want, whole)


def test_rotated_photographs_of_other_color_spaces(domain: Domain, photo: Path) -> None:
    with Image.open(photo) as opened:
        upright = opened.convert("RGB")
    want = np.asarray(domain.align_photo(load_pil(in_display_p3(upright))))
    assert abs(want.astype(int) - np.asarray(domain.align_photo(upright))).max() > 5
    turned = in_display_p3(upright.rotate(90, expand=True))  # stored so, and to be turned back
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(photo, exif=exif, icc_profile=turned.info["icc_profile"])
    with Image.open(photo) as opened:
        assert np.array_equal(np.asarray(domain.align_photo(opened)), want)
    edge = FIVE - 30  # part of the crop lies outside
    crops = (
        align_face(p, edge, 64) for p in (in_display_p3(upright), load_pil(in_display_p3(upright)))
    )
    first, second = map(load_image, crops)
    assert torch.equal(first, second)


def in_display_p3(picture: Image.Image) -> Image.Image:
    tagged = picture.copy()
    tagged.info["icc_profile"] = icc_profiles.rgb_profile(icc_profiles.DISPLAY_P3)
    return tagged


def test_without_a_face(domain: Domain, tmp_path: Path) -> None:
    white = Image.new("RGB", (100, 100), (255, 255, 255))
    with pytest.raises(ValueError, match="no face was found in a picture.*--aligned"):
        editor_in(domain, tmp_path).edit([white])
