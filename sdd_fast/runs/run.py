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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..distillation.config import DistillConfig
from ..distillation.distill import DistillResult, distill
from ..distillation.judge import NEEDED, Verdict, from_earlier, judge
from ..domains.reader import Target
from ..files import PathLike, atomic_path, settled, shown, write_json
from ..images import save_png
from ..lock import locked
from ..memory import training_batch
from ..progress import Listener
from ..report import wording, write_report
from ..report.showcase import before_after, milliseconds_per_edit, training_figure
from ..run_folder import (
    CURVE_FILE,
    CURVE_PICTURE,
    GRID_FILE,
    MAPPER_FILE,
    PARTIAL_CURVE,
    REPORT_FILE,
    RUN_FILE,
    TRAINING_FILE,
    pending,
    restore,
)
from ..selection.choose import Selection, choose
from ..selection.curve import HQSCurve
from ..selection.in_domain import compute_curve, sizes
from ..shield import shielded
from ..teacher.text import warn_of_unknown_words
from .prepare import check, earlier_run, slug as slug  # slug: for sdd_fast.experiment
from .record import new_record, without_nan

if TYPE_CHECKING:
    from ..domains import Domain

Say = Callable[[str], None]

SHOWN = 7  # images in the before/after grid


def _silent(line: str) -> None:
    pass


@dataclass(frozen=True)
class EditRun:
    """What `run_edit` returns. `record` is the content of run.json."""

    folder: Path
    result: DistillResult
    verdict: Verdict
    record: dict[str, Any]

    @property
    def mapper(self) -> nn.Module:
        return self.result.mapper

    @property
    def report(self) -> Path:
        return self.folder / REPORT_FILE

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        return wording.headline(self.record)

    @property
    def advice(self) -> str:
        """What to try next; "" if nothing."""
        return wording.advice(self.record)


@dataclass(frozen=True)
class _Job:
    """What the stages of a run share; `record` grows from one to the next."""

    domain: Domain
    prompt: str
    folder: Path
    selection: Selection
    levels: Sequence[str] | None
    config: DistillConfig
    resume: bool
    progress: bool | Listener
    say: Say
    record: dict[str, Any]
    earlier: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return bool(self.earlier.get("complete")) and (self.folder / MAPPER_FILE).exists()


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
    folder, selection = settled(out), selection or Selection()
    if config is None:
        config = default_config(batch_size=training_batch(domain.generator, domain.prior))
    config = replace(config, guidance_rms=config.guidance_rms or domain.guidance_rms.get(prompt))
    levels = levels or domain.levels.get(prompt)
    check(domain, prompt, timesteps, curve, levels, selection, config.batch_size, faces)
    with locked(folder), pending(folder) as place:
        earlier = earlier_run(folder, domain, prompt, resume)
        record = new_record(domain, prompt, config, command, earlier)
        record["unknown_words"] = warn_of_unknown_words(domain.prior, prompt)
        job = _Job(
            domain, prompt, folder, selection, levels, config, resume, progress, say, record,
            earlier,
        )  # fmt: skip
        curve = curve or _earlier_curve(job)
        if not job.finished:
            write_json(place / RUN_FILE, record)
        _select(job, timesteps, curve, place)
        result = _distill(job)
        target = domain.reader.target_in(prompt) if domain.reader else None
        if job.finished:
            restore(place, folder)
            if _is_reported(job, target if faces else None, faces, strengths):
                say(f"nothing is left to do: its report is {shown(folder / REPORT_FILE)}")
                told = earlier["verdict"]
                verdict = Verdict(told["level"], told["code"], tuple(told["advice"]))
                return EditRun(folder, result, verdict, earlier)
        else:
            write_json(folder / RUN_FILE, record)
        began = time.perf_counter()
        _measure(job, result, target, faces)
        _make_pictures(job, result, target, strengths)
        record["seconds"]["measure"] = time.perf_counter() - began
        return _finish(job, result, strengths)


# --- the stages -----------------------------------------------------------------------------------


def _select(
    job: _Job, timesteps: Sequence[int] | None, curve: HQSCurve | None, place: Path
) -> None:
    """Choose the timesteps, into the record; write the curve, if there is one."""
    if timesteps is None:
        curve = curve or _compute_curve(job)
    names = (CURVE_FILE, CURVE_PICTURE)
    kept = job.finished and all((job.folder / name).exists() for name in names)
    if curve is not None and not kept:
        curve.save(place / CURVE_FILE)  # first, since the choice may fail
        (job.folder / PARTIAL_CURVE).unlink(missing_ok=True)
    if timesteps is None and curve is not None:
        chosen, rule = choose(curve, job.selection)
    else:
        chosen, rule = sorted({int(t) for t in timesteps or ()}), "given by hand"
    if curve is not None and not kept:
        marked = [t for t in chosen if t in curve.timesteps]
        curve.plot(place / CURVE_PICTURE, chosen=marked, threshold=job.selection.threshold)
    job.record.update(timesteps=chosen, rule=rule)
    job.say(f"timesteps: {', '.join(map(str, chosen))} ({rule})")
    if not job.finished:
        write_json(place / RUN_FILE, job.record)


def _earlier_curve(job: _Job) -> HQSCurve | None:
    path = job.folder / CURVE_FILE
    if not job.resume or not path.exists():
        return None
    try:
        curve = HQSCurve.load(path)
    except ValueError as error:
        raise ValueError(
            f"{error}; delete it and {CURVE_PICTURE}, and the curve is computed again"
        ) from error
    if curve.prompt != job.prompt:
        raise ValueError(
            f"{path} is the curve of another prompt: {curve.prompt!r}, not {job.prompt!r}; choose "
            "another folder, or start over there with resume=False"
        )
    job.say(
        f"the curve is in {shown(path)} ({curve.num_images} images, guidance scale "
        f"{curve.config.guidance_scale:g})"
    )
    return curve


def _compute_curve(job: _Job) -> HQSCurve:
    guidance = job.config.guidance
    count = len(job.domain.held_out[: job.selection.images])
    at_once = min(count, sizes(job.domain, job.selection, guidance).images)
    job.say(f"selecting timesteps: HQS of {count} images, {at_once} at once …")
    began = time.perf_counter()
    curve = compute_curve(
        job.domain, job.prompt, job.selection, guidance,
        progress=job.progress, partial=job.folder / PARTIAL_CURVE,
    )  # fmt: skip
    job.record["seconds"]["select"] = time.perf_counter() - began
    return curve


def _distill(job: _Job) -> DistillResult:
    domain, config, record = job.domain, job.config, job.record
    each = f"{config.batch_size} image" + ("s" if config.batch_size > 1 else "")
    if job.finished:
        job.say(f"this run is finished, its mapper is {shown(job.folder / MAPPER_FILE)}")
    else:
        job.say(f"distilling: {config.steps} steps of {each} …")
    monitor = domain.monitor(job.prompt)
    result = distill(
        domain.prior,
        domain.generator,
        domain.w_plus,
        job.prompt,
        record["timesteps"],
        levels=job.levels,
        w_std=domain.w_std,
        identity=domain.identity,
        config=config,
        run_dir=job.folder,
        resume=job.resume,
        monitor=monitor,
        domain=domain.name,
        progress=job.progress,
    )
    record["distill"] = asdict(result.config)  # with the guidance scale that was balanced
    record["seconds"]["distill"] = result.seconds
    record["monitor"] = _monitored(result.history[-1])
    if domain.clip is not None and "direction" not in record["monitor"]:
        # Finished before it had a judge.
        record["monitor"] = _monitored(monitor(result.mapper, result.config.lam))
    took = "had taken" if job.finished else "took"
    job.say(f"training {took} {result.seconds:.0f} s: {wording.describe(record['monitor'])}")
    return result


def _is_reported(job: _Job, target: Target | None, faces: int, strengths: Sequence[float]) -> bool:
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


def _measure(job: _Job, result: DistillResult, target: Target | None, faces: int) -> None:
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
    job: _Job, result: DistillResult, target: Target | None, strengths: Sequence[float]
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


def _finish(job: _Job, result: DistillResult, strengths: Sequence[float]) -> EditRun:
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
