"""What an `Editor` takes: images of any kind, cropped to the face and to the encoder's size."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .images import ImageSource, is_photo, load_image, load_pil, load_tensors

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
    photo = load_pil(source, strict=strict)
    try:
        return load_image(align(photo), size)
    except ValueError as error:
        if not isinstance(source, (str, os.PathLike)):
            raise
        raise ValueError(f"{os.fspath(source)}: {error}") from error


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
