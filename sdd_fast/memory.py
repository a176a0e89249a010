"""How much goes through the networks at once, where nobody says: what fits a 24 GB card.

One model for all: each network takes so many bytes for each pixel of an image.

*With a gradient*, what a backward pass needs is kept from the forward pass: of Stable Diffusion's
VAE encoder 3.24 GB for an image of 512 × 512 in float32 (1.66 GB in float16), of a StyleGAN2 with
1024 pixels 1.54 GB, with 512 pixels 0.79 GB, with 256 pixels 0.42 GB, always in float32 (a third
more without the native kernels). The U-Net keeps nothing, unless its Jacobian is requested: then
8.7 GB for an image. Of 24 GB, 12 GB are for that; Stable Diffusion 1.x has 4.3 GB of float32
weights, an e4e encoder 1 GB, and the rest is left to what comes and goes within a layer. The sizes
are counted; on a card they have not been measured yet.

*Without a gradient* only the largest layer counts, and it may take a gigabyte.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from .teacher.prior import DiffusionPrior

MOST = 8
"""Images in one graph, however small they are."""

MOST_RENDERED = 64
"""Images in one pass without a graph, however small they are."""

ENCODED_AT_ONCE = 16
"""Images that the VAE encodes in one pass without a graph."""

_KEPT_BYTES = 12e9  # by the graphs of one step
_LAYER_BYTES = 2**30  # by one layer without a graph
_LEAST_BYTES = 96  # for each pixel of an image: itself, its edit, their gradients, one layer
_CACHE_BYTES = 2**28  # by results that are kept from one step to another

_VAE_ELEMENTS = 3_100  # kept for each pixel that the teacher sees
_UNET_ELEMENTS = 5_000  # likewise, from 4,100 in Stable Diffusion 1.x to 5,400 in 2.x
_GENERATOR_BYTES = 1.6e6  # kept for each pixel of the side: the layers get thinner as they grow
_GENERATOR_LAYER_BYTES = 256  # of the largest layer, for each pixel of the image


def selection_batch(prior: DiffusionPrior, height: int, width: int, jacobian: str = "skip") -> int:
    """Return how many images of this size share one graph in `hqs`: 1 to `MOST`.

    Args:
        jacobian: of the `GuidanceConfig`.
    """
    through_unet = 2 * _UNET_ELEMENTS if jacobian == "full" else 0  # with and without the prompt
    return _fitting(_bytes(prior, height, width, _VAE_ELEMENTS + through_unet), _KEPT_BYTES, MOST)


def training_batch(generator: Any, prior: DiffusionPrior) -> int:
    """Return how many images fit one step of `distill`, through VAE and generator: 1 to `MOST`."""
    height, width = generator.image_size
    kept = _GENERATOR_BYTES * max(height, width)
    return _fitting(kept + _bytes(prior, height, width, _VAE_ELEMENTS), _KEPT_BYTES, MOST)


def rendering_batch(generator: Any, most: int = MOST_RENDERED) -> int:
    """Return how many images a generator renders in one pass without a gradient: 1 to `most`."""
    height, width = generator.image_size
    return _fitting(_GENERATOR_LAYER_BYTES * height * width, _LAYER_BYTES, most)


def check_memory(needed: float, what: str, device: Any) -> None:
    """Raise ValueError if something takes more memory than the device has altogether."""
    import torch

    where = torch.device(device)
    if where.type == "cuda":
        there = float(torch.cuda.mem_get_info(where)[1])
    elif hasattr(os, "sysconf"):
        there = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    else:
        return
    if needed > there:
        raise ValueError(
            f"{what} takes at least {needed / 1e9:,.1f} GB of memory; this device has "
            f"{there / 1e9:,.1f} GB"
        )


def check_images(count: int, size: tuple[int, int], what: str, device: Any) -> None:
    """Raise ValueError if so many images (height, width) in one step fit in no case."""
    check_memory(_LEAST_BYTES * count * math.prod(size), what, device)


def fits_cache(one: Tensor, count: int) -> bool:
    """Return whether `count` tensors like `one` may be kept on the device between steps."""
    return one.nbytes * count <= _CACHE_BYTES


def _bytes(prior: DiffusionPrior, height: int, width: int, elements: int) -> float:
    _, h, w = prior.latent_shape_for(height, width)
    pixels = h * w * prior.vae_scale_factor**2
    return float(elements * pixels * prior.vae.dtype.itemsize)


def _fitting(bytes_each: float, budget: float, most: int) -> int:
    return max(1, min(most, int(budget // bytes_each)))
