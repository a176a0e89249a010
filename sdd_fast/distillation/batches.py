"""What a step of the training draws, from its number alone."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import draws
from .config import DistillConfig


def draw(
    config: DistillConfig,
    step: int,
    count: int,
    timesteps: Tensor,
    latent_shape: tuple[int, int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw what step number `step` (from 0) trains on, a function of (seed, step) alone.

    That is why a resumed run equals an uninterrupted one. Drawn on the CPU, so that it does not
    depend on the device either.

    Args:
        count: number of training latents. timesteps: int64 [|S|]. latent_shape: (C, h, w).

    Returns:
        indices [B] of the latents (every epoch visits all of them, in the same batches); their
        timesteps [B], uniform over the set; noise [B, C, h, w], standard normal or zero.
    """
    index = draw_latents(config, step, count)
    rng = draws.stream(config.seed, f"step {step}")
    t = timesteps[torch.randint(len(timesteps), (config.batch_size,), generator=rng)]
    noise = torch.randn(config.batch_size, *latent_shape, generator=rng)
    if config.guidance is not None and config.guidance.noise == "zero":
        noise.zero_()
    return index, t, noise


def draw_latents(config: DistillConfig, step: int, count: int) -> Tensor:
    """Draw the indices [B] of the latents of step number `step`, see `draw`."""
    order = torch.randperm(count, generator=draws.stream(config.seed, "order"))
    start = step % num_batches(config, count) * config.batch_size
    return order[torch.arange(start, start + config.batch_size) % count]


def draw_prior_timesteps(config: DistillConfig, step: int) -> Tensor:
    """Draw the timesteps [B], int64, at which the teacher judges the images of this step."""
    first, last = config.prior_timesteps
    return torch.randint(
        first, last + 1, (config.batch_size,), generator=draws.stream(config.seed, f"prior {step}")
    )


def num_batches(config: DistillConfig, count: int) -> int:
    """Return how many batches visit all of `count` latents."""
    return -(-count // config.batch_size)
