"""What a distillation is asked for: taken apart by prompts, checked before any work, and told so
that a resumed one can compare."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..captured import check_graphs
from ..checks import check_distinct
from ..files import PathLike, settled
from ..fingerprint import fingerprint
from ..manipulator import (
    MapperInfo,
    check_generator,
    check_mapper,
    config_of,
    try_generator,
    try_network,
)
from ..memory import check_images, training_sizes
from ..models.stylegan2 import StyleGAN2
from ..out_of_memory import Sizes
from ..shield import differentiable
from ..teacher.compiled import check_compiler
from ..teacher.parts import teacher_fingerprint
from ..teacher.precision import settings_that_matter
from ..teacher.prior import DiffusionPrior
from ..teacher.text import check_prompt
from ..teacher.vae_encoder import check_range
from .config import LATER, ONLY_SHOWN, DistillConfig
from .objective import Embedding, Learner
from .trackers import Tracker, trackers_of

Monitor = Callable[[nn.Module, float], dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """What is asked for one prompt; see `distill`."""

    prompt: str
    timesteps: Sequence[int]
    mapper: nn.Module | None
    config: DistillConfig
    run_dir: PathLike | None
    monitor: Monitor | None
    levels: Sequence[str] | None
    trackers: Sequence[Tracker]


def take_apart(
    prompt: str | Sequence[str],
    timesteps: Any,
    mapper: Any,
    config: Any,
    run_dir: Any,
    monitor: Any,
    levels: Any,
    tracker: Any,
) -> list[Asked]:
    """Return what is asked for each prompt of arguments that are for one, for all or for each.

    Raises:
        ValueError: no prompts, the same one twice, a list of another length, or settings that
            prompts cannot have apart.
    """
    config = DistillConfig() if config is None else config
    if isinstance(prompt, str):
        (trackers,) = trackers_of(tracker, 1, run_dir is not None)
        return [Asked(prompt, timesteps, mapper, config, run_dir, monitor, levels, trackers)]
    prompts = list(prompt)
    if not prompts:
        raise ValueError("there are no prompts: []; give one or more")
    for text in prompts:
        check_prompt(text)
    check_distinct(prompts)

    def each(name: str, value: Any, for_all: bool = False) -> list[Any]:
        if value is None or for_all:
            return [value] * len(prompts)
        if not isinstance(value, list | tuple) or len(value) != len(prompts):
            raise ValueError(
                f"of several prompts, {name} must be a list of one for each of the {len(prompts)}, "
                f"got {value!r:.200}"
            )
        return list(value)

    flat = isinstance(timesteps, Tensor) or not any(hasattr(t, "__len__") for t in timesteps)
    words = levels is not None and any(isinstance(level, str) for level in levels)
    configs = each("config", config, isinstance(config, DistillConfig))
    if len({_shared(one) for one in configs}) > 1:
        raise ValueError(
            "prompts that are trained together may differ in their guidance scale and "
            f"guidance_rms, not in other settings: {configs}"
        )
    places = each("run_dir", run_dir)
    if None not in places and len({settled(place) for place in places}) < len(places):
        raise ValueError(f"every prompt needs a run_dir of its own, got {places}")
    monitors = each("monitor", monitor)
    for text, one in zip(prompts, monitors, strict=True):
        measured = getattr(one, "prompt", text)
        if measured != text and measured in prompts:
            raise ValueError(
                f"the monitor of {text!r} is that of {measured!r}: give them in the order of the "
                "prompts"
            )
    columns = (
        each("timesteps", timesteps, flat), each("mapper", mapper), configs, places,
        monitors, each("levels", levels, words),
        trackers_of(tracker, len(prompts), None not in places),
    )  # fmt: skip
    return [Asked(*row) for row in zip(prompts, *columns, strict=True)]


def _shared(config: DistillConfig) -> str:
    """What the settings of prompts that are trained together have in common, as text."""
    guidance = config.guidance and replace(config.guidance, guidance_scale=1.0)
    return repr(replace(config, guidance=guidance, guidance_rms=None))


def request_of(
    info: MapperInfo,
    config: DistillConfig,
    mapper: nn.Module,
    identity: Embedding | None,
    w_plus: Tensor,
    generator: Any,
    prior: DiffusionPrior,
) -> dict[str, Any]:
    """Return all that determines the result: a resumed run may log and save at other steps."""
    settings = asdict(config)
    for name in ONLY_SHOWN:
        # What ends a training early is what is measured.
        if name != "monitor_every" or config.stop_early is None:
            del settings[name]
    for name, value in LATER.items():
        if settings[name] == value:
            del settings[name]
    if config.guidance is not None and config.guidance.residual_rms is None:
        del settings["guidance"]["residual_rms"]
    data = w_plus.detach().cpu().contiguous().numpy().tobytes()
    request = {
        **asdict(info),
        "config": settings,
        "mapper": [type(mapper).__name__, config_of(mapper)],
        "identity": identity is not None,
        "latents": [list(w_plus.shape), hashlib.blake2b(data, digest_size=8).hexdigest()],
        "networks": {
            "generator": fingerprint(generator),
            "identity": fingerprint(identity),
            **teacher_fingerprint(prior),
        },
    }
    return request | settings_that_matter(prior)


def check_data(
    generator: Any, w_plus: Tensor, asked: Sequence[Asked], identity: Embedding | None
) -> Tensor:
    """Return the training data where it is rendered.

    Raises:
        ValueError: data, mappers, generator and identity network do not fit one another.
    """
    mapper, batch_size = asked[0].mapper, asked[0].config.batch_size
    if generator is None:
        if mapper is None:
            raise ValueError("without a generator, give the image manipulator as mapper")
        if w_plus.ndim != 4 or w_plus.shape[1] != 3 or len(w_plus) == 0:
            raise ValueError(
                "without a generator the training data must be images [N, 3, R, R], got "
                f"{list(w_plus.shape)}"
            )
        check_range(float(w_plus.detach().abs().max()))
        size = (w_plus.shape[-2], w_plus.shape[-1])
        data = w_plus.detach().to(next(mapper.parameters()).device)
    else:
        check_generator(generator)
        wanted = (generator.num_layers, generator.w_dim)
        if w_plus.ndim != 3 or w_plus.shape[1:] != wanted or len(w_plus) == 0:
            raise ValueError(
                f"w_plus must be [N, {wanted[0]}, {wanted[1]}] for this generator, with N ≥ 1, "
                f"got {list(w_plus.shape)}"
            )
        size = generator.image_size
        like = next(generator.parameters())
        data = w_plus.detach().to(like.device, like.dtype)
        if not isinstance(generator, StyleGAN2):
            try_generator(generator, data[:1])
        for one in asked:
            if one.mapper is not None:
                check_mapper(one.mapper, MapperInfo(one.prompt), generator)
    check_images(batch_size, size, f"batch_size={batch_size:,}", data.device)
    if identity is not None:
        try_network("identity network", identity, data.new_zeros(1, 3, *size))
    if not bool(torch.isfinite(data).all()):
        raise ValueError("the training latents hold NaN or infinity")
    return differentiable(data)


def check_execution(config: DistillConfig, device: torch.device) -> None:
    """Raise ValueError unless steps can be made here as the settings ask."""
    if config.compile:
        check_compiler(str(config.compile), device)
    if config.cuda_graph:
        check_graphs(device)


def sizes_of(
    prior: DiffusionPrior,
    generator: Any,
    data: Tensor,  # [N, num_layers, w_dim], or images [N, 3, R, R]
    learners: Sequence[Learner],
    config: DistillConfig,
    identity: Embedding | None,
) -> Sizes:
    """Return how much a step of prompts that are trained together takes at once.

    Raises:
        ValueError: the memory budget is too small, or more than the device has.
    """
    return training_sizes(
        prior,
        generator,
        (data.shape[-2], data.shape[-1]) if generator is None else generator.image_size,
        config.batch_size,
        len(learners),
        memory_budget=config.memory_budget,
        embeds=learners[0].embeds,
        identity=identity if config.identity_weight > 0 else None,
        mappers=[learner.mapper for learner in learners],
        jacobian=learners[0].guidance.jacobian,
    )


def check_timesteps(
    prior: DiffusionPrior, timesteps: Sequence[int], config: DistillConfig
) -> Tensor:
    """Return the timesteps to train at, int64 [|S|], on the CPU."""
    listed = [timesteps] if isinstance(timesteps, int) else list(timesteps)
    if not listed:
        raise ValueError(
            "no timesteps to train with: the selection is empty. Lower the threshold ξ, or use "
            "the largest HQS"
        )
    # The prior's own checks, and their messages.
    chosen = prior.timesteps_tensor(sorted(set(listed)), len(set(listed))).cpu()
    prior.schedule.check_signal(chosen)
    if config.prior_weight > 0:
        try:
            prior.timesteps_tensor(config.prior_timesteps, 2)
            prior.schedule.check_signal(config.prior_timesteps)
        except ValueError as error:
            raise ValueError(
                f"prior_timesteps = {config.prior_timesteps}: {error}; give others, or "
                "prior_weight=0 to do without"
            ) from error
    return chosen
