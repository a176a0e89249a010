"""Distillation (Sec. 4.1, Alg. 1): train a mapper under the guidance of a diffusion model.

    repeat   w ~ data, t ~ S, ε ~ N(0, I)
             step φ along the gradient of the loss in `objective`
    until    the budget is spent

Only the mapper's weights get a gradient; teacher, generator and identity network stay frozen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..files import PathLike
from ..fingerprint import fingerprint
from ..gradients.balance import balanced_guidance_scale
from ..gradients.config import GUIDANCE_RMS, GuidanceConfig
from ..lock import locked
from ..manipulator import (
    LatentGenerator,
    MapperInfo,
    check_generator,
    config_of,
    float32_layers,
    frozen,
    try_generator,
    try_network,
)
from ..memory import check_images, rendering_batch
from ..models.mapper import LEVELS
from ..models.stylegan2 import StyleGAN2
from ..progress import Listener
from ..run_folder import RunFolder
from ..shield import check_differentiable, differentiable, shielded
from ..teacher.prior import DiffusionPrior
from ..teacher.text import PromptEmbeds, warn_of_unknown_words
from ..teacher.vae_encoder import check_range
from ..training_loop import Schedule, begin, train
from ..training_state import TrainingState
from .config import DistillConfig
from .default_mapper import DefaultMapper, check_names, new_mapper
from .monitor import EditMonitor
from .objective import Embedding, Objective

if TYPE_CHECKING:
    from typing_extensions import Unpack

Monitor = Callable[[nn.Module, float], dict[str, Any]]


@dataclass(frozen=True)
class DistillResult:
    """The result of `distill`.

    Args:
        mapper: trained, in eval mode, without gradients.
        history: one dict per `log_every` steps, see `distill`.
        info: prompt, λ, levels, timesteps and domain, as stored with the mapper.
        config: as used: a balanced guidance scale is filled in.
        seconds: training time, over all sittings.
    """

    mapper: nn.Module
    history: list[dict[str, Any]]
    info: MapperInfo
    config: DistillConfig
    seconds: float


@shielded()
def distill(
    prior: DiffusionPrior,
    generator: LatentGenerator | None,
    w_plus: Tensor,
    prompt: str,
    timesteps: Sequence[int],
    *,
    mapper: nn.Module | None = None,
    identity: Embedding | None = None,
    config: DistillConfig | None = None,
    run_dir: PathLike | None = None,
    resume: bool = True,
    held_out: Tensor | None = None,
    monitor: Monitor | None = None,
    domain: str = "",
    progress: bool | Listener = True,
    **default_mapper: Unpack[DefaultMapper],
) -> DistillResult:
    """Train a mapper so that edited images fit `prompt` (Alg. 1).

    Args:
        prior: the teacher.
        generator: a `LatentGenerator`; or None, if the manipulator works on images. Then `w_plus`
            are images [N, 3, R, R] in [-1, 1] and `mapper`, any module, returns the edited images.
        w_plus: [N, num_layers, w_dim], N ≥ 1, the training latents.
        prompt: non-empty text γ; words that the teacher was never taught are warned of.
        timesteps: the set S, each in 0 … T − 1; every sample draws its own, uniformly.
        mapper: what is trained, in place: a `LevelsMapper`, a `StyleSpaceMapper` or any module
            that returns a change of W+. Default: a `LevelsMapper` that starts as no change, with
            `levels` (default: all that the generator has) in units of `w_std` ([num_layers or 1,
            w_dim], the standard deviation of W+ over the domain; default: that of `w_plus`), both
            given as further keyword arguments.
        identity: images → embeddings [B, D], such as a face recognition network.
        run_dir: where to keep checkpoints, history and the mapper (see `run_folder`). If it holds
            a checkpoint of the same run, training resumes there, to the same result, bit for bit,
            as an uninterrupted run (on the same device and versions). A finished run is returned.
        resume: False starts over; what `run_dir` holds is kept until it can be replaced.
        held_out: [M, num_layers, w_dim] latents to measure the edit on, but for its direction.
        monitor: what measures it instead: (mapper, λ) → dict, such as `domain.monitor(prompt)`.
        domain: name stored with the mapper.
        progress: True: show it; False: do not; or a function that gets every `Progress`.

    Returns:
        The mapper and its history. Each history entry holds "step" (completed steps), "lr",
        "seconds", and means since the last one of "residual" (root mean square of r), "gradient"
        (norm over the mapper's weights) and the unweighted regularizers "l2", "identity_loss",
        "range", "keep" in use; every `monitor_every` steps and at the end also the monitor's.

    Raises:
        ValueError: a wrong shape, an empty prompt, a timestep out of range or without signal, or a
            `run_dir` that holds a run with other settings.
        BlockingIOError: another process works in `run_dir`.
        FloatingPointError: a loss or gradient is NaN or infinite; the last checkpoint remains.
        KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP. The step is completed and a checkpoint
            written first; a second one does not wait.
    """
    check_names(default_mapper)
    config = config or DistillConfig()
    check_differentiable(generator=generator, mapper=mapper, identity=identity, teacher=prior.unet)
    w_plus, chosen = _check_inputs(prior, generator, w_plus, timesteps, mapper, identity, config)
    embeds = prior.encode_prompt(prompt)
    unknown = warn_of_unknown_words(prior, prompt)
    if mapper is None:
        mapper = new_mapper(generator, w_plus, config.seed, **default_mapper)
    state = begin(mapper, betas=config.betas, weight_decay=config.weight_decay)
    info = MapperInfo(
        prompt=prompt,
        lam=config.lam,
        levels=tuple(getattr(mapper, "levels", LEVELS)),
        timesteps=tuple(chosen.tolist()),
        domain=domain,
    )
    if monitor is None and held_out is not None:
        monitor = _monitor(generator, held_out, prompt, identity, mapper, unknown)
    with locked(run_dir) if run_dir is not None else nullcontext():
        folder = None
        if run_dir is not None:
            request = _request(info, config, mapper, identity, w_plus, generator, prior)
            folder = RunFolder(run_dir, request, info, config.steps, resume)
        if config.guidance is None:
            balanced = _balanced(prior, generator, w_plus, embeds, chosen, config, folder)
            config = replace(config, guidance=balanced)
        if folder and folder.finished:
            state.history = folder.load_finished(mapper)
            state.seconds = state.history[-1].get("seconds", 0.0)
        else:
            if folder:
                folder.begin({**asdict(info), "distill": asdict(config)}, state)
            objective = Objective(
                prior, generator, w_plus, embeds, chosen, mapper, identity, config
            )
            earlier = state.step
            with frozen(generator, identity), float32_layers(generator):
                _train(objective, state, folder, monitor, progress)
            if folder:
                folder.finish(mapper, trained=state.step > earlier)
    mapper.eval()
    return DistillResult(mapper, state.history, info, config, state.seconds)


def _monitor(
    generator: Any,
    held_out: Tensor,  # [M, num_layers, w_dim]
    prompt: str,
    identity: Embedding | None,
    mapper: nn.Module,
    unknown: Sequence[str],
) -> EditMonitor:
    if generator is None:
        raise ValueError("held_out needs a generator; for images give a monitor of your own")
    return EditMonitor(
        generator,
        held_out,
        prompt=prompt,
        identity=identity,
        w_std=getattr(mapper, "scale", None),
        unknown_words=unknown,
    )


def _request(
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
    for name in ("log_every", "monitor_every", "checkpoint_every"):
        del settings[name]
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
            "teacher": fingerprint(prior.unet, prior.vae, prior.text_encoder),
            "schedule": fingerprint(prior.alphas_cumprod),
            "prediction_type": prior.prediction_type,
            "scaling_factor": float(prior.vae.config.scaling_factor),
        },
    }
    if prior.dtype != torch.float32:
        request["teacher"] = str(prior.dtype)
    return request


def _train(
    objective: Objective,
    state: TrainingState,
    folder: RunFolder | None,
    monitor: Monitor | None,
    progress: bool | Listener,
) -> None:
    config, mapper = objective.config, objective.mapper
    schedule = Schedule(
        config.steps,
        config.lr_at,
        log_every=config.log_every,
        measure_every=config.monitor_every,
        save_every=config.checkpoint_every,
    )
    guidance_scale = (config.guidance or GuidanceConfig()).guidance_scale
    train(
        state,
        objective.loss,
        schedule,
        _shorten(objective.embeds.prompts),
        store=folder,
        measure=None if monitor is None else partial(monitor, mapper, config.lam),
        text=_figures,
        advice="Check that the latents and generator are finite; then try a lower lr "
        f"({config.lr:g} now), a lower guidance_scale ({guidance_scale:g} now), "
        "or a prior of dtype float32",
        progress=progress,
    )


def _figures(entry: dict[str, Any]) -> str:
    # No verdict: of an edit that is not finished there is none.
    if "edit_size" not in entry:
        return f"residual {entry['residual']:.3g}"
    direction = f", direction {entry['direction']:+.2f}" if "direction" in entry else ""
    return f"edit size {entry['edit_size']:.1%}{direction}"


def _shorten(prompts: Sequence[str], width: int = 32) -> str:
    text = ", ".join(prompts)
    return text if len(text) <= width else text[: width - 1] + "…"


def _balanced(
    prior: DiffusionPrior,
    generator: Any,
    w_plus: Tensor,
    embeds: PromptEmbeds,
    timesteps: Tensor,
    config: DistillConfig,
    folder: RunFolder | None,
) -> GuidanceConfig:
    if folder and folder.finished and (known := folder.balanced_guidance()):
        return known
    some = w_plus[: _balanced_on(prior)]
    if generator is None:
        images = some
    else:
        chunks = some.split(rendering_batch(generator))
        with torch.no_grad():
            images = torch.cat([generator.synthesis(chunk) for chunk in chunks])
    scale = balanced_guidance_scale(
        prior,
        images,
        embeds,
        timesteps.tolist(),
        guidance_rms=config.guidance_rms or GUIDANCE_RMS,
        seed=config.seed,
    )
    return GuidanceConfig(guidance_scale=scale)


def _balanced_on(prior: DiffusionPrior) -> int:
    """Return on how many latents g is balanced: fewer for a teacher of large images.

    Each costs a forward pass of generator and VAE and two rows of the U-Net. With 32, not 64, g has
    a standard error of 7 to 16 % instead of 4 to 9 % (over six prompts of faces64); edits distilled
    with 0.7 and 1.4 times g showed their target as often and kept the rest as well.
    """
    return 64 if prior.resolution <= 256 else 32


def _check_inputs(
    prior: DiffusionPrior,
    generator: Any,
    w_plus: Tensor,
    timesteps: Sequence[int],
    mapper: nn.Module | None,
    identity: Embedding | None,
    config: DistillConfig,
) -> tuple[Tensor, Tensor]:
    """Return the training data where it is rendered, and the timesteps, int64 [|S|], on the CPU."""
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
    check_images(config.batch_size, size, f"batch_size={config.batch_size:,}", data.device)
    if identity is not None:
        try_network("identity network", identity, data.new_zeros(1, 3, *size))
    if not bool(torch.isfinite(data).all()):
        raise ValueError("the training latents hold NaN or infinity")
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
    return differentiable(data), chosen
