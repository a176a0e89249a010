"""Does HQS pick well? The score of a timestep against what training at it alone achieves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..metrics.interval import Interval
from ..metrics.paired import holm, sign_flip_test
from ..selection.hqs import usual_timesteps
from .case import Case
from .consistency import CONSISTENCY, consistency_unit
from .curves import Evaluation, curves_unit
from .judge import mean_of
from .limited import GRADIENTS, LABELS, config_of, outcome_of
from .rank_correlation import rank_correlation
from .store import Unit
from .table import Column, Table

MEASURES = {"success": "success", "clip_direction": "CLIP direction"}
"""What a score is to predict."""


@dataclass(frozen=True)
class Variant:
    """A score: how its gradients are evaluated, and what is made of them.

    Args:
        score: one of `curves.SCORES`, or `CONSISTENCY`.
    """

    name: str
    evaluation: Evaluation
    score: str = "entropy and L1"


def variants(case: Case) -> list[Variant]:
    """Return HQS as it is shipped and what differs from it in one respect each."""
    plan = case.plan
    usual = Evaluation(plan.selection_images)
    few, many = max(1, plan.selection_images // 4), 2 * plan.selection_images
    trained_at = plan.budget.guidance_scale
    return [
        Variant("HQS", usual),
        Variant("entropy alone", usual, "entropy alone"),
        Variant("L1 alone", usual, "L1 alone"),
        Variant("normalized after the mean over images", usual, "of-mean"),
        Variant("abs-mean gradient map", replace(usual, gradient_map="abs-mean")),
        Variant(f"guidance scale {trained_at:g}", replace(usual, guidance_scale=trained_at)),
        Variant("guidance scale 7.5", replace(usual, guidance_scale=7.5)),
        Variant(f"{few} image{'s' if few > 1 else ''}", replace(usual, images=few)),
        Variant(f"{many} images", replace(usual, images=many)),
        Variant("full Jacobian", replace(usual, jacobian="full")),
        Variant("unit-RMS gradients", replace(usual, residual_rms=1.0)),
        Variant(CONSISTENCY, usual, CONSISTENCY),
    ]


def timesteps_of(case: Case) -> list[int]:
    """Return the timesteps of the study, spread evenly over the usual ones."""
    usual = usual_timesteps(case.domain.prior)
    count = min(case.plan.study_timesteps, len(usual))
    return [usual[round(i * (len(usual) - 1) / (count - 1))] for i in range(count)]


def curves(case: Case, variant: Variant) -> Unit:
    """Return the unit that evaluates a variant's scores; several may share one."""
    steps, prompts = timesteps_of(case), case.ablation_prompts
    if variant.score == CONSISTENCY:
        return consistency_unit(case, prompts, variant.evaluation, steps, turn=20)
    return curves_unit(case, prompts, variant.evaluation, steps, turn=20)


def training(case: Case, timestep: int, gradients: str, seed: int) -> Unit:
    """Return the unit that trains all prompts at one timestep, and measures the edits."""
    plan, count = case.plan, len(case.ablation_prompts)
    config = config_of(plan.budget, gradients, seed)

    def run() -> Any:
        chosen = [[timestep]] * count
        return outcome_of(case.domain, case.ablation_subjects, chosen, config, plan.shown)

    depends = {
        "prompts": list(case.ablation_prompts), "timestep": timestep, "config": asdict(config),
        "images": plan.ablation_images, "shown": plan.shown,
    }  # fmt: skip
    name = f"hqs/timestep-{timestep}, gradients {gradients}, seed {seed}".replace(" ", "-")
    turn = (20, 40)[list(GRADIENTS).index(gradients)] + seed
    return case.unit(name, depends, run, turn=turn, cost=max(1, plan.budget.steps * count // 4))


def units(case: Case) -> list[Unit]:
    """Return all units of the study."""
    trainings = [
        training(case, timestep, gradients, seed)
        for seed in range(case.plan.study_seeds)
        for gradients in GRADIENTS
        for timestep in timesteps_of(case)
    ]
    scores = {unit.digest: unit for unit in (curves(case, one) for one in variants(case))}
    return [*scores.values(), *trainings]


@dataclass(frozen=True)
class Measured:
    """What training at single timesteps achieved under one kind of gradients and one measure.

    Args:
        values: [seed][prompt] → mean over images at each timestep, [T].
    """

    timesteps: list[int]
    values: list[list[list[float]]]


def measured(case: Case, gradients: str, measure: str) -> Measured | None:
    """Return what is measured of every timestep, by the seeds of which all are; None if none."""
    steps, seeds = timesteps_of(case), []
    for seed in range(case.plan.study_seeds):
        found = [case.store.find(training(case, t, gradients, seed)) for t in steps]
        there = [values["prompts"] for values in found if values is not None]
        if len(there) < len(steps):
            continue
        its = [[mean_of(at[p], measure) for at in there] for p in range(len(there[0]))]
        known = [[x for x in row if x is not None] for row in its]
        if all(len(row) == len(steps) for row in known):
            seeds.append(known)
    return Measured(steps, seeds) if seeds else None


def tables(case: Case) -> list[Table]:
    """Return the table of correlations, and that of success by timestep."""
    return [correlations(case), *by_timestep(case)]


def correlations(case: Case) -> Table:
    """Return the rank correlation of each variant with each measure, and what it would choose."""
    columns = [Column("score", "score")]
    rows: list[dict[str, Any]] = []
    for variant in variants(case):
        row: dict[str, Any] = {"score": variant.name}
        found = case.store.find(curves(case, variant))
        for key, there in _measures(case):
            scores = None if found is None else [one[variant.score] for one in found["curves"]]
            if scores is not None and there is not None:
                row[f"{key}_rank"] = _ranks(case, scores, there)
            if key.startswith("success"):
                chosen = None if scores is None else _chosen(case, scores, there)
                row[f"{key}_chosen"] = chosen
        rows.append(row)
    p_values = {
        key: _against_hqs(case, there)
        for key, there in _measures(case)
        if key.startswith("success") and there is not None
    }
    for row in rows:
        row |= {
            f"{key}_p": its.get(row["score"])
            for key, its in p_values.items()
            if _can_tell(case, its)
        }
    for key, there in _measures(case):
        kind = "unit RMS" if key.endswith("unit_rms") else "as they are"
        measure = MEASURES[key.removesuffix("_unit_rms")]
        columns.append(Column(f"{key}_rank", f"ρ, {measure}, {kind}", ".2f", best="high"))
        if key.startswith("success"):
            columns.append(Column(f"{key}_chosen", f"success at its best, {kind}", best="high"))
            for name, pick in (("the best timestep", max), ("a random timestep", _mean)):
                reference = {"score": name, f"{key}_chosen": _reference(case, there, pick)}
                _merge(rows, reference)
    plan = case.plan
    seeds = "1 seed" if plan.study_seeds == 1 else f"up to {plan.study_seeds} seeds"
    note = (
        f"At each of the timesteps {', '.join(map(str, timesteps_of(case)))} alone a mapper is "
        f"trained, {plan.budget.steps} steps of batch {plan.budget.batch_size} at a guidance scale "
        f"of {plan.budget.guidance_scale:g}; as they are, or with unit-RMS gradients; "
        f"{len(case.ablation_prompts)} prompts, {seeds}. ρ is Spearman's "
        "rank correlation over timesteps of a score with what the edits reached, its mean over "
        "prompts and seeds with an interval of 95 %. “Success at its best”: of the edits trained "
        "at the timestep that the score puts first."
    )
    notes = [note, *_tested(case, p_values), *_without_rank(case)]
    ranked = range(len(variants(case)))
    title = "Scores of a timestep against what training at it alone achieves"
    return Table("hqs", title, columns, rows, notes, ranked=list(ranked))


def _against_hqs(case: Case, there: Measured) -> dict[str, float]:
    """Return of each other score whether its ρ with success differs from that of HQS: p-values of
    sign-flip tests over prompts, Holm over scores."""
    ranks = {
        variant.name: _prompt_ranks(variant, found["curves"], there)
        for variant in variants(case)
        if (found := case.store.find(curves(case, variant))) is not None
    }
    if "HQS" not in ranks:
        return {}
    of_hqs, p_values = ranks.pop("HQS"), {}
    for name, its in ranks.items():
        pairs = zip(its, of_hqs, strict=True)
        differences = [a - b for a, b in pairs if a is not None and b is not None]
        if differences:
            p_values[name] = sign_flip_test(differences)
    return holm(p_values)


def _prompt_ranks(
    variant: Variant, found: Sequence[Mapping[str, Any]], there: Measured
) -> list[float | None]:
    """Return the rank correlation of each prompt, the mean over seeds; None where it has none."""
    means = []
    for p, one in enumerate(found):
        ranks = [rank_correlation(one[variant.score], seed[p]) for seed in there.values]
        known = [rank for rank in ranks if rank is not None]
        means.append(_mean(known) if known else None)
    return means


def _least_p(case: Case, p_values: Mapping[str, float]) -> float:
    """Return the smallest p that so many prompts and scores can have."""
    return len(p_values) * 2.0 ** (1 - len(case.ablation_prompts))


def _can_tell(case: Case, p_values: Mapping[str, float]) -> bool:
    return _least_p(case, p_values) < 0.05


def _tested(case: Case, p_values: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Say which scores are told from HQS by their ρ with success."""
    count = len(case.ablation_prompts)
    for key, its in p_values.items():
        if not its:
            continue
        kind = "unit-RMS gradients" if key.endswith("unit_rms") else "gradients as they are"
        how = "two-sided sign-flip tests over prompts, Holm over scores"
        least = _least_p(case, its)
        if not _can_tell(case, its):
            yield (
                f"{count} prompts are too few to tell any of {len(its)} scores from HQS by its ρ "
                f"with success, {kind} ({how}: no p can be below {least:.2g})."
            )
            continue
        told = [f"“{name}” (p = {p:.2g})" for name, p in its.items() if p < 0.05]
        yield (
            f"Told from HQS by their ρ with success, {kind}: {', '.join(told) or 'none'} ({how}; "
            f"no p can be below {least:.2g})."
        )


def _without_rank(case: Case) -> Iterator[str]:
    """Name the prompts that have no rank correlation, since all timesteps reached the same."""
    for gradients in GRADIENTS:
        there = measured(case, gradients, "success")
        if there is None:
            continue
        alike = [
            f"“{prompt}”"
            for p, prompt in enumerate(case.ablation_prompts)
            if all(len(set(seed[p])) == 1 for seed in there.values)
        ]
        if alike:
            yield (
                f"With {LABELS[gradients]} success is the same at all timesteps of "
                f"{', '.join(alike)}: there is no ρ, and the means are over the other prompts."
            )


def by_timestep(case: Case) -> list[Table]:
    """Return success and HQS at each timestep, prompt by prompt, for each kind of gradients."""
    found = case.store.find(curves(case, variants(case)[0]))
    made = []
    for gradients, rms in GRADIENTS.items():
        there = measured(case, gradients, "success") or measured(case, gradients, "clip_direction")
        if there is None or found is None:
            continue
        columns = [Column("prompt", "prompt")]
        columns += [Column(str(t), f"t = {t}", ".2f") for t in there.timesteps]
        rows: list[dict[str, Any]] = []
        for p, prompt in enumerate(case.ablation_prompts):
            means = torch.tensor([seed[p] for seed in there.values]).mean(0).tolist()
            scores = found["curves"][p]["entropy and L1"]
            steps = [str(t) for t in there.timesteps]
            rows.append({"prompt": f"{prompt}: success", **dict(zip(steps, means, strict=True))})
            rows.append({"prompt": "HQS", **dict(zip(steps, scores, strict=True))})
        suffix = "" if rms is None else "-unit-rms"
        title = f"Timestep by timestep ({LABELS[gradients]})"
        made.append(Table(f"hqs-timesteps{suffix}", title, columns, rows))
    return made


def _measures(case: Case) -> Iterator[tuple[str, Measured | None]]:
    for gradients, rms in GRADIENTS.items():
        for measure in MEASURES:
            key = measure if rms is None else f"{measure}_unit_rms"
            yield key, measured(case, gradients, measure)


def _ranks(case: Case, scores: Sequence[Sequence[float]], there: Measured) -> Interval | str:
    """Return the mean rank correlation; prompts of which all timesteps are alike have none."""
    groups = []
    for p, its in enumerate(scores):
        found = [rank_correlation(its, seed[p]) for seed in there.values]
        known = [torch.tensor([rho], dtype=torch.float64) for rho in found if rho is not None]
        if known:
            groups.append(known)
    return case.interval(groups, over=("prompts", "seeds")) if groups else "all timesteps alike"


def _chosen(
    case: Case, scores: Sequence[Sequence[float]], there: Measured | None
) -> Interval | None:
    if there is None:
        return None
    best = [max(range(len(its)), key=its.__getitem__) for its in scores]
    groups = [
        [torch.tensor([seed[p][i]], dtype=torch.float64) for seed in there.values]
        for p, i in enumerate(best)
    ]
    return case.interval(groups, over=("prompts", "seeds"))


def _reference(case: Case, there: Measured | None, pick: Any) -> Interval | None:
    """Return what picking a timestep for each prompt by hindsight, or at random, would reach."""
    if there is None:
        return None
    groups: list[list[Tensor]] = [
        [torch.tensor([pick(seed[p])], dtype=torch.float64) for seed in there.values]
        for p in range(len(there.values[0]))
    ]
    return case.interval(groups, over=("prompts", "seeds"))


def _merge(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    for one in rows:
        if one["score"] == row["score"]:
            one.update(row)
            return
    rows.append({**row})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
