"""The first stage of a run: the timesteps to distill from."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..files import shown, write_json
from ..run_folder import CURVE_FILE, CURVE_PICTURE, PARTIAL_CURVE, RUN_FILE
from ..selection.choose import choose
from ..selection.curve import HQSCurve
from ..selection.in_domain import compute_curves, sizes
from .job import Job


def choose_timesteps(job: Job, timesteps: Sequence[int] | None, curve: HQSCurve | None) -> None:
    """Choose the timesteps, into the record; write the curve, if there is one."""
    place = job.place
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


def earlier_curve(job: Job) -> HQSCurve | None:
    """Return the curve that a selection left in the folder of a run."""
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


def compute_missing(jobs: Sequence[Job], curves: Sequence[HQSCurve | None]) -> list[HQSCurve]:
    """Return the curves of all jobs, after computing those that are None, which share the work."""
    lacking = [job for job, curve in zip(jobs, curves, strict=True) if curve is None]
    new: list[HQSCurve] = []
    if lacking:
        first, guidance = lacking[0], lacking[0].config.guidance
        count = len(first.domain.held_out[: first.selection.images])
        at_once = min(count, sizes(first.domain, first.selection, guidance).images)
        named = f" of {len(lacking)} prompts" if len(lacking) > 1 else ""
        first.say(f"selecting timesteps: HQS{named} of {count} images, {at_once} at once …")
        began = time.perf_counter()
        new = compute_curves(
            first.domain, [job.prompt for job in lacking], first.selection, guidance,
            progress=first.progress, partial=[job.folder / PARTIAL_CURVE for job in lacking],
        )  # fmt: skip
        for job in lacking:
            job.record["seconds"]["select"] = (time.perf_counter() - began) / len(lacking)
    computed = iter(new)
    return [next(computed) if curve is None else curve for curve in curves]
