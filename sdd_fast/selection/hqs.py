"""The Hybrid Quality Score: which timesteps of the teacher carry a prompt's meaning (Sec. 4.2).

For every image y and timestep t, with d_t the teacher's gradient at the image (Eq. 8):

    p_t = softmax(d_t),   H_t = −Σ p_t log p_t  (Eq. 9),   N_t = Σ |d_t|  (Eq. 10)
    HQS_t = mean over y of N̄_t − H̄_t  (Eq. 12), the bar being min-max over t  (Eq. 11)

`evaluate` computes H and N of images × timesteps × prompts, `search` says of which, `partial` keeps
them on disk, and `curve` makes scores of them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import torch
from torch import Tensor

from .._deprecated import renamed_arguments
from ..checks import check_count, check_distinct, check_seed
from ..files import PathLike, safetensors_path, settled
from ..fingerprint import fingerprint
from ..gradients.config import GuidanceConfig
from ..manipulator import LatentGenerator, check_generator
from ..memory import check_images, check_memory, selection_sizes
from ..ops.softmax_entropy_l1 import GradientMap
from ..out_of_memory import Sizes
from ..progress import Listener, Task
from ..shield import shielded
from ..teacher.parts import teacher_fingerprint
from ..teacher.precision import settings_that_matter
from ..teacher.prior import DiffusionPrior
from ..teacher.text import PromptEmbeds, split_prompts, warn_of_unknown_words
from ..teacher.vae_encoder import check_range
from .curve import NORMALIZATIONS, HQSCurve
from .evaluate import Evaluator, GradientAt, Statistics, image_noise as image_noise
from .partial import PartialCurves
from .search import Found, Search, adaptive, exhaustive

if TYPE_CHECKING:
    from typing_extensions import Unpack


def default_timesteps(num_train_timesteps: int = 1000) -> list[int]:
    """Return 50, 100 … 950 of 1000, scaled to another number of training timesteps."""
    last = num_train_timesteps - 1
    return sorted({min(round(i * num_train_timesteps / 20), last) for i in range(1, 20)})


def usual_timesteps(prior: DiffusionPrior) -> list[int]:
    """Return those of `default_timesteps` at which this teacher has a signal."""
    usual = default_timesteps(prior.num_train_timesteps)
    return [t for t in usual if t < prior.schedule.with_signal]


class AtOnce(TypedDict, total=False):
    """How much goes through the networks at once in `hqs`; changes results by rounding only.

    Args:
        batch_size: images per VAE graph, and half the rows per U-Net call; or both, as
            `memory.selection_sizes` gives them. None: what fits the memory.
        memory_budget: for everything in the device's memory, such as "22GiB", "22GB" or a number of
            bytes. None: for a card of 24 GB. Where memory runs out, less is taken, with a warning.
    """

    batch_size: int | Sizes | None
    memory_budget: int | float | str | None


@overload
def hqs(
    prior: DiffusionPrior,
    images: Tensor,
    prompt: str | PromptEmbeds,
    timesteps: Sequence[int] | None = None,
    **settings: Any,
) -> HQSCurve: ...


@overload
def hqs(
    prior: DiffusionPrior,
    images: Tensor,
    prompt: Sequence[str | PromptEmbeds],
    timesteps: Sequence[int] | None = None,
    **settings: Any,
) -> list[HQSCurve]: ...


@renamed_arguments(normalise="normalize")  # type: ignore[misc]  # the settings stand here only
@shielded()
def hqs(
    prior: DiffusionPrior,
    images: Tensor,
    prompt: str | PromptEmbeds | Sequence[str | PromptEmbeds],
    timesteps: Sequence[int] | None = None,
    *,
    generator: LatentGenerator | None = None,
    config: GuidanceConfig | Sequence[GuidanceConfig] | None = None,
    gradient_map: GradientMap = "signed",
    gradient_at: GradientAt = "image",
    normalize: Literal["per-image", "of-mean"] = "per-image",
    noise_draws: int = 1,
    seed: int = 0,
    search: Search = "exhaustive",
    progress: bool | Listener = True,
    partial: PathLike | Sequence[PathLike] | None = None,
    **at_once: Unpack[AtOnce],
) -> HQSCurve | list[HQSCurve]:
    """Compute the HQS curve of a prompt, or those of several together, which share most work.

    Every timestep and prompt sees the same noise for an image (common random numbers), a function
    of (seed, image index, draw) only: neither of sizes nor of other images, timesteps and prompts.

    Args:
        images: [N, 3, H, W] floating point in [-1, 1]; or, with `generator`, W+ latents
            [N, num_layers, w_dim], which are rendered once each. The gradient is taken at these
            images, before the resize to the prior's resolution.
        prompt: a text, or the embeddings of one prompt: the result is its curve. A list of them:
            the result is a list of curves.
        timesteps: distinct integers in 0 … T − 1 with a signal (see `Schedule.without_signal`);
            default: those of `default_timesteps(T)` with one. The curve lists them ascending.
        generator: a `StyleGAN2` or another `LatentGenerator`.
        config: how the gradient is formed; default `GuidanceConfig()`. Or one for each prompt, that
            differ in `guidance_scale` alone.
        gradient_map: "signed" takes the softmax over all C·H·W signed elements of d (Eq. 8–9);
            "abs-mean" over the H·W means of |d| over channels (the authors' code). N_t = Σ|d| in
            both.
        gradient_at: "image" as in the paper. "latent" takes the residual r at the latent for d: an
            approximation without the VAE's backward passes.
        normalize: see `HQSCurve`.
        noise_draws: draws of ε per image; H and N are averaged over an image's draws before they
            are normalized.
        seed: non-negative.
        search: "exhaustive" evaluates every image at every timestep. "adaptive" goes from coarse to
            fine and stops when the largest HQS is settled, see `selection.search`: the curve has
            fewer timesteps, and NaN where an image was not evaluated at one.
        progress: show it, hide it, or a listener of `progress.Progress` events.
        partial: a .safetensors file to keep what is evaluated in (one for each prompt): the same
            call goes on there after an interruption, to the same result bit for bit. Delete it when
            the curve is saved.
        at_once: `batch_size` or `memory_budget`, see `AtOnce`.

    Raises:
        TypeError, ValueError: arguments, naming what was expected.
        FloatingPointError: a gradient is not finite; names prompt, timestep and image.
    """
    steps = check_timesteps(prior, timesteps)
    how = Statistics(gradient_map, gradient_at, noise_draws, seed)
    _check_inputs(images, generator, how)
    _check_choice("normalize", normalize, NORMALIZATIONS)
    _check_choice("search", search, ("exhaustive", "adaptive"))
    embeds = _prompts(prior, prompt)
    configs = _configs(config, len(embeds), how)
    sizes = _sizes(prior, images, generator, how, configs[0], embeds[0], at_once)
    for one in embeds:
        for text in one.prompts:
            warn_of_unknown_words(prior, text)
    paths = _paths(partial, len(embeds))
    teacher = teacher_fingerprint(prior) | settings_that_matter(prior) if paths else {}
    common = [asdict(how), steps, fingerprint(images, generator), teacher] if paths else []
    requests = [
        [*common, fingerprint(*_tensors(e)), e.prompts, asdict(c)]
        for e, c in zip(embeds, configs, strict=True)
    ]
    kept = PartialCurves(paths, (len(images), len(steps)), requests)
    total, there = kept.done.numel() * noise_draws, int(kept.done.sum()) * noise_draws
    with kept, Task("HQS", total, progress, unit="gradients", done=there) as task:
        evaluator = Evaluator(
            prior, images, generator, embeds, configs, steps, how, sizes, task.advance
        )
        if search == "adaptive":
            found = adaptive(evaluator, kept, normalize)
        else:
            found = exhaustive(evaluator, kept)
    curves = [
        replace(
            _curve(steps, statistics, its, normalize),
            prompt=one.prompts[0] if one.prompts else "",
            negative_prompt=one.negative_prompt,
            config=c,
            search=search,
            **asdict(how),
        )
        for one, c, statistics, its in zip(embeds, configs, kept.statistics, found, strict=True)
    ]
    return curves[0] if isinstance(prompt, str | PromptEmbeds) else curves


def _curve(timesteps: list[int], statistics: Tensor, found: Found, normalize: str) -> HQSCurve:
    """Return the curve of what was searched; statistics: entropy, L1 and deficit [3, N, T]."""
    images, steps = found.wanted.any(1), found.wanted.any(0)
    table = statistics.masked_fill(~found.wanted, math.nan)[:, images][:, :, steps]
    entropy, l1, deficit = table
    return HQSCurve(
        timesteps=tuple(t for t, keep in zip(timesteps, steps.tolist(), strict=True) if keep),
        entropy=entropy,
        deficit=deficit,
        l1=l1,
        normalize=normalize,
        confidence=found.confidence,
        candidates=len(timesteps),
    )


def _prompts(
    prior: DiffusionPrior, prompt: str | PromptEmbeds | Sequence[str | PromptEmbeds]
) -> list[PromptEmbeds]:
    """Return the embeddings of each prompt; the texts are encoded together.

    Raises:
        ValueError: there is none, or two are alike. TypeError: neither texts nor embeddings.
    """
    several: list[Any] = [prompt] if isinstance(prompt, str | PromptEmbeds) else list(prompt)
    texts = [one for one in several if isinstance(one, str)]
    for one in several:
        if not isinstance(one, str | PromptEmbeds):
            raise TypeError(f"a prompt must be a string or its embeddings, got {one!r}")
        if isinstance(one, PromptEmbeds) and len(one.cond) != 1:
            raise ValueError(
                f"expected the embeddings of one prompt, got those of {len(one.cond)}; give "
                "several prompts as a list"
            )
    if not several:
        raise ValueError("the list of prompts is empty; give at least one, e.g. 'white hair'")
    check_distinct(texts)
    encoded = iter(split_prompts(prior.encode_prompt(texts)) if texts else ())
    return [next(encoded) if isinstance(one, str) else one for one in several]


def _configs(
    config: GuidanceConfig | Sequence[GuidanceConfig] | None, count: int, how: Statistics
) -> list[GuidanceConfig]:
    """Return the config of each prompt, checked."""
    if config is None or isinstance(config, GuidanceConfig):
        configs = [config or GuidanceConfig()] * count
    else:
        configs = list(config)
    if len(configs) != count:
        raise ValueError(f"got {len(configs)} configs for {count} prompts; expected one for each")
    if len({replace(c, guidance_scale=1.0) for c in configs}) > 1:
        raise ValueError("the configs of prompts computed together differ in guidance_scale alone")
    if configs[0].noise == "zero" and how.noise_draws > 1:
        raise ValueError("with noise='zero' all draws are equal; use noise_draws=1")
    return configs


def _tensors(embeds: PromptEmbeds) -> list[Tensor]:
    every = (embeds.cond, embeds.uncond, embeds.pooled, embeds.uncond_pooled)
    return [tensor for tensor in every if tensor is not None]


def _paths(partial: PathLike | Sequence[PathLike] | None, count: int) -> list[Any] | None:
    if partial is None:
        return None
    paths = [partial] if isinstance(partial, str | os.PathLike) else list(partial)
    if len(paths) != count:
        raise ValueError(f"got {len(paths)} partial files for {count} prompts; give one for each")
    return [settled(safetensors_path(path)) for path in paths]


def _sizes(
    prior: DiffusionPrior,
    images: Tensor,
    generator: Any,
    how: Statistics,
    config: GuidanceConfig,
    embeds: PromptEmbeds,
    at_once: AtOnce,
) -> Sizes:
    """Return how much goes through the networks at once, checked against the memory there is."""
    square = (prior.resolution, prior.resolution)
    height, width = (
        images.shape[-2:] if generator is None else (getattr(generator, "image_size", square))
    )
    unknown = at_once.keys() - AtOnce.__annotations__.keys()
    if unknown:
        raise TypeError(f"hqs() has no argument {', '.join(map(repr, sorted(unknown)))}")
    batch_size, budget = at_once.get("batch_size"), at_once.get("memory_budget")
    if batch_size is not None and budget is not None:
        raise ValueError("give batch_size or memory_budget, not both")
    if batch_size is None:
        batch_size = selection_sizes(
            prior,
            (height, width),
            jacobian=config.jacobian,
            gradient_at=how.gradient_at,
            memory_budget=budget,
            embeds=embeds,
            generator=generator,
        )
    if not isinstance(batch_size, Sizes):
        check_count("batch_size", batch_size)
        batch_size = Sizes(batch_size, 2 * batch_size)
    together = min(batch_size.images, len(images))
    noise = 8.0 * together * how.noise_draws * math.prod(prior.latent_shape)
    check_memory(noise, f"noise_draws={how.noise_draws:,}", prior.device)
    if generator is None:
        check_images(together, (height, width), f"batch_size={batch_size.images:,}", prior.device)
    return batch_size


def check_timesteps(prior: DiffusionPrior, timesteps: Sequence[int] | None) -> list[int]:
    """Return the timesteps of a curve, ascending; None: the usual ones.

    Raises:
        TypeError, ValueError: none or not integers, out of range, without signal, or some twice.
    """
    if timesteps is None:
        return usual_timesteps(prior)
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


def _check_inputs(images: Tensor, generator: Any, how: Statistics) -> None:
    if generator is not None:
        check_generator(generator, needed=("synthesis", "parameters"))
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
    check_count("noise_draws", how.noise_draws)
    check_seed(how.seed)
    _check_choice("gradient_map", how.gradient_map, ("signed", "abs-mean"))
    _check_choice("gradient_at", how.gradient_at, ("image", "latent"))


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
