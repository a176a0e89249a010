"""ICC profiles: images of any color space → sRGB, which every network here takes.

Most phones and many cameras write Display P3 or Adobe RGB and say so in a profile within the file.
Read as if they were sRGB, their colors are off by up to 14 of 255.
"""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from functools import lru_cache

import numpy as np
from PIL import ExifTags, Image, ImageCms

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # a profile's color space → Pillow's mode
_GRAY = ("1", "L", "LA", "La")


def has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info


def to_srgb(picture: Image.Image, name: str, strict: bool = False) -> Image.Image:
    """Convert an 8-bit image that carries a profile to sRGB; any other is returned as it is.

    So is one whose profile is sRGB's, of whatever maker: within one of 255 it changes nothing.

    Args:
        name: of the image, for messages.
        strict: raise where a profile cannot be used, instead of a warning.

    Raises:
        ValueError: `strict`, and the profile is broken or of another color space than the image.
    """
    try:
        profile = _profile(picture)
        if not profile:
            return picture
        mode, transform = _transform(profile)
        if transform is None:
            return picture
        fits = {"RGB": picture.mode != "CMYK", "L": picture.mode in _GRAY}
        if not fits.get(mode, picture.mode == mode):
            raise ValueError(f"it is for {mode} images, this one is {picture.mode}")
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError) as error:
        message = f"{name}: its color profile cannot be used ({error})"
        if strict:
            raise ValueError(message) from error
        warnings.warn(f"{message}; it is read as sRGB", stacklevel=2)
        return picture
    colors = picture.convert(mode)
    if mode == "RGB":
        transform.apply_in_place(colors)
    else:
        colors = transform.apply(colors)
    if has_alpha(picture):
        colors.putalpha(picture.convert("RGBA").getchannel("A"))
    del colors.info["icc_profile"]  # sRGB's
    colors.info.pop("transparency", None)
    return colors


def is_srgb(picture: Image.Image) -> bool:
    """Return whether nothing says that an image is not sRGB."""
    try:
        profile = _profile(picture)
        return not profile or _transform(profile)[1] is None
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
        return False


def _profile(picture: Image.Image) -> bytes:
    """The profile of an image, b"" if it says nothing of its colors."""
    profile: bytes | None = picture.info.get("icc_profile", b"")
    if profile is None:  # so Pillow tells of one that it could not put together
        raise ValueError("it is damaged or incomplete")
    if not profile and (told := _told_otherwise(picture)):
        raise ValueError(f"there is none, but {told}, and that is not sRGB")
    return profile


def _told_otherwise(picture: Image.Image) -> str:
    """What an image without a profile says of its colors, unless they are sRGB's."""
    info = picture.info
    if "code_points" in info:  # see decoding.py
        return f"code points {info['code_points']} (H.273)"
    gamma = info.get("gamma") or 1 / 2.2
    if "srgb" not in info and abs(2.2 * gamma - 1) > 0.05:
        return f"a gamma of {gamma:g} (gAMA)"
    # So cameras tell of Adobe RGB.
    adobe = None
    with suppress(KeyError):  # Pillow before 13, where there is no such block
        adobe = picture.getexif().get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    return "EXIF data of Adobe RGB" if adobe == "R03" else ""


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode that a profile is for, and its transform to sRGB; None where that is the identity.

    Perceptual with black point compensation, as for photographs elsewhere; for profiles of primary
    colors and curves (P3, Adobe RGB) all intents are one.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    if space not in _MODES:
        raise ValueError(f"its color space is {space}; known are {', '.join(_MODES)}")
    mode = _MODES[space]
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    if mode == "L":
        flags |= ImageCms.Flags.NOOPTIMIZE  # whose table of gray is off by up to 10 of 255
    transform = ImageCms.ImageCmsTransform(
        source,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        mode,
        "RGB",
        ImageCms.Intent.PERCEPTUAL,
        flags=flags,
    )
    if mode == "CMYK":
        return mode, transform
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(64, 64, 3)
    probe = Image.fromarray(colors[..., 0] if mode == "L" else colors)
    before, after = (np.asarray(p.convert("RGB"), int) for p in (probe, transform.apply(probe)))
    return mode, None if abs(after - before).max() <= 1 else transform
