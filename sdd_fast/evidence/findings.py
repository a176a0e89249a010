"""What the tables say about the paper's claims, in sentences made from their figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..metrics.interval import Interval
from .seeds import ALL, FIGURES
from .table import Table, shown
from .table1 import AS_ONE
from .table3 import COMPARED, STRATEGIES

Row = Mapping[str, Any]

_ORDER = [strategy for strategy in STRATEGIES if strategy != "lowest HQS"]
"""The paper's, in which the effect of an edit grows."""


def findings(tables: Mapping[str, Sequence[Table]]) -> list[str]:
    """Return the sentences that there are figures for.

    Args:
        tables: part → its tables, as of `paper.tables_of`.
    """
    by_name = {table.name: table for its in tables.values() for table in its}
    return [
        *_quality(by_name["table1"]),
        *(_seeds(by_name["table1-seeds"]) if "table1-seeds" in by_name else ()),
        *_time(by_name["table1-time"]),
        *_ordering(by_name["table3"], "with gradients as they are"),
        *_ordering(by_name["table3-unit-rms"], "with unit-RMS gradients"),
        *_scores(by_name["hqs"]),
    ]


def _quality(table: Table) -> Iterator[str]:
    """Compare ours with the best of the others that nobody supervised, figure by figure."""
    if not table.rows:
        return
    ours: Row = table.rows[0]
    others: list[Row] = [table.rows[i] for i in table.ranked or () if i > 0]
    if 0 not in (table.ranked or ()):
        if isinstance(ours.get("success"), Interval):
            yield (
                f"Success: ours {shown(ours['success'])}: it does not reach the target at least "
                "every second time, and is not compared in what it keeps."
            )
        return
    for key, name, better in (
        ("success", "success", 1),
        ("kept", "others kept", 1),
        ("counterfactual_error", "counterfactual error", -1),
    ):
        mine = ours.get(key)
        theirs = [(row["editor"], row[key]) for row in others if isinstance(row.get(key), Interval)]
        if not isinstance(mine, Interval) or not theirs:
            continue
        rival, its = max(theirs, key=lambda pair: better * pair[1].estimate)
        ahead = better * (mine.estimate - its.estimate)
        verdict = "ours has the better mean" if ahead > 0 else "ours has not the better mean"
        apart = "apart" if mine.apart(its) else "not apart"
        title = name.capitalize()
        yield (
            f"{title}: ours {shown(mine)}; the best of the other unsupervised editors that reach "
            f"the target at least every second time, {rival}, {shown(its)}: {verdict}, the "
            f"intervals are {apart}."
        )


def _seeds(table: Table) -> Iterator[str]:
    """Say how far the figures of ours lie apart that differ in the seed alone."""
    rows: list[Row] = [row for row in table.rows if row["seed"] != ALL]
    told = []
    for key, name in FIGURES.items():
        means = [row[key].estimate for row in rows if isinstance(row.get(key), Interval)]
        if rows and len(means) == len(rows):
            told.append(f"{name} {min(means):.3f} to {max(means):.3f}")
    if told:
        yield f"Ours selected for and trained with each of {len(rows)} seeds: {', '.join(told)}."


def _time(table: Table) -> Iterator[str]:
    rows: dict[Any, Row] = {row["editor"]: row for row in table.rows}
    ours, theirs = next(iter(rows.values())), rows.get("SDEdit")
    if theirs is None or ours.get("edit") is None or theirs.get("edit") is None:
        return
    even, ratio = theirs["break_even"], theirs["edit"] / ours["edit"]
    if even == "never":
        yield "An edit by SDEdit takes no longer than ours: SDD is never cheaper."
    elif isinstance(even, int):
        yield (
            f"Time: with selection and training included, SDD is cheaper than SDEdit from {even:,} "
            f"images of a prompt on; an edit by SDEdit takes {ratio:.0f} times as long as ours."
        )
    if isinstance(as_one := theirs.get("break_even_as_one"), int):
        yield (
            f"Time: with the prompts selected for and trained together, from {as_one:,} images on."
        )
    among = range(len(table.rows)) if table.ranked is None else table.ranked
    compared: dict[Any, Row] = {table.rows[i]["editor"]: table.rows[i] for i in among}
    totals = {
        name: row["total"]
        for name, row in compared.items()
        if row.get("total") is not None and not name.endswith(AS_ONE)
    }
    if (mine := totals.pop(ours["editor"], None)) is not None and totals:
        less = "; ".join(name for name, total in totals.items() if total < mine)
        told = f"less is taken by {less}" if less else "no other editor takes less"
        yield (
            f"Time of all images of all prompts, of editors that need no `sdd bench train`: {told}."
        )


def _ordering(table: Table, how: str) -> Iterator[str]:
    """Say whether success grows in the paper's order."""
    rows: dict[Any, Any] = {row["strategy"]: row.get("success") for row in table.rows}
    values = [rows[strategy] for strategy in _ORDER]
    if any(not isinstance(value, Interval) for value in values):
        return
    means = [value.estimate for value in values]
    rises = all(a <= b for a, b in zip(means, means[1:], strict=False)) and means[0] < means[-1]
    told = ", ".join(f"{name} {mean:.3f}" for name, mean in zip(_ORDER, means, strict=True))
    verdict = "is in the paper's order" if rises else "is not in the paper's order"
    if len(set(means)) == 1:
        verdict = "is the same for all"
    yield (
        f"Table 3 {how}: mean success {verdict}: {told}; of these differences, that of largest HQS "
        "and random alone is tested."
    )
    for note in table.notes:
        if note.startswith(f"Success of {COMPARED}"):
            yield f"Table 3 {how}: {note[0].lower()}{note[1:]}"


def _scores(table: Table) -> Iterator[str]:
    """Say how well HQS predicts success, and whether another score does better."""
    rows: dict[Any, Row] = {row["score"]: row for row in table.rows}
    for key, how in (("success", "gradients as they are"), ("success_unit_rms", "unit RMS")):
        rank = rows["HQS"].get(f"{key}_rank")
        if not isinstance(rank, Interval):
            continue
        known = [
            (row["score"], row[f"{key}_rank"].estimate)
            for row in rows.values()
            if isinstance(row.get(f"{key}_rank"), Interval)
        ]
        best, rho = max(known, key=lambda pair: pair[1])
        better = (
            "no variant has more"
            if best == "HQS"
            else f"most has “{best}”, {rho:.2f}"
            + (
                " (too few prompts to tell it from HQS)"
                if (p := rows[best].get(f"{key}_p")) is None
                else f" (against HQS p = {p:.2g})"
            )
        )
        yield (
            f"HQS against the success of training at one timestep ({how}): rank correlation "
            f"{shown(rank, '.2f')}; {better}."
        )
        chosen, top, mean = (
            rows.get(name, {}).get(f"{key}_chosen")
            for name in ("HQS", "the best timestep", "a random timestep")
        )
        if all(isinstance(one, Interval) for one in (chosen, top, mean)):
            yield (
                f"Trained at the timestep of the largest HQS ({how}): success {shown(chosen)}; at "
                f"the best one in hindsight {shown(top)}, at a random one {shown(mean)}."
            )
