"""Table 3: which timesteps to distill from, under a limited budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..metrics.interval import Interval
from ..metrics.paired import sign_flip_test
from .case import Case
from .curves import Evaluation, curves_unit
from .judge import figures_of
from .limited import GRADIENTS, LABELS, config_of, outcome_of
from .store import Unit
from .table import Column, Table, shown

SMALL, LARGE = 0.5, 0.9
"""ξ of the two thresholds, as a share of the way from the lowest HQS of a prompt to its largest: no
one number suits all prompts, whose largest HQS differs."""

STRATEGIES = ("random", "small ξ", "large ξ", "largest HQS", "lowest HQS")

FIGURES = {
    "success": "success", "clip_direction": "CLIP direction", "clip_absolute": "CLIP similarity",
    "kept": "others kept", "identity": "identity",
}  # fmt: skip

COMPARED = "largest HQS less that of random timesteps"
"""What is tested, as notes and `findings` call it."""


def timesteps_of(strategy: str, timesteps: Sequence[int], scores: Sequence[float]) -> list[int]:
    """Return the timesteps that a strategy trains at, of a curve.

    >>> timesteps_of("large ξ", [200, 400, 600], [-1.0, 0.85, 1.0])
    [400, 600]
    """
    low, high = min(scores), max(scores)
    pairs = list(zip(timesteps, scores, strict=True))
    if strategy == "random":
        return list(timesteps)
    if strategy == "largest HQS":
        return [next(t for t, score in pairs if score == high)]
    if strategy == "lowest HQS":
        return [next(t for t, score in pairs if score == low)]
    xi = low + {"small ξ": SMALL, "large ξ": LARGE}[strategy] * (high - low)
    return [t for t, score in pairs if score > xi or score == high]


def curves(case: Case) -> Unit:
    """Return the unit of the curves that the strategies choose by."""
    return curves_unit(case, case.ablation_prompts, Evaluation(case.plan.selection_images))


def training(case: Case, strategy: str, gradients: str, seed: int) -> Unit:
    """Return the unit that trains all prompts by a strategy, and measures the edits."""
    plan, selected = case.plan, curves(case)
    config = config_of(plan.budget, gradients, seed)

    def run() -> Any:
        found = case.values(selected)
        chosen = [
            timesteps_of(strategy, found["timesteps"], scores["entropy and L1"])
            for scores in found["curves"]
        ]
        return outcome_of(case.domain, case.ablation_subjects, chosen, config, plan.shown)

    depends = {
        "strategy": [strategy, SMALL, LARGE], "curves": selected.digest, "config": asdict(config),
        "images": plan.ablation_images, "shown": plan.shown,
    }  # fmt: skip
    name = f"table3/{strategy}, gradients {gradients}, seed {seed}".replace(" ", "-")
    steps = plan.budget.steps * len(case.ablation_prompts)
    turn = (10, 30)[list(GRADIENTS).index(gradients)] + seed
    return case.unit(name, depends, run, turn=turn, cost=max(1, steps // 4))


def units(case: Case) -> list[Unit]:
    """Return all units of the table; the first seed makes a small whole one."""
    seeds = range(case.plan.ablation_seeds)
    return [curves(case)] + [
        training(case, strategy, gradients, seed)
        for seed in seeds
        for gradients in GRADIENTS
        for strategy in STRATEGIES
    ]


def tables(case: Case) -> list[Table]:
    """Return the table for each kind of gradients, of what is measured so far."""
    found = case.store.find(curves(case))
    return [table(case, gradients, found) for gradients in GRADIENTS]


def table(case: Case, gradients: str, selected: Mapping[str, Any] | None) -> Table:
    """Return the table of one kind of gradients."""
    rows = []
    groups = {strategy: measured(case, strategy, gradients) for strategy in STRATEGIES}
    for strategy, of_seeds in groups.items():
        row: dict[str, Any] = {"strategy": strategy}
        if selected is not None:
            row["hqs"] = sum(
                _mean_score(strategy, selected["timesteps"], one["entropy and L1"])
                for one in selected["curves"]
            ) / len(selected["curves"])
        for key in FIGURES:
            cells = figures_of(list(of_seeds.values()), key)
            if cells is not None:
                row[key] = case.interval(cells)
        rows.append(row)
    plan = case.plan
    columns = [Column("strategy", "timesteps"), Column("hqs", "mean HQS of them", ".2f")]
    columns += [Column(key, title, best="high") for key, title in FIGURES.items()]
    notes = [
        f"{plan.budget.steps} steps of batch {plan.budget.batch_size} at a guidance scale of "
        f"{plan.budget.guidance_scale:g}, {LABELS[gradients]}; {len(case.ablation_prompts)} "
        f"prompts, {_seeds(groups)}, {plan.ablation_images} images each that lack the target. "
        "Intervals of 95 % over prompts, seeds and images.",
        *_tests(groups, case.interval),
    ]
    suffix = "" if GRADIENTS[gradients] is None else "-unit-rms"
    title = f"Table 3 with {LABELS[gradients]}"
    return Table(f"table3{suffix}", title, columns, rows, notes)


def measured(case: Case, strategy: str, gradients: str) -> dict[int, list[dict[str, Any]]]:
    """Return what is measured so far: seed → of each prompt figures of every image."""
    seeds = range(case.plan.ablation_seeds)
    found = {s: case.store.find(training(case, strategy, gradients, s)) for s in seeds}
    return {seed: values["prompts"] for seed, values in found.items() if values is not None}


def _tests(
    groups: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]],
    interval: Callable[[list[list[Tensor]]], Interval],
) -> list[str]:
    """Compare the largest HQS with random timesteps, on the same images, seed by seed.

    Args:
        groups: strategy → as `measured`. interval: see `Case.interval`.
    """
    told = []
    largest, random = groups["largest HQS"], groups["random"]
    seeds = [seed for seed in largest if seed in random]
    for key in ("success", "clip_direction"):
        ours, theirs = (figures_of([its[s] for s in seeds], key) for its in (largest, random))
        if ours is None or theirs is None:
            continue
        differences = [
            [a.double() - b.double() for a, b in zip(x, y, strict=True)]
            for x, y in zip(ours, theirs, strict=True)
        ]  # [prompt][seed] → [N]
        of_prompts = [[float(d.nanmean()) for d in its] for its in differences]
        trainings = [d for its in of_prompts for d in its]
        means = [sum(its) / len(its) for its in of_prompts]
        p_trainings, p_prompts = (
            sign_flip_test(torch.tensor(each, dtype=torch.float64), alternative="greater")
            for each in (trainings, means)
        )
        told.append(
            f"{FIGURES[key][0].upper()}{FIGURES[key][1:]} of {COMPARED}: "
            f"{shown(interval(differences), '+.3f')}; p = {p_trainings:.2g} over {len(trainings)} "
            "pairs of trainings of the same prompt and seed, as if all were independent, p = "
            f"{p_prompts:.2g} over the means of {len(means)} prompts (one-sided sign-flip tests; "
            f"of {len(means)} prompts p cannot be below {2.0 ** -len(means):.2g})."
        )
    return told


def _mean_score(strategy: str, timesteps: Sequence[int], scores: Sequence[float]) -> float:
    by_timestep = dict(zip(timesteps, scores, strict=True))
    chosen = timesteps_of(strategy, timesteps, scores)
    return sum(by_timestep[t] for t in chosen) / len(chosen)


def _seeds(groups: Mapping[str, Mapping[int, Any]]) -> str:
    counts = sorted({len(seeds) for seeds in groups.values()})
    few = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return f"{few} seed{'s' if counts[-1] != 1 else ''}"
