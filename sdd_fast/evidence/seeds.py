"""Ours selected for and trained again with other seeds: how much of Table 1 is luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .case import Case
from .editing import OURS, editing
from .judge import figures_of
from .store import Unit
from .table import Column, Table

FIGURES = {
    "success": "success", "kept": "others kept", "counterfactual_error": "counterfactual error",
    "clip_direction": "CLIP direction",
}  # fmt: skip

ALL = "all"
"""The row of all seeds."""


def units(case: Case) -> list[Unit]:
    """Return the units of every seed but the first, which is that of Table 1."""
    return [
        editing(case, OURS, prompt, seed)
        for seed in range(1, case.plan.training_seeds)
        for prompt in case.prompts
    ]


def measured(case: Case) -> dict[int, list[dict[str, Any]]]:
    """Return the seeds of which every prompt is measured: seed → of each prompt its values."""
    found: dict[int, list[dict[str, Any]]] = {}
    for seed in range(case.plan.training_seeds):
        its = (case.store.find(editing(case, OURS, prompt, seed)) for prompt in case.prompts)
        there = [values for values in its if values is not None]
        if len(there) == len(case.prompts):
            found[seed] = there
    return found


def table(case: Case) -> Table:
    """Return the figures of each seed, and of all; no rows while there are fewer than two."""
    found = measured(case)
    rows: list[dict[str, Any]] = []
    if len(found) > 1:
        rows = [_row(case, seed, [its], ("prompts", "images")) for seed, its in found.items()]
        rows.append(_row(case, ALL, list(found.values()), ("prompts", "seeds", "images")))
    columns = [Column("seed", "seed"), *(Column(key, name) for key, name in FIGURES.items())]
    note = (
        "The noises and images that HQS is computed on, the mapper's first weights, and the "
        "latents and noises of its training follow from the seed; the edited images are the same. "
        f"{len(case.prompts)} prompts; Table 1 has seed 0. Intervals of 95 % over prompts and "
        "images, of all seeds over these as well."
    )
    shown = [c for c in columns if c.key == "seed" or any(c.key in row for row in rows)]
    return Table("table1-seeds", "Table 1: ours with other seeds", shown, rows, [note])


def _row(
    case: Case, seed: int | str, its: Sequence[Sequence[Mapping[str, Any]]], over: Sequence[str]
) -> dict[str, Any]:
    row: dict[str, Any] = {"seed": seed}
    for key in FIGURES:
        cells = figures_of(its, key)
        if cells is not None:
            row[key] = case.interval(cells, over=over)
    return row
