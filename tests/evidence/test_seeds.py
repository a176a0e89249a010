"""Ours trained with other seeds, on made-up numbers and really."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdd_fast.domains import Domain
from sdd_fast.evidence import seeds, table1
from sdd_fast.evidence.case import Case
from sdd_fast.evidence.editing import OURS, editing
from sdd_fast.evidence.plan import Plan
from sdd_fast.evidence.store import Outcome, Store
from sdd_fast.metrics.interval import Interval


def values(hits: int) -> dict[str, Any]:
    """What a unit keeps of ten images, of which so many show the target."""
    return {"success": [i < hits for i in range(10)], "kept": [0.5] * 9 + [None]}


@pytest.fixture
def case(tiny: Domain, tmp_path: Path) -> Case:
    return Case(tiny, Plan.quick(images=10, resamples=50, training_seeds=3), Store(tmp_path))


def keep(case: Case, hits: dict[int, tuple[int, ...]]) -> None:
    """Keep units of seeds: seed → hits of prompt after prompt."""
    for seed, its in hits.items():
        for prompt, count in zip(case.prompts, its, strict=False):
            case.store.keep(editing(case, OURS, prompt, seed), Outcome(values(count)))


def test_every_seed_has_a_row_and_all_of_them_one(case: Case) -> None:
    keep(case, {0: (9, 7), 1: (5, 7), 2: (10, 10)})
    table = seeds.table(case)
    assert [row["seed"] for row in table.rows] == [0, 1, 2, "all"]
    assert [row["success"].estimate for row in table.rows] == pytest.approx([0.8, 0.6, 1.0, 0.8])
    every = table.rows[-1]["success"]
    assert isinstance(every, Interval) and every.low < 0.8 < every.high
    assert all(row["kept"].estimate == 0.5 for row in table.rows)  # what was not asked is left out
    assert [column.key for column in table.columns] == ["seed", "success", "kept"]


def test_a_seed_counts_once_all_its_prompts_are_measured(case: Case) -> None:
    keep(case, {0: (9, 7), 1: (5,), 2: (10, 10)})
    assert [row["seed"] for row in seeds.table(case).rows] == [0, 2, "all"]


def test_one_seed_alone_is_no_table(case: Case) -> None:
    assert table1.tables(case)[-1].name == "table1-seeds"
    keep(case, {0: (9, 7)})
    table = seeds.table(case)
    assert not table.rows and not table.measured
    alone = replace(case, plan=replace(case.plan, training_seeds=1))
    assert not seeds.units(alone)


def test_the_first_seed_is_that_of_table_1_and_another_one_another_mapper(
    tiny: Domain, tmp_path: Path
) -> None:
    plan = Plan.quick(images=4, steps=1, selection_images=1, prompts=1, training_seeds=2)
    case = Case(tiny, plan, Store(tmp_path))
    (prompt,) = case.prompts
    assert editing(case, OURS, prompt, 0).digest == editing(case, OURS, prompt).digest
    (other,) = seeds.units(case)
    assert other.digest != editing(case, OURS, prompt).digest
    first, second = (unit.run() for unit in (editing(case, OURS, prompt), other))
    assert first.values["photographs"] == second.values["photographs"]
    assert not first.strips["edits"].equal(second.strips["edits"])
