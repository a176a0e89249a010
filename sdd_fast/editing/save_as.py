"""How edited images become files: format, quality, and what is kept of the files they are of."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageCms

from ..checks import check_count
from ..color_profiles import is_srgb
from ..files import PathLike, atomic_path

FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
"""Format → the ending of its files."""

SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""Ending → format."""

KEPT = ("exif", "icc")

_MOST = {"jpeg": 65535, "webp": 16383}  # pixels of a side
_ORIENTATION, _MAKER_NOTE, _COLOR_SPACE = 0x0112, 0x927C, 0xA001
_WIDTH, _HEIGHT = 0xA002, 0xA003
_UNTRUE = (_MAKER_NOTE, int(ExifTags.IFD.Interop))
"""Of another file: the notes hold addresses in it, the other says that it is in Adobe RGB."""


@dataclass(frozen=True)
class SaveAs:
    """How `Editor.edit_files` writes its results.

    Args:
        format: "png", "jpeg", "webp", or "same": that of the file that is edited, PNG where it is
            none of these.
        quality: of JPEG and WebP, 1 to 100; PNG has none.
        keep: of the file that is edited: "exif" (date, camera, place …; the picture is upright, so
            its orientation is not kept, nor are thumbnail and maker's notes, which would no longer
            be true), and "icc" (its color profile: colors are converted back to it). Else results
            are sRGB and tell nothing.
        paste_back: write the whole photograph, with the edited crop put back into it where the edit
            changed something, instead of the crop alone. None: those that were aligned to a face.

    Raises:
        ValueError: another format, quality, or thing to keep.
    """

    format: str = "png"
    quality: int = 95
    keep: tuple[str, ...] = ()
    paste_back: bool | None = None

    def __post_init__(self) -> None:
        known = {**{name: name for name in (*FORMATS, "same")}, "jpg": "jpeg"}
        if str(self.format).lower().lstrip(".") not in known:
            raise ValueError(
                f"format must be {', '.join(FORMATS)} or same, got {self.format!r:.40}"
            )
        object.__setattr__(self, "format", known[self.format.lower().lstrip(".")])
        if check_count("quality", self.quality) > 100:
            raise ValueError(f"quality must be 1 to 100, got {self.quality}")
        names = (self.keep,) if isinstance(self.keep, str) else tuple(self.keep)
        unknown = [name for name in names if name not in KEPT]
        if unknown:
            raise ValueError(f"what can be kept is {' and '.join(KEPT)}, got {unknown[0]!r:.40}")
        object.__setattr__(self, "keep", names)

    @classmethod
    def of(cls, told: SaveAs | str) -> SaveAs:
        """A format by its name, or what is one already."""
        return told if isinstance(told, SaveAs) else cls(told)

    def ending(self, source: Path | None) -> str:
        """The ending of a result, of the file that is edited, or of latents (None)."""
        if self.format != "same":
            return FORMATS[self.format]
        kept = source.suffix if source is not None else ""
        return kept if kept.lower() in SUFFIXES else ".png"


def is_file_name(out: Path) -> bool:
    """Tell the name of a result, which ends as an image does, from that of a folder of results."""
    return out.suffix.lower() in SUFFIXES and not out.is_dir()


def save_image(
    path: PathLike, image: Image.Image, how: SaveAs, original: Image.Image | None = None
) -> None:
    """Write an RGB image in sRGB as the ending of `path` says, atomically.

    Args:
        original: the file that was edited, decoded, of which `how.keep` names what to keep.

    Raises:
        ValueError: an ending of another format, or an image that is too large for it.
    """
    kind = SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES)}: images are written as these")
    most = _MOST.get(kind)
    if most is not None and max(image.size) > most:
        raise ValueError(
            f"{path}: {kind} files have at most {most} pixels a side, this image is "
            f"{image.width}×{image.height}; use png"
        )
    settings: dict[str, Any] = {}
    if kind == "jpeg":
        # Half the colors' resolution is what one pays for small files, not for good ones.
        settings = {"quality": how.quality, "subsampling": 0 if how.quality >= 90 else 2}
    elif kind == "webp":
        settings = {"quality": how.quality}
    if original is not None and "icc" in how.keep:
        image, profile = _in_profile_of(image, original, str(path))
        settings |= {"icc_profile": profile} if profile else {}
    if original is not None and "exif" in how.keep:
        exif = _exif_of(original, image.size, "icc_profile" in settings)
        settings |= {"exif": exif} if len(exif) else {}
    with atomic_path(path) as temporary:
        image.save(temporary, format=kind.upper(), **settings)


def _exif_of(original: Image.Image, size: tuple[int, int], own_colors: bool) -> Image.Exif:
    """EXIF data of a file that are true of a result of `size` pixels, too."""
    block, place = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo
    found = original.getexif()
    kept = Image.Exif()
    for tag, value in found.items():
        if tag not in (_ORIENTATION, block, place):
            kept[tag] = value
    inner = {tag: value for tag, value in found.get_ifd(block).items() if tag not in _UNTRUE}
    inner |= {t: n for t, n in zip((_WIDTH, _HEIGHT), size, strict=True) if t in inner}
    if not own_colors and _COLOR_SPACE in inner:
        inner[_COLOR_SPACE] = 1  # sRGB
    for tag, values in ((block, inner), (place, dict(found.get_ifd(place)))):
        if values:
            kept[tag] = values
    return kept


def _in_profile_of(
    image: Image.Image, original: Image.Image, name: str
) -> tuple[Image.Image, bytes | None]:
    """An sRGB image in the colors of the original's profile, and that; as it is, if it has none."""
    profile = original.info.get("icc_profile")
    if not profile:
        return image, None
    if is_srgb(original):
        return image, profile
    try:
        target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = target.profile.xcolor_space.strip()
        if space != "RGB":
            raise ValueError(f"it is for {space} images, results are RGB")
        converted = ImageCms.profileToProfile(
            image, ImageCms.createProfile("sRGB"), target, ImageCms.Intent.PERCEPTUAL, "RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        warnings.warn(
            f"{name}: the color profile of the original is not kept ({error}); the result is sRGB",
            stacklevel=2,
        )
        return image, None
    assert converted is not None  # as it is not in place
    return converted, profile
