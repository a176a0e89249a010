"""What is timed of a domain: units of selection, training and editing, ours and of SDEdit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..baselines.sdedit import SDEdit
from ..checks import check_count
from ..distillation.config import DistillConfig
from ..distillation.default_mapper import new_mapper
from ..distillation.distill import distill
from ..editing.editor import Editor
from ..gradients.config import GuidanceConfig
from ..memory import rendering_batch, selection_sizes, training_batch
from ..progress import Progress
from ..selection.choose import Selection
from ..selection.hqs import default_timesteps
from ..selection.in_domain import compute_curves, held_out_of
from .clock import seconds, wait

if TYPE_CHECKING:
    from ..domains import Domain

SDEDIT_STEPS, SOLVER_STEPS = 50, 8
"""Guided steps of SDEdit by DDIM, as in the paper, and by DPM-Solver++."""

SHORTER = (2, 6)
"""Steps of SDEdit that are timed instead where it is to be quick."""

_QUICK_TIMESTEPS = 5
_EDITS = 8  # images at once of an edit, ours and SDEdit's
_SMALL = 256  # pixels a side, up to which a CPU edits as many at once


@dataclass(frozen=True)
class Case:
    """What is timed, and at which sizes.

    Args:
        candidates: timesteps of the selection; HQS is timed at `timesteps`, fewer where it is to
            be `quick`.
        images: HQS is computed on at once. batch_size: of a step of the training.
        rows: of a call of the U-Net in it, at most. edits: images at once.
    """

    domain: Domain
    prompt: str
    candidates: tuple[int, ...]
    images: int
    rows: int
    batch_size: int
    edits: int
    quick: bool = False

    @classmethod
    def of(
        cls,
        domain: Domain,
        prompt: str,
        timesteps: Sequence[int] | None = None,
        images: int = 16,
        batch_size: int | None = None,
        quick: bool = False,
    ) -> Case:
        """Return that of a domain, with as much at once as its commands take.

        Raises:
            ValueError: timesteps out of range or without signal, or a size below 1.
        """
        prior, generator = domain.prior, domain.generator
        candidates = timesteps or [
            t
            for t in default_timesteps(prior.num_train_timesteps)
            if t < prior.schedule.with_signal
        ]
        prior.timesteps_tensor(candidates, len(candidates))
        prior.schedule.check_signal(candidates)
        images = len(held_out_of(domain, check_count("images", images)))
        sizes = selection_sizes(prior, generator.image_size)
        edits = min(_EDITS, rendering_batch(generator), max(1, sizes.rows // 2))
        if prior.device.type == "cpu" and prior.resolution > _SMALL:
            edits = 1  # more at once take as long for each
        return cls(
            domain,
            prompt,
            tuple(candidates),
            1 if quick else min(images, sizes.images),
            sizes.rows,
            training_batch(generator, prior)
            if batch_size is None
            else check_count("batch_size", batch_size),
            edits,
            quick,
        )

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Those that HQS is timed at."""
        every = -(-len(self.candidates) // _QUICK_TIMESTEPS) if self.quick else 1
        return self.candidates[::every]


@dataclass(frozen=True)
class Unit:
    """Something to time.

    Args:
        name: its key. what: for people.
        seconds: runs and times one. warm_up: runs something like it once before, untimed.
    """

    name: str
    what: str
    seconds: Callable[[], float]
    warm_up: Callable[[], Any]


def units_of(case: Case) -> list[Unit]:
    """Return the units of a case; networks are loaded, nothing is run."""
    device = case.domain.device
    evaluations = case.images * len(case.timesteps)
    steps = 6 if case.quick else 11
    edit, warm_up = _edit(case), _sdedit(case, "ddim", 1)

    def timed(name: str, what: str, run: Callable[[], Any], count: int, warm_up: Any) -> Unit:
        return Unit(name, what, lambda: seconds(run, device) / count, warm_up)

    of_sdedit = SHORTER if case.quick else (SDEDIT_STEPS,)
    return [
        timed(
            "evaluation",
            f"HQS of one image at one timestep (mean of images × timesteps: {case.images} × "
            f"{len(case.timesteps)})",
            partial(_search, case),
            evaluations,
            partial(_search, replace(case, candidates=case.candidates[:1])),
        ),
        Unit(
            "setup",
            "set-up of a training: prompt, guidance scale",
            lambda: _train(case, 1, None)[0],
            lambda: None,
        ),
        Unit(
            "step",
            f"step of a training, batch {case.batch_size} (mean of {steps - 1} after the first)",
            lambda: _train(case, steps, GuidanceConfig())[1],
            lambda: None,
        ),
        timed("edit", f"edit of one image ({case.edits} at once)", edit, case.edits, edit),
        *(
            timed(
                f"sdedit-{count}",
                f"SDEdit of one image, {count} guided DDIM steps ({case.edits} at once)",
                _sdedit(case, "ddim", count),
                case.edits,
                warm_up,
            )
            for count in of_sdedit
        ),
        timed(
            f"solver-{SOLVER_STEPS}",
            f"SDEdit of one image, {SOLVER_STEPS} guided steps of DPM-Solver++ ({case.edits} at "
            "once)",
            _sdedit(case, "dpm-solver++", SOLVER_STEPS),
            case.edits,
            lambda: None,  # the other has warmed up its networks
        ),
    ]


def _search(case: Case) -> None:
    selection = Selection(images=case.images, candidates=case.timesteps)
    compute_curves(case.domain, [case.prompt], selection, progress=False)


def _train(case: Case, steps: int, guidance: GuidanceConfig | None) -> tuple[float, float]:
    """Train a new mapper: seconds before the first step, and of a step after it.

    A fifth of the steps goes without the judge of `DistillConfig.prior_weight`, as in any training.
    Every step sees images that were not seen before, as in the first epoch of a training.
    """
    domain = case.domain
    times: dict[int, float] = {}

    def listen(event: Progress) -> None:
        wait(domain.device)
        times.setdefault(event.done, time.perf_counter())

    config = DistillConfig(
        steps=steps, batch_size=case.batch_size, guidance=guidance, log_every=steps
    )
    began = time.perf_counter()
    distill(
        domain.prior, domain.generator, domain.w_plus, case.prompt, case.timesteps,
        identity=domain.identity, config=config, progress=listen, w_std=domain.w_std,
    )  # fmt: skip
    first = min(done for done in times if done)
    each = (times[steps] - times[first]) / max(1, steps - first)
    return times[0] - began, each


def _edit(case: Case) -> Callable[[], Any]:
    """Edit images as `Editor` does; latents in a domain without an encoder."""
    domain = case.domain
    mapper = new_mapper(domain.generator, domain.w_plus, 0, w_std=domain.w_std)
    editor = Editor(domain.generator, mapper, domain.encoder)
    if domain.encoder is None:
        given = domain.held_out[:1].expand(case.edits, -1, -1)
    else:
        given = torch.rand(case.edits, 3, *editor.input_size, device=domain.device) * 2 - 1
    return lambda: editor.edit(given, batch_size=case.edits)


def _sdedit(case: Case, solver: str, steps: int) -> Callable[[], Any]:
    """Edit images by SDEdit in so many guided steps, the prompt encoded before.

    The level is 1, at which all steps are taken; at 0.5 it takes as long with twice as many.
    """
    domain = case.domain
    editor = SDEdit(
        domain, solver=solver, steps=steps, level=1.0, guidance_scale=7.5, batch_size=case.edits
    )
    editor.prepare(case.prompt)
    images = torch.rand(case.edits, 3, *editor.size, device=domain.device) * 2 - 1
    return lambda: editor.edit(images, case.prompt)
