"""The Hybrid Quality Score: which timesteps of the teacher carry a prompt's meaning (Sec. 4.2).

For every image y and timestep t, with d_t the teacher's gradient at the image (Eq. 8):

    p_t = softmax(d_t),   H_t = −Σ p_t log p_t  (Eq. 9),   N_t = Σ |d_t|  (Eq. 10)
    HQS_t = mean over y of N̄_t − H̄_t  (Eq. 12), the bar being min-max over t  (Eq. 11)

Cost: one VAE forward per image; one U-Net evaluation and one VAE backward per (image, timestep,
noise draw).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor

from .. import draws
from .._deprecated import renamed_arguments
from ..checks import check_count, check_seed
from ..files import PathLike, settled
from ..fingerprint import fingerprint
from ..gradients.config import GuidanceConfig
from ..gradients.image_gradient import EncodedImages
from ..gradients.sds import residual
from ..manipulator import LatentGenerator, check_generator
from ..memory import check_images, check_memory
from ..ops.softmax_entropy_l1 import GradientMap, softmax_entropy_l1
from ..progress import Listener, Task
from ..shield import shielded
from ..teacher.prior import DiffusionPrior
from ..teacher.text import PromptEmbeds, warn_of_unknown_words
from ..teacher.vae_encoder import check_range
from .curve import NORMALIZATIONS, HQSCurve
from .partial import PartialCurve


def default_timesteps(num_train_timesteps: int = 1000) -> list[int]:
    """Return 50, 100 … 950 of 1000, scaled to another number of training timesteps."""
    last = num_train_timesteps - 1
    return sorted({min(round(i * num_train_timesteps / 20), last) for i in range(1, 20)})


@renamed_arguments(normalise="normalize")
@shielded()
def hqs(
    prior: DiffusionPrior,
    images: Tensor,
    prompt: str | PromptEmbeds,
    timesteps: Sequence[int] | None = None,
    *,
    generator: LatentGenerator | None = None,
    config: GuidanceConfig | None = None,
    gradient_map: GradientMap = "signed",
    normalize: Literal["per-image", "of-mean"] = "per-image",
    noise_draws: int = 1,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool | Listener = True,
    partial: PathLike | None = None,
) -> HQSCurve:
    """Compute the HQS curve of `prompt`.

    Every timestep sees the same noise for an image (common random numbers), so the curve is not
    blurred by noise that differs between timesteps. An image's noise depends on (seed, image index,
    draw) only: neither on `batch_size` nor on the other images.

    Args:
        images: [N, 3, H, W] floating point in [-1, 1]; or, with `generator`, W+ latents
            [N, num_layers, w_dim], which are rendered once each. The gradient is taken at these
            images, before the resize to the prior's resolution.
        prompt: one prompt, or the embeddings of one prompt.
        timesteps: distinct integers in 0 … T − 1 with a signal (see `Schedule.without_signal`);
            default: those of `default_timesteps(T)` with one. The curve lists them ascending.
        generator: a `StyleGAN2` or another `LatentGenerator`.
        config: how the gradient is formed; default `GuidanceConfig()`.
        gradient_map: "signed" takes the softmax over all C·H·W signed elements of d (Eq. 8–9);
            "abs-mean" over the H·W means of |d| over channels (the authors' code). N_t = Σ|d| in
            both.
        normalize: see `HQSCurve`.
        noise_draws: draws of ε per image; H and N are averaged over an image's draws before they
            are normalized.
        batch_size: images per VAE graph, and (image, timestep) rows per U-Net call (guidance
            doubles these rows). It trades memory for speed and changes results by rounding only.
        seed: non-negative.
        progress: show it, hide it, or a listener of `progress.Progress` events.
        partial: a .safetensors file to keep what is evaluated in, until the curve is complete: the
            same call goes on there after an interruption, to the same result bit for bit.

    Raises:
        TypeError, ValueError: arguments, naming what was expected.
        FloatingPointError: a gradient is not finite; names prompt, timestep and image.
    """
    config = config or GuidanceConfig()
    timesteps = _check_timesteps(prior, timesteps)
    if generator is not None:
        check_generator(generator, needed=("synthesis", "parameters"))
    _check_inputs(images, generator, noise_draws, batch_size, seed, config)
    _check_choice("gradient_map", gradient_map, ("signed", "abs-mean"))
    _check_choice("normalize", normalize, NORMALIZATIONS)
    embeds = prompt if isinstance(prompt, PromptEmbeds) else prior.encode_prompt(prompt)
    if len(embeds.cond) != 1:
        raise ValueError(f"hqs takes one prompt at a time, got {len(embeds.cond)}")
    for text in embeds.prompts:
        warn_of_unknown_words(prior, text)
    together = min(batch_size, len(images))
    noise = 8.0 * together * noise_draws * math.prod(prior.latent_shape)
    check_memory(noise, f"noise_draws={noise_draws:,}", prior.device)
    if generator is None:
        height, width = images.shape[-2:]
        check_images(together, (height, width), f"batch_size={batch_size:,}", prior.device)
    request = [
        embeds.prompts, timesteps, asdict(config), gradient_map, noise_draws, batch_size, seed,
    ]  # fmt: skip
    if partial is not None:
        teacher = (prior.unet, prior.vae, embeds.cond, embeds.uncond)
        request.append(fingerprint(images, generator, *teacher))
    kept = PartialCurve(
        None if partial is None else settled(partial), (len(images), len(timesteps)), request
    )
    _evaluate(
        prior, images, generator, embeds, timesteps, config, gradient_map, noise_draws, batch_size,
        seed, progress, kept,
    )  # fmt: skip
    entropy, l1, deficit = kept.statistics
    return HQSCurve(
        timesteps=tuple(timesteps),
        entropy=entropy,
        deficit=deficit,
        l1=l1,
        prompt=embeds.prompts[0] if embeds.prompts else "",
        negative_prompt=embeds.negative_prompt,
        config=config,
        gradient_map=gradient_map,
        normalize=normalize,
        noise_draws=noise_draws,
        seed=seed,
    )


def _evaluate(
    prior: DiffusionPrior,
    images: Tensor,  # [N, 3, H, W], or [N, num_layers, w_dim] with a generator
    generator: Any,
    embeds: PromptEmbeds,
    timesteps: list[int],
    config: GuidanceConfig,
    gradient_map: GradientMap,
    noise_draws: int,
    batch_size: int,
    seed: int,
    progress: bool | Listener,
    kept: PartialCurve,
) -> None:
    """Compute entropy, L1 and deficit of every image and timestep that `kept` lacks."""
    count = len(images)
    total, there = kept.done.numel() * noise_draws, int(kept.done.sum()) * noise_draws
    with kept, Task("HQS", total, progress, unit="gradients", done=there) as task:
        for start in range(0, count, batch_size):
            batch = slice(start, min(start + batch_size, count))
            if bool(kept.done[batch].all()):
                continue
            y = _render(images[batch], generator)
            shape = prior.latent_shape_for(*y.shape[2:])
            noise = torch.stack(
                [
                    image_noise(prior, seed, i, noise_draws, config, shape)
                    for i in range(count)[batch]
                ]
            )
            encoded = EncodedImages(prior, y.to(prior.device, prior.compute_dtype))
            # So many timesteps as fill whole calls of the U-Net.
            step = batch_size // math.gcd(batch_size, noise_draws * len(y))
            for first in range(0, len(timesteps), step):
                some = slice(first, first + step)
                if bool(kept.done[batch, some].all()):
                    continue
                one = _batch_statistics(
                    prior, encoded, noise, embeds, timesteps[some], config, gradient_map,
                    batch_size, task,
                )  # fmt: skip
                _check_finite(one, timesteps[some], start, embeds)
                kept.add(batch, some, one)


def image_noise(
    prior: DiffusionPrior,
    seed: int,
    index: int,
    noise_draws: int,
    config: GuidanceConfig,
    latent_shape: tuple[int, int, int] | None = None,
) -> Tensor:
    """Draw the noise [draws, C, h, w] of one image from (seed, index, draw) alone; on the CPU.

    `latent_shape` is (C, h, w) of images that are not square; default `prior.latent_shape`.
    """
    shape = latent_shape or prior.latent_shape
    if config.noise == "zero":
        return torch.zeros(noise_draws, *shape)
    return torch.stack([draws.noise(shape, seed, index, draw) for draw in range(noise_draws)])


def _batch_statistics(
    prior: DiffusionPrior,
    encoded: EncodedImages,
    noise: Tensor,  # [b, draws, C, h, w]
    embeds: PromptEmbeds,
    timesteps: list[int],
    config: GuidanceConfig,
    gradient_map: GradientMap,
    rows_per_call: int,
    task: Task,
) -> Tensor:
    """Compute entropy, L1 and deficit [3, b, T] of a batch, averaged over draws; float64."""
    r = _residuals(prior, encoded.latents, noise, embeds, timesteps, config, rows_per_call)
    result = []
    for r_t in r:  # [draws, b, C, h, w]
        of_draws = []
        for cotangent in r_t:
            # One backward pass per cotangent through the one saved VAE graph. Autograd's batched
            # form (is_grads_batched) does not support the memory formats of the encoder's backward.
            d = encoded.gradient(cotangent, last=False)
            of_draws.append(_entropy_l1(d, gradient_map))
            task.advance(len(d))
        result.append(torch.stack(of_draws).mean(0))
    return torch.stack(result, dim=-1).cpu()


def _residuals(
    prior: DiffusionPrior,
    z: Tensor,
    noise: Tensor,
    embeds: PromptEmbeds,
    timesteps: list[int],
    config: GuidanceConfig,
    rows_per_call: int,
) -> Tensor:
    """Compute residuals [T, draws, b, C, h, w] in as few U-Net calls as `rows_per_call` allows."""
    batch, noise_draws = noise.shape[:2]
    noise = noise.to(z.device, z.dtype)
    t, k, i = (
        index.flatten()
        for index in torch.meshgrid(
            torch.tensor(timesteps), torch.arange(noise_draws), torch.arange(batch), indexing="ij"
        )
    )
    parts = []
    for t_rows, k_rows, i_rows in zip(*(x.split(rows_per_call) for x in (t, k, i)), strict=True):
        k_rows, i_rows = k_rows.to(z.device), i_rows.to(z.device)
        parts.append(residual(prior, z[i_rows], embeds, t_rows, noise[i_rows, k_rows], config))
    return torch.cat(parts).view(len(timesteps), noise_draws, *z.shape)


def _entropy_l1(d: Tensor, gradient_map: GradientMap) -> Tensor:
    """Return entropy (Eq. 9), L1 (Eq. 10) and deficit [3, b] of gradients [b, 3, H, W]."""
    if gradient_map == "signed":
        result, channels = softmax_entropy_l1(d.flatten(1)), 1
    else:
        # The L1 norm of the channel means, times the number of channels, is Σ|d|.
        result, channels = softmax_entropy_l1(d.flatten(2), "abs-mean"), d.shape[1]
    return torch.stack([result.entropy, channels * result.l1, result.deficit])


def _render(images: Tensor, generator: Any) -> Tensor:
    if generator is None:
        return images
    device = next(iter(generator.parameters())).device
    with torch.no_grad():
        return generator.synthesis(images.to(device))


def _check_timesteps(prior: DiffusionPrior, timesteps: Sequence[int] | None) -> list[int]:
    if timesteps is None:
        usual = default_timesteps(prior.num_train_timesteps)
        return [t for t in usual if t < prior.schedule.with_signal]
    try:
        given = torch.as_tensor(timesteps).flatten().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"timesteps must be integers, got {timesteps!r}") from error
    if len(given) == 0:
        raise ValueError("timesteps is empty; give at least one, or None for the default")
    timesteps = prior.timesteps_tensor(given, len(given)).tolist()
    prior.schedule.check_signal(given)
    if len(set(timesteps)) != len(timesteps):
        raise ValueError(f"timesteps must be distinct, got {sorted(timesteps)}")
    return sorted(timesteps)


def _check_inputs(
    images: Tensor,
    generator: Any,
    noise_draws: int,
    batch_size: int,
    seed: int,
    config: GuidanceConfig,
) -> None:
    what, ndim = ("images", 4) if generator is None else ("W+ latents", 3)
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise TypeError(f"{what} must be a floating-point tensor, got {type(images).__name__}")
    if images.ndim != ndim or len(images) == 0:
        expected = "[N, 3, H, W]" if generator is None else "[N, num_layers, w_dim]"
        hint = "; pass generator= to give W+ latents" if generator is None else ""
        raise ValueError(f"{what} must be {expected} with N ≥ 1, got {tuple(images.shape)}{hint}")
    bad = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"{what} {bad[:4]} contain NaN or infinity")
    if generator is None:
        check_range(float(images.abs().max()))
    check_count("noise_draws", noise_draws)
    check_count("batch_size", batch_size)
    check_seed(seed)
    if config.noise == "zero" and noise_draws > 1:
        raise ValueError("with noise='zero' all draws are equal; use noise_draws=1")


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def _check_finite(
    statistics: Tensor, timesteps: list[int], start: int, embeds: PromptEmbeds
) -> None:
    bad = (~statistics.isfinite().all(0)).nonzero()
    if len(bad):
        image, t = start + int(bad[0, 0]), timesteps[int(bad[0, 1])]
        raise FloatingPointError(
            f"the gradient for {embeds.prompts} is NaN or infinite at timestep {t} for image "
            f"{image} ({len(bad)} such pairs in this batch). In half precision load the prior "
            "with dtype=torch.float32, or lower guidance_scale"
        )
