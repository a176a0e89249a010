"""One whole edit: select timesteps, distill a mapper, measure it, and leave a folder with a report.

    run.json         what was asked for, what came out, how long it took, on which versions
    curve.json/.png  the HQS curve (unless the timesteps were given)
    config.json, checkpoint.safetensors, history.json, mapper.safetensors   see `run_folder`
    training.png, before-after.png, report.html

The same call again continues an interrupted run. Of a finished one it does what is not done yet: it
measures and reports anew for other figures than there are, for another judge or version.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from .._deprecated import renamed_arguments
from ..checks import check_distinct, raise_all
from ..distillation.config import DistillConfig
from ..distillation.distill import distill
from ..distillation.judge import NEEDED, from_earlier
from ..distillation.monitor import EditMonitor
from ..distillation.request import check_execution
from ..distillation.result import DistillResult, PromptsFailed
from ..distillation.trackers import trackers_of
from ..files import PathLike, settled, shown, write_json
from ..lock import locked
from ..logs import logged
from ..memory import training_batch
from ..out_of_memory import ran_out
from ..progress import Listener
from ..report import wording
from ..run_folder import MAPPER_FILE, RUN_FILE, pending
from ..selection.choose import Selection
from ..selection.curve import HQSCurve
from ..shield import shielded
from ..teacher.text import warn_of_unknown_words
from ..training_state import ENDS_AT
from .finish import finish
from .job import EditRun, Job, Say
from .prepare import check, check_budget, earlier_run, slug as slug  # slug: for sdd_fast.experiment
from .record import new_record, without_nan
from .select import choose_timesteps, compute_missing, earlier_curve

if TYPE_CHECKING:
    from ..domains import Domain


_log = logged(__name__)


def default_config(**changes: Any) -> DistillConfig:
    """Return `DistillConfig` with `changes`, measured often enough for a curve of the training."""
    config = DistillConfig(**changes)
    if "monitor_every" in changes:
        return config
    return replace(config, monitor_every=-(-config.steps // 8))


@renamed_arguments(faces="measured_images")
@shielded()
def run_edit(
    domain: Domain,
    prompt: str,
    out: PathLike,
    *,
    selection: Selection | None = None,
    timesteps: Sequence[int] | None = None,
    curve: HQSCurve | None = None,
    levels: Sequence[str] | None = None,
    config: DistillConfig | None = None,
    measured_images: int = 256,
    strengths: Sequence[float] = (0.5, 1.0, 1.5),
    tracker: Any = None,
    resume: bool = True,
    progress: bool | Listener = True,
    say: Say = _log,
    command: str = "",
) -> EditRun:
    """Select, distill, measure and report one edit.

    Args:
        domain: see `load_domain`. prompt: what the edited images should show.
        out: the run's folder. If it holds an unfinished run of the same settings, that run is
            continued; a curve.json of the same prompt in it, from an earlier selection, is used.
        timesteps: a fixed choice, without selection. curve: one computed earlier.
        levels: of the mapper; None: those that the domain names for the prompt, else all.
        config: of the training; default `default_config()`, with fewer images per step where they
            are large, see `memory`.
        measured_images: number of held-out images to measure attributes on, where the domain has
            labels; 0 leaves that out.
        strengths: shown in the before/after grid.
        tracker: what is told of the training while it goes on, see `distill`.
        resume: False starts over; what an earlier run left in `out` is kept until it is replaced.
        progress: show it, or a function that gets every `Progress`. say: gets a line for each thing
            done; default: it is logged, as INFO of the logger "sdd_fast.runs.run".
        command: how the run was started, for its report.

    Raises:
        ValueError: an empty prompt, timesteps out of range, a threshold that selects nothing, a
            curve of another prompt, a folder that holds a run of other settings or files of
            something else, or a memory budget that is too small.
        OSError: the folder or a file in it cannot be written, or another process works in it;
            noticed before any work is done.
        KeyboardInterrupt, FloatingPointError: see `distill`.
    """
    (run,) = run_edits(
        domain, [prompt], [out],
        selection=selection, timesteps=timesteps, curves=None if curve is None else [curve],
        levels=levels, config=config, measured_images=measured_images, strengths=strengths,
        tracker=None if tracker is None else [tracker], resume=resume,
        progress=progress, say=say, commands=[command],
    )  # fmt: skip
    return run


@renamed_arguments(faces="measured_images")
@shielded()
def run_edits(
    domain: Domain,
    prompts: Sequence[str],
    outs: Sequence[PathLike],
    *,
    selection: Selection | None = None,
    timesteps: Sequence[int] | None = None,
    curves: Sequence[HQSCurve] | None = None,
    levels: Sequence[str] | None = None,
    config: DistillConfig | None = None,
    measured_images: int = 256,
    strengths: Sequence[float] = (0.5, 1.0, 1.5),
    tracker: Any = None,
    resume: bool = True,
    progress: bool | Listener = True,
    say: Say = _log,
    commands: Sequence[str] = (),
) -> list[EditRun]:
    """Select, distill, measure and report one edit for each of several prompts.

    Their timesteps are selected in one pass and their mappers trained together. Every folder is
    that of a run alone, and can be continued alone.

    Args:
        outs: a folder for each prompt. curves, commands: one for each, or none.
        The rest, for all: see `run_edit`.

    Raises:
        PromptsFailed: some became NaN or infinite, or a step, monitor, folder or report of theirs
            raised an error; after the others are finished and reported.
        ValueError, OSError, KeyboardInterrupt: see `run_edit`.
    """
    selection = selection or Selection()
    if config is None:
        config = default_config(batch_size=training_batch(domain.generator, domain.prior))
    trackers = trackers_of(tracker, len(prompts), has_folder=True)
    given: Sequence[HQSCurve | None] = curves or [None] * len(prompts)
    for prompt, curve in zip(prompts, given, strict=True):
        named = levels or domain.levels.get(prompt)
        check(
            domain, prompt, timesteps, curve, named, selection, config.batch_size, measured_images
        )
    check_distinct(prompts)
    with ExitStack() as held:
        jobs: list[Job] = []
        problems: list[ValueError] = []
        for i, (prompt, out) in enumerate(zip(prompts, outs, strict=True)):
            folder = settled(out)
            held.enter_context(locked(folder))
            place = held.enter_context(pending(folder))
            its = replace(
                config, guidance_rms=config.guidance_rms or domain.guidance_rms.get(prompt)
            )
            try:
                earlier = earlier_run(folder, domain, prompt, resume)
            except ValueError as error:
                problems.append(error)
                continue
            record = new_record(domain, prompt, its, commands[i] if commands else "", earlier)
            record["unknown_words"] = warn_of_unknown_words(domain.prior, prompt)
            jobs.append(
                Job(
                    domain,
                    prompt,
                    folder,
                    place,
                    selection,
                    levels or domain.levels.get(prompt),
                    its,
                    resume,
                    progress,
                    say,
                    record,
                    earlier,
                )  # fmt: skip
            )
        raise_all(problems)
        if not all(job.finished for job in jobs):
            check_execution(config, domain.prior.device)
        found = [curve or earlier_curve(job) for job, curve in zip(jobs, given, strict=True)]
        check_budget(jobs, selecting=timesteps is None and None in found)
        _select(jobs, timesteps, found)
        results, failure = _distill(jobs, trackers)
        runs, failure = _finish(jobs, results, failure, measured_images, strengths)
        if failure is not None:
            for run in runs:
                say(f"“{run.record['prompt']}”: {run.headline}; report: {shown(run.report)}")
            raise failure
        return runs


# --- the stages -----------------------------------------------------------------------------------


def _select(
    jobs: Sequence[Job], timesteps: Sequence[int] | None, curves: Sequence[HQSCurve | None]
) -> None:
    for job in jobs:
        if not job.finished:
            write_json(job.place / RUN_FILE, job.record)
    if timesteps is None:
        curves = compute_missing(jobs, curves)
    for job, curve in zip(jobs, curves, strict=True):
        _introduce(job, jobs)
        choose_timesteps(job, timesteps, curve)


def _introduce(job: Job, jobs: Sequence[Job]) -> None:
    if len(jobs) > 1:
        job.say(f"\n“{job.prompt}”")


def _distill(
    jobs: Sequence[Job], trackers: Sequence[Any]
) -> tuple[list[DistillResult | None], PromptsFailed | None]:
    """Train; return the results, None for those that failed, and the error that says so."""
    domain, config = jobs[0].domain, jobs[0].config
    each = f"{config.batch_size} image" + ("s" if config.batch_size > 1 else "")
    finished = [job.finished for job in jobs]
    going = [job for job, done in zip(jobs, finished, strict=True) if not done]
    if going:
        together = f" for {len(going)} prompts together" if len(going) > 1 else ""
        compiling = "; those of a new shape compile the U-Net first" if config.compile else ""
        going[0].say(f"distilling: {config.steps} steps of {each}{together}{compiling} …")
    monitors = [domain.monitor(job.prompt) for job in jobs]
    results: Sequence[DistillResult | None]
    failure = None
    try:
        results = distill(
            domain.prior,
            domain.generator,
            domain.w_plus,
            [job.prompt for job in jobs],
            [job.record["timesteps"] for job in jobs],
            levels=[job.levels for job in jobs],
            w_std=domain.w_std,
            identity=domain.identity,
            config=[job.config for job in jobs],
            run_dir=[job.folder for job in jobs],
            resume=jobs[0].resume,
            monitor=monitors,
            domain=domain.name,
            tracker=trackers,
            progress=jobs[0].progress,
        )
    except PromptsFailed as error:
        results, failure = error.results, error
    for job, result, monitor, done in zip(jobs, results, monitors, finished, strict=True):
        if result is not None:
            _introduce(job, jobs)
            if done:
                job.say(f"this run is finished, its mapper is {shown(job.folder / MAPPER_FILE)}")
            _record_training(job, result, monitor, len(going))
    return list(results), failure


def _finish(
    jobs: Sequence[Job],
    results: Sequence[DistillResult | None],
    failure: PromptsFailed | None,
    measured_images: int,
    strengths: Sequence[float],
) -> tuple[list[EditRun], PromptsFailed | None]:
    """Measure and report what was trained; return that, and an error that names what failed."""
    runs, told = [], [] if failure is None else [str(failure)]
    for job, result in zip(jobs, results, strict=True):
        if result is None:
            continue
        try:
            runs.append(finish(job, result, measured_images, strengths))
        except Exception as error:
            if len(jobs) == 1 or ran_out(error):
                raise
            told.append(
                f"“{job.prompt}” is trained ({shown(job.folder / MAPPER_FILE)}), but could not be "
                f"measured and reported: {type(error).__name__}: {error}"
            )
            failure = PromptsFailed("\n".join(told), list(results))
    return runs, failure


def _record_training(job: Job, result: DistillResult, monitor: EditMonitor, together: int) -> None:
    record = job.record
    record["distill"] = asdict(result.config)  # with the guidance scale that was balanced
    record["seconds"]["distill"] = result.seconds
    record["monitor"] = _monitored(result.history[-1])
    if job.domain.clip is not None and "direction" not in record["monitor"]:
        # Finished before it had a judge.
        record["monitor"] = _monitored(monitor(result.mapper, result.config.lam))
    ended = [entry for entry in result.history if ENDS_AT in entry]
    record["ended_early"] = (
        {name: ended[0][name] for name in (ENDS_AT, "plateau")} if ended else None
    )
    if ended:
        plateau = ended[0]["plateau"]
        job.say(
            f"ended after {ended[0][ENDS_AT]} of {result.config.steps} steps: {plateau['figure']} "
            f"had a plateau at step {plateau['step']}"
        )
    took = f"{'had taken' if job.finished else 'took'} {result.seconds:.0f} s"
    if not job.finished:
        record["distilled_together"] = together
    if result.compile_seconds:
        record["seconds"]["compile"] = result.compile_seconds
        took += f", compiling {result.compile_seconds:.0f} s"
    if record["distilled_together"] > 1:
        took += f" (its share of one training of {record['distilled_together']} prompts together)"
    job.say(f"training {took}: {wording.describe(record['monitor'])}")


def _monitored(entry: dict[str, Any]) -> dict[str, Any]:
    """The figures of a history entry that `EditMonitor` measured; the verdict of a run is one."""
    names = (
        "edit_size", "peak_change", "latent_change", "saturated_share", "direction",
        "direction_above", "clip_similarity", "clip_gain", "identity",
    )  # fmt: skip
    entry = from_earlier(entry)
    found = without_nan({name: entry[name] for name in names if name in entry})
    return {name: value for name, value in found.items() if value is not None or name in NEEDED}
