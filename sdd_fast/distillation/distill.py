"""Distillation (Sec. 4.1, Alg. 1): train a mapper under the guidance of a diffusion model.

    repeat   w ~ data, t ~ S, ε ~ N(0, I)
             step φ along the gradient of the loss in `objective`
    until    the budget is spent

Only the mapper's weights get a gradient; teacher, generator and identity network stay frozen.
Several prompts are trained together, each as if it were alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor, nn

from ..checks import raise_all
from ..files import PathLike, os_error_text
from ..gradients.balance import balanced_guidance_scale, images_to_balance_on
from ..gradients.config import GUIDANCE_RMS, GuidanceConfig
from ..lock import locked
from ..manipulator import LatentGenerator, MapperInfo, float32_layers, frozen
from ..memory import ENCODED_AT_ONCE
from ..models.mapper import LEVELS
from ..out_of_memory import Sizes
from ..progress import Listener
from ..run_folder import RunFolder
from ..shield import check_differentiable, shielded
from ..teacher.compiled import compiled
from ..teacher.prior import DiffusionPrior
from ..teacher.text import PromptEmbeds, split_prompts, warn_of_unknown_words
from ..training_loop import train_together
from ..training_setup import Schedule, Training
from ..training_state import TrainingState, begin
from .config import DistillConfig
from .default_mapper import DefaultMapper, check_names, new_mapper
from .generator_dtype import choose_generator_dtype, in_dtype
from .monitor import check_figure, monitor_of
from .objective import Embedding, Learner, Objective
from .request import (
    Asked,
    Monitor,
    check_data,
    check_execution,
    check_timesteps,
    request_of,
    sizes_of,
    take_apart,
)
from .result import DistillResult, check_failures, figures_of, shorten
from .trackers import Tracker, Tracking, sampler

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass
class _Run:
    """One prompt on its way to a mapper."""

    learner: Learner
    info: MapperInfo
    config: DistillConfig
    state: TrainingState
    trackers: Sequence[Tracker] = ()
    monitor: Monitor | None = None
    folder: RunFolder | None = None
    failure: str = ""

    @property
    def mapper(self) -> nn.Module:
        return self.learner.mapper

    @property
    def measured(self) -> nn.Module:
        """What is measured and becomes the result: the mapper, or its moving average."""
        return self.mapper if self.state.average is None else self.state.average

    @property
    def finished(self) -> bool:
        """Whether an earlier sitting left nothing to train."""
        return self.folder is not None and self.folder.finished


@overload
def distill(
    prior: DiffusionPrior,
    generator: LatentGenerator | None,
    w_plus: Tensor,
    prompt: str,
    timesteps: Sequence[int],
    **settings: Any,
) -> DistillResult: ...


@overload
def distill(
    prior: DiffusionPrior,
    generator: LatentGenerator | None,
    w_plus: Tensor,
    prompt: Sequence[str],
    timesteps: Sequence[int] | Sequence[Sequence[int]],
    **settings: Any,
) -> list[DistillResult]: ...


@shielded()  # type: ignore[misc]  # the settings stand here only
def distill(
    prior: DiffusionPrior,
    generator: LatentGenerator | None,
    w_plus: Tensor,
    prompt: str | Sequence[str],
    timesteps: Sequence[int] | Sequence[Sequence[int]],
    *,
    mapper: nn.Module | Sequence[nn.Module] | None = None,
    identity: Embedding | None = None,
    config: DistillConfig | Sequence[DistillConfig] | None = None,
    run_dir: PathLike | Sequence[PathLike] | None = None,
    resume: bool = True,
    held_out: Tensor | None = None,
    monitor: Monitor | Sequence[Monitor] | None = None,
    domain: str = "",
    tracker: Tracker | Sequence[Any] | None = None,
    progress: bool | Listener = True,
    **default_mapper: Unpack[DefaultMapper],
) -> DistillResult | list[DistillResult]:
    """Train a mapper so that edited images fit `prompt` (Alg. 1); of several prompts, one each.

    Prompts that are trained together share latents, noise, unedited images and every call of the
    networks. Each of them gets what it gets alone, up to rounding, in files from which it can be
    resumed alone, or with others.

    Args:
        prior: the teacher.
        generator: a `LatentGenerator`; or None, if the manipulator works on images. Then `w_plus`
            are images [N, 3, R, R] in [-1, 1] and `mapper`, any module, returns the edited images.
        w_plus: [N, num_layers, w_dim], N ≥ 1, the training latents.
        prompt: non-empty text γ, or several that differ; words that the teacher was never taught
            are warned of. Of several, `timesteps` and `config` are one for all or a list of one for
            each, `mapper`, `run_dir` and `monitor` lists. Their configs may differ in the guidance
            scale and `guidance_rms`.
        timesteps: the set S, each in 0 … T − 1; every sample draws its own, uniformly.
        mapper: what is trained, in place: a `LevelsMapper`, a `StyleSpaceMapper` or any module
            that returns a change of W+. Default: a `LevelsMapper` that starts as no change, with
            `levels` (default: all that the generator has; of several prompts, for all or a list for
            each) in units of `w_std` ([num_layers or 1, w_dim], the standard deviation of W+ over
            the domain; default: that of `w_plus`), both given as further keyword arguments.
        identity: images → embeddings [B, D], such as a face recognition network.
        run_dir: where to keep checkpoints, history and the mapper (see `run_folder`). If it holds
            a checkpoint of the same run, training resumes there, to the same result, bit for bit,
            as an uninterrupted run (on the same device and versions). A finished run is returned.
        resume: False starts over; what `run_dir` holds is kept until it can be replaced.
        held_out: [M, num_layers, w_dim] latents to measure the edit on, but for its direction.
        monitor: what measures it instead: (mapper, λ) → dict, such as `domain.monitor(prompt)`.
        domain: name stored with the mapper.
        tracker: what is told of the training meanwhile: "tensorboard" (into `run_dir`), "wandb" …,
            a `GeneralTracker` of accelerate that has not started, or a list, see `trackers_of`.
        progress: True: show it; False: do not; or a function that gets every `Progress`.

    Returns:
        The mapper and its history; of several prompts, a list in their order. A history entry holds
        "step" (completed steps), "lr", "seconds", apart from these "compile_seconds", and means
        since the last one of "residual" (root mean square of r), "gradient" (norm over the mapper's
        weights) and the unweighted regularizers "l2", "identity_loss", "range", "keep" in use;
        every `monitor_every` steps and at the end also the monitor's; where the training is to end
        early, after how many steps, "ends_at", and by which rule, "plateau".

    Raises:
        ValueError: a wrong shape, an empty prompt, a timestep out of range or without signal, a
            mapper of another generator, too small a memory budget, or a `run_dir` that holds a run
            with other settings.
        MemoryError: not even the smallest pieces fit.
        BlockingIOError: another process works in `run_dir`.
        FloatingPointError: a loss or gradient is NaN or infinite; the last checkpoint remains. Of
            several prompts `PromptsFailed`, after the others are finished; also if a mapper,
            monitor or folder of one raises an error.
        KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP; the step is completed and saved first.
    """
    check_names(default_mapper)
    check_differentiable(generator=generator, identity=identity, teacher=prior.unet)
    levels = default_mapper.pop("levels", None)
    asked = take_apart(prompt, timesteps, mapper, config, run_dir, monitor, levels, tracker)
    data = check_data(generator, w_plus, asked, identity)
    dtype = choose_generator_dtype(generator, data, asked[0].config.generator_dtype)
    asked = [replace(one, config=replace(one.config, generator_dtype=dtype)) for one in asked]
    embeds = split_prompts(prior.encode_prompt([one.prompt for one in asked]))
    runs = [
        _begin(prior, generator, data, one, its, domain, default_mapper)
        for one, its in zip(asked, embeds, strict=True)
    ]
    with ExitStack() as locks:
        for run, one in zip(runs, asked, strict=True):
            unknown = warn_of_unknown_words(prior, one.prompt)
            run.monitor = one.monitor or monitor_of(
                generator, held_out, run.mapper, one.prompt, identity, unknown
            )
        _open_folders(runs, asked, locks, resume, (identity, data, generator, prior))
        left, sizes = [run for run in runs if not run.finished], None
        if left:
            learners, config = [run.learner for run in left], left[0].config
            check_execution(config, prior.device)
            sizes = sizes_of(prior, generator, data, learners, config, identity)
        _balance(prior, generator, data, runs, sizes)
        _train(left, prior, generator, data, identity, sizes, progress)
        return _results(runs, alone=isinstance(prompt, str))


def _begin(
    prior: DiffusionPrior,
    generator: Any,
    data: Tensor,  # [N, num_layers, w_dim]
    asked: Asked,
    embeds: PromptEmbeds,
    domain: str,
    default_mapper: DefaultMapper,
) -> _Run:
    config, mapper = asked.config, asked.mapper
    timesteps = check_timesteps(prior, asked.timesteps, config)
    check_differentiable(mapper=mapper)
    if mapper is None:
        w_std = default_mapper.get("w_std")
        mapper = new_mapper(generator, data, config.seed, asked.levels, w_std)
    state = begin(
        mapper, betas=config.betas, weight_decay=config.weight_decay, average=config.ema > 0
    )
    info = MapperInfo(
        prompt=asked.prompt,
        lam=config.lam,
        levels=tuple(getattr(mapper, "levels", LEVELS)),
        timesteps=tuple(timesteps.tolist()),
        domain=domain,
    )
    learner = Learner(mapper, embeds, timesteps, config.guidance or GuidanceConfig())
    return _Run(learner, info, config, state, asked.trackers)


def _open_folders(
    runs: Sequence[_Run],
    asked: Sequence[Asked],
    locks: ExitStack,
    resume: bool,
    given: tuple[Any, ...],
) -> None:
    """Lock the folders of all runs, and refuse at once what is not to be continued in any."""
    problems = []
    for run, one in zip(runs, asked, strict=True):
        if one.run_dir is None:
            continue
        locks.enter_context(locked(one.run_dir))
        request = request_of(run.info, run.config, run.mapper, *given)
        try:
            run.folder = RunFolder(one.run_dir, request, run.info, run.config.steps, resume)
        except ValueError as error:
            problems.append(error)
    raise_all(problems)


def _balance(
    prior: DiffusionPrior,
    generator: Any,
    data: Tensor,  # [N, num_layers, w_dim]
    runs: Sequence[_Run],
    sizes: Sizes | None,
) -> None:
    """Fill in the guidance of those that were given none."""
    images, at_once = None, ENCODED_AT_ONCE
    if sizes is not None and runs[0].config.memory_budget is not None:
        at_once = max(1, min(at_once, sizes.images, sizes.rows // 2))
    for run in runs:
        config = run.config
        if config.guidance is not None:
            continue
        guidance = run.folder.balanced_guidance() if run.folder and run.finished else None
        if guidance is None:
            images = images_to_balance_on(prior, generator, data) if images is None else images
            scale = balanced_guidance_scale(
                prior,
                images,
                run.learner.embeds,
                run.learner.timesteps.tolist(),
                guidance_rms=config.guidance_rms or GUIDANCE_RMS,
                seed=config.seed,
                at_once=at_once,
            )
            guidance = GuidanceConfig(guidance_scale=scale)
        run.config = replace(config, guidance=guidance)
        run.learner = replace(run.learner, guidance=guidance)


def _train(
    runs: Sequence[_Run],
    prior: DiffusionPrior,
    generator: Any,
    data: Tensor,  # [N, num_layers, w_dim]
    identity: Embedding | None,
    sizes: Sizes | None,
    progress: bool | Listener,
) -> None:
    """Train what is not finished, and write the mappers of those that did not fail."""
    if not runs:
        return
    config = runs[0].config
    told = [
        Tracking(
            run.trackers, run.state, {**asdict(run.info), **asdict(run.config)}, run.folder,
            sampler(run.monitor, run.measured, run.config, run.trackers, run.folder),
        )
        for run in runs
    ]  # fmt: skip
    for run in runs:
        if run.config.stop_early is not None:
            check_figure(run.config.stop_early.figure, run.monitor, run.mapper, run.config.lam)
        if run.folder:
            run.folder.begin({**asdict(run.info), "distill": asdict(run.config)}, run.state)
    rendering = in_dtype(generator, config.generator_dtype)
    learners = [run.learner for run in runs]
    objective = Objective(prior, rendering, data, learners, identity, config, sizes)
    schedule = Schedule(
        config.steps,
        config.lr_at,
        ema=config.ema,
        log_every=config.log_every,
        measure_every=config.monitor_every,
        save_every=config.checkpoint_every,
        stop=config.stops,
    )
    trainings = [
        _training(run, partial(objective.explain, i), told[i]) for i, run in enumerate(runs)
    ]
    earlier = [run.state.step for run in runs]
    backend = str(config.compile)
    through_compile = compiled(prior.unet, backend) if config.compile else nullcontext()
    with ExitStack() as open_logs, frozen(generator, identity), float32_layers(generator):
        for one in told:
            open_logs.enter_context(one)
        unet = open_logs.enter_context(through_compile)
        train_together(
            trainings,
            objective.parts,
            schedule,
            compiling=unet.take_seconds if unet else None,
            text=figures_of,
            progress=progress,
            take_less=objective.take_less,
        )
    for run, training, step in zip(runs, trainings, earlier, strict=True):
        run.failure = training.failure
        if run.failure:
            continue
        if run.state.average is not None:
            run.mapper.load_state_dict(run.state.average.state_dict())
        if run.folder:
            try:
                run.folder.finish(run.mapper, trained=run.state.step > step)
            except OSError as error:
                if len(runs) == 1:
                    raise
                run.failure = (
                    f"training {training.name}: its mapper could not be written, "
                    f"{os_error_text(error)}; the checkpoint is kept in {run.folder.path}"
                )


def _training(run: _Run, explain: Callable[[int], str], told: Tracking) -> Training:
    g = run.learner.guidance.guidance_scale
    return Training(
        run.state,
        shorten(run.info.prompt),
        run.folder,
        None if run.monitor is None else partial(run.monitor, run.measured, run.config.lam),
        "Check that the latents and generator are finite; then try a lower lr "
        f"({run.config.lr:g} now), a lower guidance_scale ({g:g} now), or a prior of dtype float32",
        explain,
        told,
    )


def _results(runs: Sequence[_Run], alone: bool) -> DistillResult | list[DistillResult]:
    """Return the results.

    Raises:
        FloatingPointError: one failed.
    """
    for run in runs:
        if run.finished and run.folder:
            run.state.history = run.folder.load_finished(run.mapper)
            run.state.seconds = run.state.history[-1].get("seconds", 0.0)
    results = [
        DistillResult(run.mapper.eval(), run.state.history, run.info, run.config, run.state.seconds)
        for run in runs
    ]
    if alone and runs[0].failure:
        raise FloatingPointError(runs[0].failure)
    check_failures(results, [run.failure for run in runs])
    return results[0] if alone else results
