"""Images of bytes and open files are read as files on disk are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdd_fast import image_bytes
from sdd_fast.images import load_image


@pytest.fixture
def jpeg(tmp_path: Path) -> Path:
    """Stored on its side, and turned by its EXIF data."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    return tmp_path / "a.jpg"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "JPEG2000", "TIFF"])
def test_bytes_give_what_the_file_gives(kind: str, jpeg: Path, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    Image.open(jpeg).save(path, format=kind)
    want = load_image(path)
    assert torch.equal(load_image(path.read_bytes()), want)
    with path.open("rb") as opened:
        assert torch.equal(load_image(opened), want)


def test_an_open_file_is_read_from_where_it_is(jpeg: Path) -> None:
    stream = io.BytesIO(b"header" + jpeg.read_bytes())
    stream.seek(6)
    assert torch.equal(load_image(stream), load_image(jpeg))
    with pytest.raises(ValueError, match=r"is empty \(0 bytes\); was the file read before\?"):
        load_image(stream)


def test_a_file_that_cannot_seek(jpeg: Path) -> None:
    class Upload:
        name = 7  # of a pipe

        def read(self, size: int = -1) -> bytes:
            return jpeg.read_bytes()

    assert torch.equal(load_image(Upload()), load_image(jpeg))  # type: ignore[arg-type]


def test_a_jpeg_that_lacks_its_end_is_read_with_a_warning(jpeg: Path) -> None:
    short = jpeg.read_bytes()[:-30]
    with pytest.warns(UserWarning, match=r"the image \(bytes\) lacks its end"):
        load_image(short)
    with pytest.raises(ValueError, match="truncated"):
        load_image(short, strict=True)


def test_bytes_that_are_no_image(jpeg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"the image \(bytes\) is not an image that can be read"):
        load_image(b"not an image")
    with pytest.raises(ValueError, match="empty"):
        load_image(b"")
    with pytest.raises(TypeError, match=r"a.jpg is open as text; an image needs open\(…, \"rb\"\)"):
        with jpeg.open(encoding="latin-1") as text:
            load_image(text)  # type: ignore[arg-type]
    monkeypatch.setattr(image_bytes, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        load_image(io.BytesIO(jpeg.read_bytes()))
