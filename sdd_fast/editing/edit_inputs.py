"""What an `Editor` takes: images of any kind, cropped to the face and to the encoder's size."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..images import ImageSource, center, is_photo, load_image, load_pil, load_tensors, to_pil
from .paste_back import upright_quad

EditInput = ImageSource | Sequence[ImageSource]
Align = Callable[[Image.Image], Image.Image]


def input_size(network: Any) -> tuple[int, int]:
    """(height, width) of the images that an encoder, or a generator's own size, asks for."""
    if hasattr(network, "input_size"):
        return tuple(network.input_size)
    if hasattr(network, "image_size"):
        return tuple(network.image_size)
    return network.resolution, network.resolution


def latents_in(images: EditInput, num_layers: int, w_dim: int) -> Tensor | None:
    """W+ latents, or those of one image, as [B, num_layers, w_dim]; None for anything else."""
    if not isinstance(images, Tensor) or tuple(images.shape[-2:]) != (num_layers, w_dim):
        return None
    return images.reshape(-1, num_layers, w_dim) if images.ndim in (2, 3) else None


def sources_of(images: EditInput, num_layers: int, w_dim: int) -> Sequence[ImageSource] | Tensor:
    """A list of single images, or a batch of them [B, …].

    Raises:
        ValueError: a tensor of neither images nor latents, or no image.
    """
    if isinstance(images, Tensor) and (
        images.ndim == 2 or (images.ndim == 3 and images.shape[0] != 3)
    ):
        raise ValueError(
            f"expected images [B, 3, H, W] or W+ latents [B, {num_layers}, {w_dim}], got "
            f"{list(images.shape)}"
        )
    if isinstance(images, Tensor) and images.ndim == 4:
        sources: Sequence[ImageSource] | Tensor = images
    elif is_photo(images) or isinstance(images, (np.ndarray, Tensor)):
        sources = [images]
    else:
        sources = list(cast(Sequence[ImageSource], images))
    if not len(sources):
        raise ValueError("no images to edit: the list is empty")
    return sources


def load_one(
    source: ImageSource, size: tuple[int, int], align: Align | None, strict: bool = False
) -> Tensor:
    """Load an image as [3, *size] in [-1, 1], a file or PIL image through `align` if given."""
    if align is None or not is_photo(source):
        return load_image(source, size, strict=strict)
    return load_image(_aligned(source, load_pil(source, strict=strict), align), size)


def _aligned(source: ImageSource, photo: Image.Image, align: Align) -> Image.Image:
    """Align a photograph; an error tells the file that it is of."""
    try:
        return align(photo)
    except ValueError as error:
        if not isinstance(source, (str, os.PathLike)):
            raise
        raise ValueError(f"{os.fspath(source)}: {error}") from error


class Placed(NamedTuple):
    """A photograph, and the crop of it that is edited.

    Args:
        photo: RGB, upright, sRGB.
        crop: [3, *size] in [-1, 1].
        quad: corners of the crop in the photograph, see `paste_back`.
    """

    photo: Image.Image
    crop: Tensor
    quad: np.ndarray


def load_placed(
    source: ImageSource, size: tuple[int, int], align: Align | None, strict: bool = False
) -> Placed:
    """Load an image as `load_one` does, and tell where in the photograph the crop lies.

    Raises:
        ValueError: as `load_one`, or an `align` that does not tell it.
    """
    if not is_photo(source):
        source, align = to_pil(load_image(source, strict=strict)), None
    photo = load_pil(source, strict=strict)
    if align is None:
        quad = upright_quad(*center((photo.height, photo.width), size))
        return Placed(photo, load_image(photo, size), quad)
    aligned = _aligned(source, photo, align)
    if "quad" not in aligned.info:
        raise ValueError(
            "the align function of this Editor does not tell where its crop lies, so nothing can "
            'be put back there; have it set info["quad"] of its image (as align_face does), or '
            "leave out paste_back"
        )
    return Placed(photo, load_image(aligned, size), aligned.info["quad"])


def load_batch(
    images: Sequence[ImageSource] | Tensor,
    size: tuple[int, int],
    align: Align | None,
    first: int = 0,
) -> Tensor:
    """Load images as [B, 3, *size]; an error tells the index of its image, from `first` on."""
    if isinstance(images, Tensor) and images.shape[1] == 3:
        with suppress(TypeError, ValueError):  # told below, with the index
            return load_tensors(images, size)
    loaded = []
    for i, source in enumerate(images, first):
        try:
            loaded.append(load_one(source, size, align))
        except (TypeError, ValueError) as error:
            if isinstance(source, (str, os.PathLike)) or (i == 0 and len(images) == 1):
                raise  # it is named, or there is no other
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"images[{i}]: {error}") from error
    return torch.stack(loaded)
