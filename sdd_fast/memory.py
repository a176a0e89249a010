"""How many pictures go through the networks at once, where nobody says: what fits a 24 GB card.

What a backward pass needs is kept from the forward pass: of Stable Diffusion's VAE encoder 3.24 GB
a picture of 512 × 512 in float32 (1.66 GB in float16), of a StyleGAN2 with 1024 pixels 1.54 GB,
with 512 pixels 0.79 GB, with 256 pixels 0.42 GB, always in float32 (a third more without the native
kernels). The U-Net keeps nothing, unless its Jacobian is asked for: then 8.7 GB a picture. Of 24
GB, 12 GB are for that; Stable Diffusion 1.x has 4.3 GB of float32 weights, an e4e encoder 1 GB, and
the rest is left to what comes and goes within a layer. The numbers are counted; on a card they have
not been measured yet.
"""

from __future__ import annotations

from typing import Any

from .teacher.prior import DiffusionPrior

MOST = 8
"""However small the pictures are."""

_KEPT_BYTES = 12e9
_VAE_VALUES = 3_100  # kept for each pixel that the teacher sees
_UNET_VALUES = 5_000  # likewise, from 4,100 in Stable Diffusion 1.x to 5,400 in 2.x
_GENERATOR_BYTES = 1.6e6  # kept for each pixel of the side: the layers get thinner as they grow


def selection_batch(prior: DiffusionPrior, height: int, width: int, jacobian: str = "skip") -> int:
    """Pictures of this size in one graph, for `hqs`: 1 to `MOST`.

    Args:
        jacobian: of the `GuidanceConfig`.
    """
    through_unet = 2 * _UNET_VALUES if jacobian == "full" else 0  # with and without the prompt
    return _fitting(_bytes(prior, height, width, _VAE_VALUES + through_unet))


def training_batch(generator: Any, prior: DiffusionPrior) -> int:
    """Pictures in one step of `distill`, through VAE and generator: 1 to `MOST`."""
    height, width = generator.image_size
    kept = _GENERATOR_BYTES * generator.resolution
    return _fitting(kept + _bytes(prior, height, width, _VAE_VALUES))


def _bytes(prior: DiffusionPrior, height: int, width: int, values: int) -> float:
    _, h, w = prior.latent_shape_for(height, width)
    pixels = h * w * prior.vae_scale_factor**2
    return float(values * pixels * prior.vae.dtype.itemsize)


def _fitting(bytes_each: float) -> int:
    return max(1, min(MOST, int(_KEPT_BYTES // bytes_each)))
