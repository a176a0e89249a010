"""What a run makes sure of before any work: its settings fit, and its folder is its own."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checks import check_count
from ..distillation.default_mapper import new_mapper
from ..gradients.config import GuidanceConfig
from ..manipulator import try_network
from ..memory import check_images, check_memory, training_sizes
from ..memory_budget import BudgetTooSmall
from ..models.mapper import level_range
from ..out_of_memory import Sizes
from ..outputs import check_free
from ..run_folder import (
    CONFIG_FILE,
    CURVE_FILE,
    CURVE_PICTURE,
    PARTIAL_CURVE,
    RUN_FILE,
    TRAINED,
    WRITTEN,
    is_of_a_run,
)
from ..selection.choose import Selection
from ..selection.curve import FORMAT as CURVE_FORMAT, HQSCurve
from ..selection.in_domain import sizes
from ..teacher.text import check_prompt
from .job import Job
from .record import read_run

if TYPE_CHECKING:
    from ..domains import Domain


def slug(prompt: str) -> str:
    """Return a folder name for a prompt: "a face with white hair" → "a-face-with-white-hair".

    Where a name leaves out what tells the prompt from others, such as capitals or commas, it ends
    in a few digits that do.
    """
    name = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:60] or "edit"
    if name.replace("-", " ") == prompt:
        return name
    return f"{name}-{hashlib.sha256(prompt.encode(errors='replace')).hexdigest()[:4]}"


def check(
    domain: Domain,
    prompt: str,
    timesteps: Sequence[int] | None,
    curve: HQSCurve | None,
    levels: Sequence[str] | None,
    selection: Selection,
    batch_size: int,
    measured_images: int,
) -> None:
    """Say whatever can be said before any work is done."""
    check_prompt(prompt)
    check_count("measured_images", measured_images, least=0)
    if timesteps is not None and (curve or (selection.top, selection.threshold) != (None, None)):
        raise ValueError("fixed timesteps leave nothing to select; give no curve, top or threshold")
    if timesteps is not None and not timesteps:
        raise ValueError("no timesteps given; leave them out to have them selected")
    if curve is not None and curve.prompt != prompt:
        raise ValueError(f"the curve belongs to the prompt {curve.prompt!r}, not to {prompt!r}")
    load_local(domain, "held_out", "encoder", "identity", "classifier", "clip", "quality")
    for level in levels or ():
        level_range(level, domain.generator.num_layers)
    size = domain.generator.image_size
    _try_judges(domain, prompt)
    check_images(batch_size, size, f"batch_size={batch_size:,}", domain.device)
    if domain.reader is not None:
        measured = 24.0 * measured_images * math.prod(size)  # before and after, on the CPU
        check_memory(measured, f"measuring on {measured_images:,} images", "cpu")
    if timesteps is not None:
        domain.prior.timesteps_tensor(list(timesteps), len(timesteps))
        domain.prior.schedule.check_signal(list(timesteps))


def check_budget(jobs: Sequence[Job], selecting: bool) -> None:
    """Refuse a memory budget that selection or training does not fit, before either begins.

    Args:
        jobs: trained together, but for those that are finished.
        selecting: whether a curve is still to be computed.

    Raises:
        BudgetTooSmall: names an amount that is enough for both.
        ValueError: the device has less than the budget.
    """
    first, going = jobs[0], [job for job in jobs if not job.finished]
    needs: list[Callable[[], Sizes]] = []
    if selecting and first.selection.memory_budget is not None:
        needs.append(lambda: sizes(first.domain, first.selection, first.config.guidance))
    if going and first.config.memory_budget is not None:
        needs.append(lambda: _training_sizes(going))
    refused = []
    for need in needs:
        try:
            need()
        except BudgetTooSmall as error:
            refused.append(error)
    if refused:
        raise max(refused, key=lambda error: error.least)


def _training_sizes(jobs: Sequence[Job]) -> Sizes:
    """Return how much a step of `distill` takes at once of these jobs."""
    domain, config = jobs[0].domain, jobs[0].config
    return training_sizes(
        domain.prior,
        domain.generator,
        domain.generator.image_size,
        config.batch_size,
        len(jobs),
        memory_budget=config.memory_budget,
        identity=domain.identity if config.identity_weight > 0 else None,
        mappers=[
            new_mapper(domain.generator, domain.w_plus, config.seed, job.levels, domain.w_std)
            for job in jobs
        ],
        jacobian=(config.guidance or GuidanceConfig()).jacobian,
    )


def _try_judges(domain: Domain, prompt: str) -> None:
    """Refuse networks that are to measure an edit, and could not, before there is one."""
    clip, images = domain.clip, torch.zeros(1, 3, *domain.generator.image_size).to(domain.device)
    if clip is not None:
        texts = clip.encode_texts([domain.source_text, prompt])
        try_network("CLIP", lambda some: clip.encode_images(some) @ texts.mT, images)
    for name in ("identity", "classifier", "encoder"):
        network = getattr(domain, name)
        needed = name == "identity" or domain.reader is not None  # which draws images to measure
        if needed and network is not None:
            try_network(name, network, images)


def _is_curve(path: Path) -> bool:
    """Whether a curve.json is that of a selection, be it damaged."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return CURVE_FORMAT.encode() in file.read(100)


def load_local(domain: Domain, *parts: str) -> None:
    """Load parts from files of this machine, before a teacher may be downloaded."""
    for part in parts:
        getattr(domain, part)


def check_selection(folder: Path, overwrite: bool) -> HQSCurve | None:
    """Refuse a folder in which `sdd select` would replace a run, or a curve unasked.

    A curve beside what an unfinished selection keeps is that selection's own.

    Returns:
        The curve of a selection that did not come to draw its picture.
    """
    taken = [name for name in (RUN_FILE, *TRAINED) if (folder / name).exists()]
    if taken:
        raise ValueError(
            f"{folder} holds a run ({', '.join(taken)}), whose curve would be replaced; choose "
            "another folder"
        )
    overwrite = overwrite or (folder / PARTIAL_CURVE).exists()
    if not overwrite and _is_curve(folder / CURVE_FILE) and not (folder / CURVE_PICTURE).exists():
        with suppress(ValueError):
            return HQSCurve.load(folder / CURVE_FILE)
    check_free((folder / CURVE_FILE, folder / CURVE_PICTURE), overwrite)
    return None


def earlier_run(folder: Path, domain: Domain, prompt: str, resume: bool) -> dict[str, Any]:
    """Return the record of an earlier run in the folder, {} if there is none to continue.

    Raises:
        ValueError: it holds files of something else, or a run that is not to be continued.
        IsADirectoryError: a folder is where the run is to write a file.
    """
    check_free((folder / name for name in (*TRAINED, *WRITTEN)), overwrite=True)
    path = folder / RUN_FILE
    if not path.exists():
        # By `sdd select`, for this run.
        selected = (CURVE_FILE, CURVE_PICTURE) if _is_curve(folder / CURVE_FILE) else ()
        there = [name for name in (*TRAINED, *WRITTEN) if (folder / name).exists()]
        foreign = [name for name in there if name not in selected]
        # Of a run whose run.json is lost, `distill` knows whether it is this one.
        if foreign and not (resume and is_of_a_run(folder / CONFIG_FILE)):
            raise ValueError(
                f"{folder} holds {', '.join(foreign)}, but no {RUN_FILE}: these are files of "
                "something else, which a run would replace; choose another folder"
            )
        return {}
    # What a restart is to replace stays until there is something new in its place.
    if not resume and is_of_a_run(path):
        return {}
    try:
        earlier = read_run(folder)
    except ValueError as error:
        raise ValueError(
            f"{error}. If it is of this run, delete it and give the same again: the rest of the "
            "run is kept. Else choose another folder"
        ) from error
    for name, value in {"prompt": prompt, "domain": domain.name}.items():
        if earlier[name] != value:
            raise ValueError(
                f"{folder} holds a run of another {name}: {earlier[name]!r}, not {value!r}; "
                "choose another folder for this one, or start over there with resume=False"
            )
    return earlier
