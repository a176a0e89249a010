"""From images to the teacher's latents: z = s·E(resize(y)).

s is vae.config.scaling_factor, E the mode of the VAE encoder's posterior. The gradient of the
method runs back through both, from latent to image.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .fast_encoder import encode_mean, unknown_to_fast_encoder
from .precision import memory_format


class VAEEncoder:
    """Resizes images to the teacher's resolution and encodes them.

    Args:
        vae: an AutoencoderKL of diffusers, frozen.
        resolution: pixels of the longer side that the teacher was trained with.
        unet_levels: levels of the U-Net, each of which but the first halves the latent.
        dtype: of the latents.

    Warns:
        UserWarning: the VAE is of a kind that `fast_encoder` does not know.
    """

    def __init__(
        self,
        vae: Any,
        *,
        resolution: int,
        unet_levels: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.vae, self.resolution, self.device, self.dtype = vae, resolution, device, dtype
        self.scale_factor = vae_scale_factor(vae)
        # Pixels per latent pixel at the U-Net's coarsest level.
        self.multiple = self.scale_factor * 2 ** (unet_levels - 1)
        unknown = unknown_to_fast_encoder(vae)
        if unknown:
            warnings.warn(
                f"the VAE's encoder has {unknown}, which sdd_fast's own does not know: that "
                "of diffusers runs, slower and with three times the memory",
                stacklevel=3,
            )
        else:
            vae.encoder.to(memory_format=memory_format("vae", vae.device, vae.dtype))

    @property
    def fast(self) -> bool:
        """Whether `fast_encoder` does the work, and not diffusers' module.

        It does not for a VAE that it does not know, now or since its layers were replaced, and
        where the module was told to work another way: in tiles or slices, with checkpoints, with
        hooks, or with weights that get a gradient.
        """
        vae = self.vae
        otherwise = vae.use_tiling or vae.use_slicing or vae.encoder.gradient_checkpointing
        otherwise = otherwise or any(p.requires_grad for p in vae.parameters())
        return not (otherwise or unknown_to_fast_encoder(vae))

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return (C, h, w) of the latent of one image, whose longer side becomes `resolution`.

        Raises:
            ValueError: a side would not be a multiple of what the U-Net halves it to.
        """
        longer = max(height, width)
        if height != width and any(
            s * self.resolution % (longer * self.multiple) for s in (height, width)
        ):
            scaled = [s * self.resolution / longer for s in (height, width)]
            raise ValueError(
                f"images of {height}x{width} would become {scaled[0]:g}x{scaled[1]:g} for this "
                f"teacher, whose sides must be multiples of {self.multiple}; crop or pad them, for "
                "instance to a square"
            )
        h, w = (s * self.resolution // longer // self.scale_factor for s in (height, width))
        return self.vae.config.latent_channels, h, w

    def encode(self, images: Tensor, again: bool = False) -> Tensor:
        """Encode images [B, 3, H, W] to latents [B, C, h, w]; see `DiffusionPrior.encode`.

        Args:
            again: for a gradient, compute most of the network again in place of keeping it, where
                it is `fast`.
        """
        check_images(images, self.vae.config.in_channels)
        y = self.resize(images.to(self.device, self.dtype))
        y = y.to(self.vae.dtype)
        fast = self.fast
        mode = encode_mean(self.vae, y, again) if fast else self.vae.encode(y).latent_dist.mode()
        return mode.to(self.dtype) * self.vae.config.scaling_factor

    def resize(self, y: Tensor) -> Tensor:
        """Resize images [B, 3, H, W] to what the teacher sees; bilinear, anti-aliased beyond 2."""
        _, h, w = self.latent_shape(*y.shape[2:])
        size = (h * self.scale_factor, w * self.scale_factor)
        if tuple(y.shape[2:]) == size:
            return y
        antialias = max(y.shape[2:]) > 2 * self.resolution
        return F.interpolate(y, size, mode="bilinear", align_corners=False, antialias=antialias)


def vae_scale_factor(vae: Any) -> int:
    """Return the pixels per latent pixel of a VAE, along each side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def check_images(images: Tensor, channels: int) -> None:
    """Raise TypeError or ValueError unless `images` is floating point [B, channels, H, W]."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images must be a floating-point tensor in [-1, 1], got {given}; convert bytes with "
            "x / 127.5 - 1"
        )
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape[2:]:
        raise ValueError(f"images must be [B, {channels}, H, W], got {tuple(images.shape)}")


LARGEST = 32.0
"""Magnitude of an image's values: generators overshoot [-1, 1], untrained ones by far."""


def check_range(largest: float) -> None:
    """Raise ValueError if `largest`, the largest magnitude in some images, is above `LARGEST`.

    Called once before a loop, or where the host waits for the device anyway; not by
    `DiffusionPrior.encode` and `residual`, which never make it wait.
    """
    if largest > LARGEST:
        raise ValueError(
            f"images must be in [-1, 1], got values up to {largest:g}; convert bytes with "
            "x / 127.5 - 1"
        )
