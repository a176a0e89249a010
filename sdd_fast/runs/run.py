"""One whole edit: select timesteps, distill a mapper, measure it, and leave a folder with a report.

    run.json         what was asked for, what came out, how long it took, on which versions
    curve.json/.png  the HQS curve (unless the timesteps were given)
    config.json, checkpoint.safetensors, history.json, mapper.safetensors   see `run_folder`
    training.png, before-after.png, report.html

The same call again continues an interrupted run. Of a finished one it does what is not done yet: it
measures and reports anew for other figures than there are, for another judge or version.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ..distillation.config import DistillConfig
from ..distillation.distill import distill
from ..distillation.judge import NEEDED, Verdict, from_earlier, judge
from ..distillation.monitor import EditMonitor
from ..distillation.result import DistillResult, PromptsFailed
from ..distillation.trackers import trackers_of
from ..domains.reader import Target
from ..files import PathLike, atomic_path, settled, shown, write_json
from ..images import save_png
from ..lock import locked
from ..memory import training_batch
from ..progress import Listener
from ..report import wording, write_report
from ..report.showcase import before_after, milliseconds_per_edit, training_figure
from ..run_folder import (
    GRID_FILE,
    MAPPER_FILE,
    REPORT_FILE,
    RUN_FILE,
    TRAINING_FILE,
    pending,
    restore,
)
from ..selection.choose import Selection
from ..selection.curve import HQSCurve
from ..shield import shielded
from ..teacher.text import warn_of_unknown_words
from ..training_state import ENDS_AT
from .job import EditRun, Job, Say
from .prepare import check, earlier_run, slug as slug  # slug: for sdd_fast.experiment
from .record import new_record, without_nan
from .select import choose_timesteps, compute_missing, earlier_curve

if TYPE_CHECKING:
    from ..domains import Domain

SHOWN = 7  # images in the before/after grid


def _silent(line: str) -> None:
    pass


def default_config(**changes: Any) -> DistillConfig:
    """Return `DistillConfig` with `changes`, measured often enough for a curve of the training."""
    config = DistillConfig(**changes)
    if "monitor_every" in changes:
        return config
    return replace(config, monitor_every=-(-config.steps // 8))


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
    faces: int = 256,
    strengths: Sequence[float] = (0.5, 1.0, 1.5),
    tracker: Any = None,
    resume: bool = True,
    progress: bool | Listener = True,
    say: Say = _silent,
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
        faces: number of held-out images to measure attributes on, where the domain has labels;
            0 leaves that out.
        strengths: shown in the before/after grid.
        tracker: what is told of the training while it goes on, see `distill`.
        resume: False starts over; what an earlier run left in `out` is kept until it is replaced.
        progress: show it, or a function that gets every `Progress`. say: gets a line for each thing
            done.
        command: how the run was started, for its report.

    Raises:
        ValueError: an empty prompt, timesteps out of range, a threshold that selects nothing, a
            curve of another prompt, or a folder that holds a run of other settings or files of
            something else.
        OSError: the folder or a file in it cannot be written, or another process works in it;
            noticed before any work is done.
        KeyboardInterrupt, FloatingPointError: see `distill`.
    """
    (run,) = run_edits(
        domain, [prompt], [out],
        selection=selection, timesteps=timesteps, curves=None if curve is None else [curve],
        levels=levels, config=config, faces=faces, strengths=strengths,
        tracker=None if tracker is None else [tracker], resume=resume,
        progress=progress, say=say, commands=[command],
    )  # fmt: skip
    return run


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
    faces: int = 256,
    strengths: Sequence[float] = (0.5, 1.0, 1.5),
    tracker: Any = None,
    resume: bool = True,
    progress: bool | Listener = True,
    say: Say = _silent,
    commands: Sequence[str] = (),
) -> list[EditRun]:
    """Select, distill, measure and report one edit for each of several prompts.

    Their timesteps are selected in one pass and their mappers trained together. Every folder is
    that of a run alone, and can be continued alone.

    Args:
        outs: a folder for each prompt. curves, commands: one for each, or none.
        The rest, for all: see `run_edit`.

    Raises:
        PromptsFailed: some became NaN or infinite, after the others are finished and reported.
        ValueError, OSError, KeyboardInterrupt: see `run_edit`.
    """
    selection = selection or Selection()
    if config is None:
        config = default_config(batch_size=training_batch(domain.generator, domain.prior))
    trackers = trackers_of(tracker, len(prompts), has_folder=True)
    given: Sequence[HQSCurve | None] = curves or [None] * len(prompts)
    for prompt, curve in zip(prompts, given, strict=True):
        named = levels or domain.levels.get(prompt)
        check(domain, prompt, timesteps, curve, named, selection, config.batch_size, faces)
    with ExitStack() as held:
        jobs = []
        for i, (prompt, out) in enumerate(zip(prompts, outs, strict=True)):
            folder = settled(out)
            held.enter_context(locked(folder))
            place = held.enter_context(pending(folder))
            its = replace(
                config, guidance_rms=config.guidance_rms or domain.guidance_rms.get(prompt)
            )
            earlier = earlier_run(folder, domain, prompt, resume)
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
        _select(jobs, timesteps, given)
        results, failure = _distill(jobs, trackers)
        runs = [
            _finish(job, result, faces, strengths)
            for job, result in zip(jobs, results, strict=True)
            if result is not None
        ]
        if failure is not None:
            for run in runs:
                say(f"“{run.record['prompt']}”: {run.headline}; report: {shown(run.report)}")
            raise failure
        return runs


# --- the stages -----------------------------------------------------------------------------------


def _select(
    jobs: Sequence[Job], timesteps: Sequence[int] | None, given: Sequence[HQSCurve | None]
) -> None:
    curves = [curve or earlier_curve(job) for job, curve in zip(jobs, given, strict=True)]
    for job in jobs:
        if not job.finished:
            write_json(job.place / RUN_FILE, job.record)
    if timesteps is None:
        curves = [*compute_missing(jobs, curves)]
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
        going[0].say(f"distilling: {config.steps} steps of {each}{together} …")
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
            _record_training(job, result, monitor)
    return list(results), failure


def _record_training(job: Job, result: DistillResult, monitor: EditMonitor) -> None:
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
    took = "had taken" if job.finished else "took"
    job.say(f"training {took} {result.seconds:.0f} s: {wording.describe(record['monitor'])}")


def _finish(job: Job, result: DistillResult, faces: int, strengths: Sequence[float]) -> EditRun:
    """Measure and report, unless that is done already."""
    target = job.domain.reader.target_in(job.prompt) if job.domain.reader else None
    if job.finished:
        restore(job.place, job.folder)
        if _is_reported(job, target if faces else None, faces, strengths):
            job.say(f"nothing is left to do: its report is {shown(job.folder / REPORT_FILE)}")
            told = job.earlier["verdict"]
            verdict = Verdict(told["level"], told["code"], tuple(told["advice"]))
            return EditRun(job.folder, result, verdict, job.earlier)
    else:
        write_json(job.folder / RUN_FILE, job.record)
    began = time.perf_counter()
    _measure(job, result, target, faces)
    _make_pictures(job, result, target, strengths)
    job.record["seconds"]["measure"] = time.perf_counter() - began
    return _report(job, result, strengths)


def _is_reported(job: Job, target: Target | None, faces: int, strengths: Sequence[float]) -> bool:
    """Whether a finished run's report is there, and tells what is asked for now."""
    now, then, judge = job.record, job.earlier, job.domain.clip
    told = ("domain_reference", "nouns", "known_prompts", "source_text", "unknown_words")
    return (
        all((job.folder / name).exists() for name in (GRID_FILE, TRAINING_FILE, REPORT_FILE))
        and all(now[key] == then.get(key) for key in told)
        and now["versions"]["sdd_fast"] == then["versions"].get("sdd_fast")
        and (judge is None or "direction" in then["monitor"])
        and then.get("strengths") == list(strengths)
        and (then["quality"] or {}).get("faces") == (faces if target else None)
    )


def _monitored(entry: dict[str, Any]) -> dict[str, Any]:
    """The figures of a history entry that `EditMonitor` measured; the verdict of a run is one."""
    names = (
        "edit_size", "peak_change", "latent_change", "saturated_share", "direction",
        "direction_above", "clip_similarity", "clip_gain", "identity",
    )  # fmt: skip
    entry = from_earlier(entry)
    found = without_nan({name: entry[name] for name in names if name in entry})
    return {name: value for name, value in found.items() if value is not None or name in NEEDED}


def _measure(job: Job, result: DistillResult, target: Target | None, faces: int) -> None:
    """Measure the edit, and what merely encoding and generating the same images does."""
    reader = job.domain.reader
    figures: list[dict[str, Any] | None] = [None, None]
    if reader is not None and target is not None and faces > 0:
        images = job.record["nouns"]["images"]
        job.say(f"measuring: attributes of {faces} held-out {images}, before and after …")
        lam = result.config.lam
        for i, strength in enumerate((1.0, 0.0)):
            measured = reader.measure(
                job.domain, result.mapper, lam, job.prompt,
                target=target, strength=strength, faces=faces,
            )  # fmt: skip
            figures[i] = without_nan(measured)
    job.record["quality"], job.record["unedited"] = figures


def _make_pictures(
    job: Job, result: DistillResult, target: Target | None, strengths: Sequence[float]
) -> None:
    """Make the pictures of the report."""
    domain, reader, record = job.domain, job.domain.reader, job.record
    pictures = None
    if reader is not None and domain.encoder is not None:
        pictures = reader.sample_images(SHOWN, domain.resolution, [target] if target else [])
    picture, record["reconstruction_psnr"] = before_after(
        domain,
        result.mapper,
        result.config.lam,
        title=f"“{job.prompt}” on held-out pictures",
        pictures=pictures,
        strengths=strengths,
        count=SHOWN,
    )
    save_png(job.folder / GRID_FILE, picture)
    figure = training_figure(result.history, record["nouns"]["images"])
    if figure is not None:
        with atomic_path(job.folder / TRAINING_FILE) as temporary:
            figure.savefig(temporary)


def _report(job: Job, result: DistillResult, strengths: Sequence[float]) -> EditRun:
    """Judge, and write run.json and the report."""
    domain, reader, record = job.domain, job.domain.reader, job.record
    verdict = judge(record["monitor"], record["quality"], record["unknown_words"])
    record |= {
        "complete": True,
        "verdict": asdict(verdict) | {"advice": list(verdict.advice)},
        "milliseconds_per_edit": milliseconds_per_edit(domain, result.mapper, result.config.lam),
        "domain_quality": without_nan(getattr(domain, "quality", None)),
        "limits": reader.LIMITS if reader is not None else None,
        "strengths": list(strengths),
        "levels": list(result.info.levels),
    }
    write_json(job.folder / RUN_FILE, record)
    write_report(job.folder)
    return EditRun(job.folder, result, verdict, record)
