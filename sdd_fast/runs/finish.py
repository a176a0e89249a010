"""The last stage of a run: its edit is measured, shown and judged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..distillation.judge import Verdict, judge
from ..distillation.result import DistillResult
from ..domains.reader import Target
from ..files import atomic_path, shown, write_json
from ..images import save_png
from ..report import write_report
from ..report.showcase import before_after, milliseconds_per_edit, training_figure
from ..run_folder import GRID_FILE, REPORT_FILE, RUN_FILE, TRAINING_FILE, restore
from .job import EditRun, Job
from .record import without_nan

SHOWN = 7  # images in the before/after grid


def finish(
    job: Job, result: DistillResult, measured_images: int, strengths: Sequence[float]
) -> EditRun:
    """Measure and report, unless that is done already."""
    target = job.domain.reader.target_in(job.prompt) if job.domain.reader else None
    if job.finished:
        restore(job.place, job.folder)
        if _is_reported(job, target if measured_images else None, measured_images, strengths):
            job.say(f"nothing is left to do: its report is {shown(job.folder / REPORT_FILE)}")
            told = job.earlier["verdict"]
            verdict = Verdict(told["level"], told["code"], tuple(told["advice"]))
            return EditRun(job.folder, result, verdict, job.earlier)
    else:
        write_json(job.folder / RUN_FILE, job.record)
    began = time.perf_counter()
    _measure(job, result, target, measured_images)
    _make_pictures(job, result, target, strengths)
    job.record["seconds"]["measure"] = time.perf_counter() - began
    return _report(job, result, strengths)


def _is_reported(
    job: Job, target: Target | None, measured_images: int, strengths: Sequence[float]
) -> bool:
    """Whether a finished run's report is there, and tells what is asked for now."""
    now, then, judge = job.record, job.earlier, job.domain.clip
    told = ("domain_reference", "nouns", "known_prompts", "source_text", "unknown_words")
    return (
        all((job.folder / name).exists() for name in (GRID_FILE, TRAINING_FILE, REPORT_FILE))
        and all(now[key] == then.get(key) for key in told)
        and now["versions"]["sdd_fast"] == then["versions"].get("sdd_fast")
        and (judge is None or "direction" in then["monitor"])
        and then.get("strengths") == list(strengths)
        and (then["quality"] or {}).get("images") == (measured_images if target else None)
    )


def _measure(job: Job, result: DistillResult, target: Target | None, measured_images: int) -> None:
    """Measure the edit, and what merely encoding and generating the same images does."""
    reader = job.domain.reader
    figures: list[dict[str, Any] | None] = [None, None]
    if reader is not None and target is not None and measured_images > 0:
        images = job.record["nouns"]["images"]
        job.say(f"measuring: attributes of {measured_images} held-out {images}, before and after …")
        lam = result.config.lam
        for i, strength in enumerate((1.0, 0.0)):
            measured = reader.measure_edit(
                job.domain, result.mapper, lam, job.prompt,
                target=target, strength=strength, images=measured_images,
            )  # fmt: skip
            figures[i] = without_nan(measured.to_json())
    job.record["quality"], job.record["unedited"] = figures


def _make_pictures(
    job: Job, result: DistillResult, target: Target | None, strengths: Sequence[float]
) -> None:
    """Make the pictures of the report."""
    domain, reader, record = job.domain, job.domain.reader, job.record
    pictures = None
    if reader is not None and domain.encoder is not None:
        pictures = reader.sample_images(domain, SHOWN, [target] if target else [])
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
