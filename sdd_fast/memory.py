"""How much goes through the networks at once: what fits a memory budget, else a 24 GB card.

Within a budget it is measured, see `memory_budget`; without one a rule does, which costs no time:
each network takes so many bytes for each pixel of an image.

*With a gradient*, what a backward pass needs is kept from the forward pass: of Stable Diffusion's
VAE encoder 1.01 GB for an image of 512 × 512 in float32 (0.5 GB in float16; without the native
kernels 2 GB in both; 3.24 and 1.66 GB of a VAE that runs on diffusers' module), of a StyleGAN2
with 1024 pixels 1.54 GB, with 512 pixels 0.79 GB, with 256 pixels 0.42 GB, always in float32 (half
more without the native kernels). The U-Net keeps nothing, unless its Jacobian is requested:
then 8.7 GB for an image. Of 24 GB, 12 GB are for that; Stable Diffusion 1.x has 4.3 GB of float32
weights, an e4e encoder 1 GB, and the rest is left to what comes and goes within a layer. The sizes
are counted; on a card they have not been measured yet.

*Without a gradient* only the largest layer counts, and it may take a gigabyte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ._deprecated import warn
from .checks import check_number
from .distillation.config import DistillConfig
from .memory_budget import (
    CACHE_BYTES,
    IMAGE_BYTES,
    Budget,
    beside_weights,
    device_memory,
    row_cost,
    selection_within,
    training_within,
)
from .out_of_memory import Sizes

if TYPE_CHECKING:
    from .teacher.prior import DiffusionPrior
    from .teacher.text import PromptEmbeds

MOST = 8
"""Images in one graph, however small they are."""

MOST_RENDERED = 64
"""Images in one pass without a graph, however small they are."""

ENCODED_AT_ONCE = 16
"""Images that the VAE encodes in one pass without a graph."""

MOST_ROWS = 64
"""Rows in one call of the U-Net without a graph, however small they are."""

_KEPT_BYTES = 12e9  # by the graphs of one step
_ROWS_BYTES = 4e9  # by the rows of one call of the U-Net without a graph, beside them
_LAYER_BYTES = 2**30  # by one layer without a graph

_VAE_ELEMENTS = 960  # kept for each pixel that the teacher sees
_DIFFUSERS_VAE_ELEMENTS = 3_100  # likewise, by a VAE that runs on diffusers' module
_UNET_ELEMENTS = 5_000  # likewise, from 4,100 in Stable Diffusion 1.x to 5,400 in 2.x
_ROW_ELEMENTS = 150  # of a row without a graph, at one time
_VAE_LAYER_ELEMENTS = 700  # likewise of an image in the VAE encoder
_GENERATOR_BYTES = 1.6e6  # kept for each pixel of the side: the layers get thinner as they grow
_GENERATOR_LAYER_BYTES = 256  # of the largest layer, for each pixel of the image


SelectionSizes = Sizes
"""Earlier name, of when a training had none."""


def selection_sizes(
    prior: DiffusionPrior,
    size: tuple[int, int],
    *,
    jacobian: str = "skip",
    gradient_at: str = "image",
    memory_budget: Budget | None = None,
    memory_gb: float | None = None,
    embeds: PromptEmbeds | None = None,
    generator: Any = None,
) -> Sizes:
    """Return how much `hqs` takes at once of images of `size`, (height, width).

    Args:
        jacobian, gradient_at: what is computed.
        memory_budget: for everything, weights too, such as "22GiB"; None: for a card of 24 GB.
        memory_gb: deprecated; gigabytes beside the weights.
        embeds: of any prompt; with them the memory of a row is measured on a GPU.
        generator: what renders the images, for a budget to count it.

    Raises:
        ValueError: the budget is too small, or more than the device has.
    """
    at_image, full = gradient_at == "image", jacobian == "full"
    most = MOST if at_image else ENCODED_AT_ONCE
    if memory_gb is not None:
        warn("memory_gb is now memory_budget, which counts the weights as well")
        check_number("memory_gb", memory_gb, positive=True)
        memory_budget = beside_weights(memory_gb * 1e9, prior, generator)
    if memory_budget is not None:
        return selection_within(
            memory_budget,
            Sizes(most, MOST_ROWS, possible=_possible(prior, at_image, False)),
            prior,
            size,
            embeds,
            generator=generator,
            jacobian=jacobian,
            gradient_at=gradient_at,
        )
    elements = _vae_elements(prior) if at_image else _VAE_LAYER_ELEMENTS
    if full:
        elements += 2 * _UNET_ELEMENTS  # with and without the prompt
    images = _fitting(_bytes(prior, *size, elements), _KEPT_BYTES, most)
    rows = 2 * images if full else _fitting(_row_bytes(prior, size, embeds), _ROWS_BYTES, MOST_ROWS)
    return Sizes(images, rows, possible=_possible(prior, at_image, False))


def training_sizes(
    prior: DiffusionPrior,
    generator: Any,
    size: tuple[int, int],
    batch_size: int,
    prompts: int = 1,
    *,
    memory_budget: Budget | None = None,
    embeds: PromptEmbeds | None = None,
    identity: Any = None,
    mappers: Sequence[nn.Module] = (),
    jacobian: str = "skip",
) -> Sizes:
    """Return how much a step of `distill` takes at once.

    Args:
        generator: None, if what is trained works on images. size: of those, (height, width).
        batch_size: images of a prompt in one step. prompts: how many are trained together.
        memory_budget: see `selection_sizes`; the rest is what a budget is to count.

    Raises:
        ValueError: the budget is too small, or more than the device has.
    """
    possible = _possible(prior, True, generator is not None)
    if memory_budget is not None:
        return training_within(
            memory_budget,
            Sizes(prompts * batch_size, MOST_ROWS, prompts, possible=possible),
            prior,
            generator,
            size,
            embeds,
            batch_size=batch_size,
            identity=identity,
            mappers=mappers,
            jacobian=jacobian,
        )
    together = min(prompts, prompts_at_once(prior, generator, size, batch_size))
    return Sizes(together * batch_size, rows_at_once(prior, size), together, possible=possible)


def _possible(prior: DiffusionPrior, encoder: bool, generator: bool) -> tuple[str, ...]:
    """Return what can be computed again: diffusers' own VAE encoder cannot."""
    there = {"generator": generator, "encoder": encoder and prior.vae_encoder.fast}
    return tuple(name for name, possible in there.items() if possible)


def _row_bytes(prior: DiffusionPrior, size: tuple[int, int], embeds: PromptEmbeds | None) -> float:
    """Return what a row of the U-Net takes without a graph: measured on a GPU, else by rule."""
    if embeds is None or prior.device.type != "cuda":
        _, h, w = prior.latent_shape_for(*size)
        return float(_ROW_ELEMENTS * h * w * prior.vae_scale_factor**2 * prior.dtype.itemsize)
    return row_cost(prior, size, embeds, graph=False).peak


def training_batch(generator: Any, prior: DiffusionPrior) -> int:
    """Return how many images a step of `distill` takes: as by default, fewer of large ones."""
    usual = DistillConfig.batch_size
    height, width = generator.image_size
    kept = _GENERATOR_BYTES * max(height, width)
    return _fitting(kept + _bytes(prior, height, width, _vae_elements(prior)), _KEPT_BYTES, usual)


def prompts_at_once(prior: DiffusionPrior, generator: Any, size: tuple[int, int], each: int) -> int:
    """Return of how many prompts, `each` images, one graph of `distill` is made: 1 or more.

    Args:
        generator: None, if what is trained works on images. size: of those, (height, width).
    """
    kept = 0.0 if generator is None else _GENERATOR_BYTES * max(size)
    one = kept + _bytes(prior, *size, _vae_elements(prior))
    return max(1, int(_KEPT_BYTES // one) // each)


def rows_at_once(prior: DiffusionPrior, size: tuple[int, int]) -> int:
    """Return how many rows of the U-Net without a graph one call takes, of images of `size`."""
    return _fitting(_row_bytes(prior, size, None), _ROWS_BYTES, MOST_ROWS)


def rendering_batch(generator: Any, most: int = MOST_RENDERED) -> int:
    """Return how many images a generator renders in one pass without a gradient: 1 to `most`."""
    height, width = generator.image_size
    return _fitting(_GENERATOR_LAYER_BYTES * height * width, _LAYER_BYTES, most)


def check_memory(needed: float, what: str, device: Any) -> None:
    """Raise ValueError if something takes more memory than the device has altogether."""
    there = device_memory(device)
    if needed > there:
        raise ValueError(
            f"{what} takes at least {needed / 1e9:,.1f} GB of memory; this device has "
            f"{there / 1e9:,.1f} GB"
        )


def check_images(count: int, size: tuple[int, int], what: str, device: Any) -> None:
    """Raise ValueError if so many images (height, width) in one step fit in no case."""
    check_memory(IMAGE_BYTES * count * math.prod(size), what, device)


def fits_cache(one: Tensor, count: int) -> bool:
    """Return whether `count` tensors like `one` may be kept on the device between steps."""
    return one.nbytes * count <= CACHE_BYTES


def _vae_elements(prior: DiffusionPrior) -> int:
    return _VAE_ELEMENTS if prior.vae_encoder.fast else _DIFFUSERS_VAE_ELEMENTS


def _bytes(prior: DiffusionPrior, height: int, width: int, elements: int) -> float:
    _, h, w = prior.latent_shape_for(height, width)
    pixels = h * w * prior.vae_scale_factor**2
    return float(elements * pixels * prior.vae.dtype.itemsize)


def _fitting(bytes_each: float, budget: float, most: int) -> int:
    return max(1, min(most, int(budget // bytes_each)))
