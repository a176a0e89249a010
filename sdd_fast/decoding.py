"""Image files: what counts as one, and the one way in which they are decoded.

Of Pillow's formats only those of photographs and pictures are opened, whatever a file is called:
others start programs (EPS starts Ghostscript) or are read by code that few use. Decoding is bounded
by `MOST_PIXELS`; no setting of Pillow's in the calling program changes what is read.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import struct
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO

from PIL import Image, ImageFile, ImageOps

from .files import PathLike, expanded
from .image_bytes import ImageBytes

FORMATS = (
    "PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF",
)  # fmt: skip
"""Pillow's names of the formats that are read; AVIF and HEIF where Pillow or a plugin has them."""

MOST_PIXELS = 128_000_000
"""Of an image that is decoded: half a gigabyte in memory. JPEG and JPEG 2000 files of up to twice
as many pixels are read at half their size."""

MIN_SIDE = 16  # pixels; below this nothing recognizable is left to edit

_JPEG = ("JPEG", "MPO")
_JPEG_TABLES = (b"\xff\xc4", b"\xff\xda", b"\xff\xdb")  # what stands between its scans

# What Pillow's decoders raise on broken files; SyntaxError is its PNG decoder's, RuntimeError
# that of libheif (pillow-heif).
_BROKEN = (
    OSError, SyntaxError, EOFError, ValueError, TypeError, LookupError, RuntimeError, struct.error,
)  # fmt: skip


def suffixes() -> frozenset[str]:
    """Return the endings of image files, such as ".jpg", for folders and the command line alike."""
    known = {*_formats(), "MPO"}  # which Pillow reads as JPEG
    return frozenset(
        ending for ending, kind in Image.registered_extensions().items() if kind in known
    )


def list_images(folder: PathLike) -> list[Path]:
    """List the image files directly in `folder`, sorted by name, without hidden ones.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
        ValueError: it holds no image.

    Warns:
        UserWarning: other files or folders lie there and are passed over; how many.
    """
    root = expanded(folder)
    if not root.exists():
        raise FileNotFoundError(f"there is no such folder: {root}")
    if not root.is_dir():
        raise NotADirectoryError(f"expected a folder of images, but {root} is a file")
    endings = suffixes()
    listed = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    images = [p for p in listed if p.suffix.lower() in endings and p.is_file()]
    check_listed(str(root), images, sorted(set(listed).difference(images)))
    return images


def files_below(folder: Path, without: Path | None = None) -> tuple[list[Path], list[Path]]:
    """The images, and the other files, in a folder and those within it; hidden ones and links to
    folders are left out, and the folder `without`."""
    endings = suffixes()
    images: list[Path] = []
    others: list[Path] = []
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (here / name).absolute() != without
        )
        for name in sorted(names):
            if not name.startswith("."):
                (images if Path(name).suffix.lower() in endings else others).append(here / name)
    return images, others


def check_listed(where: str, images: Sequence[Path], others: Sequence[Path]) -> None:
    """Tell what is passed over beside the images found somewhere.

    Raises:
        ValueError: there are no images.
    """
    told = besides(others)
    if not images:
        raise ValueError(
            f"no images in {where} ({told or 'no files at all'}); expected files ending in "
            f"{' '.join(sorted(suffixes()))}"
        )
    if told:
        count = f"{len(images):,} image" + ("s" if len(images) > 1 else "")
        warnings.warn(f"{where}: {count}; passed over: {told}", stacklevel=3)


def besides(paths: Sequence[Path]) -> str:
    """Count files and folders, for a person: "2 other files (.txt, .mp4), 1 folder".

    Links to what is not there, which may have been images, are told by name.
    """
    folders = [path for path in paths if path.is_dir()]
    broken = [path for path in paths if path.is_symlink() and not path.exists()]
    there = [path for path in paths if path not in folders and path not in broken]
    kinds = Counter(path.suffix.lower() or path.name for path in there)
    counts = []
    if kinds:
        files = f"{kinds.total()} other file" + ("s" if kinds.total() > 1 else "")
        some = ", ".join(kind for kind, _ in kinds.most_common(5)) + (", …" * (len(kinds) > 5))
        counts.append(f"{files} ({some})")
    if folders:
        counts.append(f"{len(folders)} folder" + ("s" if len(folders) > 1 else ""))
    if broken:
        links = f"{len(broken)} link" + ("s" if len(broken) > 1 else "")
        some = ", ".join(path.name for path in broken[:5]) + (", …" * (len(broken) > 5))
        counts.append(f"{links} to a file that does not exist ({some})")
    return ", ".join(counts)


def check_image(path: Path) -> tuple[str, int, int, str]:
    """Read the header of an image file: its format, width, height and mode.

    Raises:
        FileNotFoundError, IsADirectoryError, ValueError: as `read_image`, but for what only
            decoding shows.
    """
    with _opened(path) as picture:
        return str(picture.format), picture.width, picture.height, picture.mode


def read_image(path: Path | ImageBytes, strict: bool = False) -> Image.Image:
    """Decode an image file, turned upright as its EXIF data say; of an animation the first frame.

    A JPEG that lacks its end is read as far as it goes, with a warning, as viewers do.

    Args:
        strict: refuse such a JPEG.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file, or it is a folder.
        ValueError: not an image of one of `FORMATS`, truncated or corrupt, of more than
            `MOST_PIXELS`, or a side shorter than `MIN_SIDE`.
    """
    with _opened(path) as picture:
        try:
            decoded = _decoded(picture, path)
        except ValueError:
            if strict or picture.format not in _JPEG:
                raise
            with _opened(path, io.BytesIO(_ended(path.read_bytes()))) as mended:
                decoded = _decoded(mended, path)
        else:
            if picture.format not in _JPEG or _has_end(path.read_bytes()):
                return decoded
            if strict:
                raise ValueError(f"{path} is a truncated or corrupt image (it has no end)")
    warnings.warn(
        f"{path} lacks its end, as after a broken download: the part that is missing is gray",
        stacklevel=2,
    )
    return decoded


def _has_end(jpeg: bytes) -> bool:
    """Tell whether a JPEG is whole: zeros in the place of its end, say, are decoded as if it were.

    Its segments are passed over, of which one may be a thumbnail with an end of its own.
    """
    at = 2
    while jpeg[at : at + 1] == b"\xff" and jpeg[at + 1 : at + 2] != b"\xda":  # the first scan
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return jpeg.find(b"\xff\xd9", at) >= 0


def _ended(jpeg: bytes) -> bytes:
    """A JPEG with an end, which libjpeg takes early: it leaves the rest of the picture gray."""
    last = max(jpeg.rfind(marker) for marker in _JPEG_TABLES)
    length = int.from_bytes(jpeg[last + 2 : last + 4].ljust(2, b"\xff"), "big")
    if len(jpeg) < last + 2 + length:
        jpeg = jpeg[:last]  # half a table of a progressive JPEG is damage to libjpeg
    return jpeg + b"\xff\xd9"


@contextlib.contextmanager
def _opened(
    path: Path | ImageBytes, content: IO[bytes] | None = None
) -> Iterator[ImageFile.ImageFile]:
    """Yield an image whose header is read and whose size is allowed."""
    if isinstance(path, Path):
        _check_file(path)
    elif not path.data:
        raise ValueError(f"{path} is empty (0 bytes); was the file read before? seek(0) goes back")
    with content or path.open("rb") as file:
        with named(str(path)):
            picture = _identified(file, path)
        if picture is None:
            raise ValueError(
                f"{path} is not an image that can be read; known formats: {', '.join(_formats())}"
            )
        check_side((picture.height, picture.width), str(path))
        _reduce(picture, path)
        yield picture


def _check_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"there is no such image file: {path}")
    if path.is_dir():
        raise IsADirectoryError(f"expected an image file, but {path} is a folder")
    if not path.is_file():
        raise ValueError(f"{path} is a device or pipe, not an image file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")


def _identified(file: IO[bytes], path: Path | ImageBytes) -> ImageFile.ImageFile | None:
    """What `Image.open` does, but for its limit of pixels, which any program may set or lift."""
    start = file.read(16)
    for name in _formats():
        factory, accepts = Image.OPEN[name]
        accepted = accepts is None or accepts(start)
        if not accepted or isinstance(accepted, str):
            continue  # a text says that Pillow was built without this format
        file.seek(0)
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
            return factory(file, str(path))
    return None


def _decoded(picture: ImageFile.ImageFile, path: Path | ImageBytes) -> Image.Image:
    with named(str(path)):
        picture.load()
        # Here, because a broken EXIF block fails only when parsed.
        ImageOps.exif_transpose(picture, in_place=True)
        if picture.format == "JPEG2000" and (profile := _profile_of_jp2(path)):
            picture.info["icc_profile"] = profile
        if colors := _code_points(picture, path):
            picture.info["code_points"] = colors
    return picture


def _code_points(picture: Image.Image, path: Path | ImageBytes) -> str:
    """What a file says of its colors in numbers of H.273, unless they are sRGB's.

    Pillow passes over them: the chunk cICP of a PNG, the box colr of AVIF and HEIF, of which the
    first is the image's, others those of a gain map or a thumbnail.
    """
    if picture.format not in ("PNG", "AVIF", "HEIF"):
        return ""
    with path.open("rb") as file:
        start = file.read(2**20)
    if picture.format == "PNG":
        said = start.partition(b"IDAT")[0].partition(b"\0\0\0\4cICP")[2][:2]
    else:
        said = start.partition(b"colrnclx")[2][1:4:2]
    primaries, transfer = said if len(said) == 2 else b"\2\2"
    # Those of BT.709; the transfer of sRGB, or of video, which is close to it; 2: unspecified.
    usual = primaries in (1, 2) and transfer in (1, 2, 6, 13)
    return "" if usual else f"{primaries}/{transfer}"


def _profile_of_jp2(path: Path | ImageBytes) -> bytes:
    """The ICC profile in the header of a JPEG 2000 file, which Pillow passes over; b"" if none."""
    with path.open("rb") as file:
        header, _, _ = file.read(2**23).partition(b"jp2c")
    before, box, after = header.partition(b"colr\2")  # 2: by a profile; then two bytes of no use
    return after[2 : int.from_bytes(before[-4:], "big") - 9] if box else b""


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Turn what Pillow raises on broken data into a ValueError that names the image."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} is refused as a possible decompression bomb ({error}); scale it down with an "
            "image editor first"
        ) from error
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's error (permission, too many open files), not the decoder's
        if "MAX_TEXT" in str(error):
            raise ValueError(
                f"{name} holds a color profile or texts that unpack to more than Pillow accepts "
                f"({error}); save it again without them"
            ) from error
        raise ValueError(f"{name} is a truncated or corrupt image ({error})") from error


def _reduce(picture: ImageFile.ImageFile, path: Path | ImageBytes) -> None:
    """Have a very large image decoded at half its size where the format can, or refuse it."""
    width, height = picture.size
    count = width * height
    if count <= MOST_PIXELS:
        return
    if count <= 2 * MOST_PIXELS:
        # Of a progressive JPEG all coefficients are held, at whatever size it is decoded.
        if picture.format in _JPEG and "progressive" not in picture.info:
            picture.draft(None, (width // 2, height // 2))
            return
        if picture.format == "JPEG2000":
            picture.reduce = 1  # type: ignore[method-assign, assignment]
            return
    raise ValueError(
        f"{path} has {width}×{height} = {count / 1e6:.0f} million pixels, at most "
        f"{MOST_PIXELS / 1e6:.0f} million are decoded; scale it down with an image editor first"
    )


def check_side(shape: Sequence[int], name: str) -> None:
    """Raise ValueError where one of (height, width) is below `MIN_SIDE`."""
    height, width = shape
    if min(shape) < MIN_SIDE:
        raise ValueError(
            f"{name} is too small: {width}×{height} pixels, at least {MIN_SIDE}×{MIN_SIDE} are "
            "needed"
        )


def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow, with its plugins, can read."""
    _load_plugins()
    return [name for name in FORMATS if name in Image.OPEN]


@cache
def _load_plugins() -> None:
    """Let Pillow know all its formats, and those of plugins that are installed."""
    Image.init()
    if "HEIF" not in Image.OPEN:
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module("pillow_heif").register_heif_opener()
    if "AVIF" not in Image.OPEN:
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module("pillow_avif")
