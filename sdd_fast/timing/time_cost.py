"""Measure what edits cost in a domain, and leave a folder with tables and a figure.

time-cost.json   every sample, and what is computed of them
time-cost.md     the tables: units, totals for so many images and prompts, stages
time-cost.png    total time against the number of images
"""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from .._build_info import build_info
from ..checks import check_count
from ..files import PathLike, atomic_path, settled, write_text
from ..fingerprint import fingerprint
from ..lock import locked
from ..measured import device_name
from ..outputs import check_free
from ..progress import Listener
from ..shield import shielded
from .equations import Plan
from .record import FILE, Record, measure
from .report import figure, markdown
from .results import results_of
from .stages import ceilings, stages_of
from .units import Case, units_of

TABLES, FIGURE = "time-cost.md", "time-cost.png"
ROUNDS, QUICK_ROUNDS = 5, 2


@shielded()
def time_cost(
    case: Case,
    out: PathLike,
    plan: Plan,
    *,
    rounds: int | None = None,
    resume: bool = True,
    progress: bool | Listener = True,
) -> dict[str, Any]:
    """Measure the units of a case, compute the totals of a plan, and write both into a folder.

    The same call goes on after an interruption; with another plan it computes anew from the samples
    that are there.

    Args:
        rounds: samples of each unit; default: `ROUNDS`, or `QUICK_ROUNDS` of a quick case.
        resume: False drops the samples that are there.

    Returns:
        The content of time-cost.json, see `results_of`.

    Raises:
        ValueError: the folder has a measurement of something else; the message says what differs.
        FileExistsError: a file in the folder is something else.
        KeyboardInterrupt: what was measured is kept.
    """
    usual = QUICK_ROUNDS if case.quick else ROUNDS
    rounds = usual if rounds is None else check_count("rounds", rounds)
    folder = settled(out)
    with locked(folder):
        mine = (folder / FILE).exists()
        check_free((folder / name for name in (TABLES, FIGURE)), mine, "choose another folder")
        record = Record(folder / FILE, request_of(case), restart=not resume)
        units, prior = units_of(case), case.domain.prior
        stages = stages_of(case) + ceilings(prior.device, prior.dtype)
        measure(units, stages, record, rounds=rounds, device=case.domain.device, progress=progress)
        record.results = results_of(record, units, stages, plan)
        record.save()
        write_text(folder / TABLES, markdown(record.request, record.results))
        with atomic_path(folder / FIGURE) as temporary:
            figure(record.request, record.results).savefig(temporary, format="png")
    return {"request": record.request, **record.results}


def request_of(case: Case) -> dict[str, Any]:
    """Return everything that the samples depend on, JSON values only."""
    domain, prior, info = case.domain, case.domain.prior, build_info()
    return {
        "domain": domain.name,
        "networks": fingerprint(domain.generator, domain.encoder, prior.unet, prior.vae),
        "device": device_name(domain.device),
        "threads": torch.get_num_threads(),
        "native_kernels": info["native"],
        "dtype": str(prior.dtype).removeprefix("torch."),
        "attention": domain.attention,
        "resolution": max(domain.generator.image_size),
        "teacher_resolution": prior.resolution,
        "prompt": case.prompt,
        "timesteps": list(case.timesteps),
        "images": case.images,
        "batch_size": case.batch_size,
        "edits": case.edits,
        "quick": case.quick,
        "versions": {
            **{name: info[name] for name in ("sdd_fast", "torch", "python")},
            "diffusers": diffusers.__version__,
        },
    }
