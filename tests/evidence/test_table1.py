"""Tables 1 and 2 on made-up numbers: costs, and what is paired with what."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdd_fast.baselines import BASELINES, TRAINED, Baseline
from sdd_fast.domains import Domain
from sdd_fast.domains.fashion32 import reader as clothes_reader
from sdd_fast.evidence import editing, table1
from sdd_fast.evidence.case import Case
from sdd_fast.evidence.plan import Plan
from sdd_fast.evidence.store import Outcome, Store
from sdd_fast.evidence.table1 import Cost
from sdd_fast.evidence.together import together
from sdd_fast.metrics.interval import Interval


def test_costs_are_means_over_prompts_and_sums_of_eq_13_to_15() -> None:
    units = {
        "a": {"seconds": {"selection": 4.0, "training": 20.0, "edits": 1.0}, "images": 100},
        "b": {"seconds": {"selection": 6.0, "training": 40.0, "edits": 3.0}, "images": 100},
    }
    cost = Cost.of(units)
    assert (cost.selection, cost.training, cost.edit) == (5.0, 30.0, 0.02)
    assert cost.total(m=100, n=10) == pytest.approx(10 * 35 + 1000 * 0.02)


def test_what_is_done_once_counts_once_however_many_prompts_there_are() -> None:
    units = {
        name: {"seconds": {"once": once, "edits": 1.0}, "images": 100}
        for name, once in (("a", 111.0), ("b", 0.001))  # found already by the second
    }
    cost = Cost.of(units)
    assert cost.once == 111.0 and cost.beforehand == 0.0
    assert cost.total(m=100, n=10) == pytest.approx(111.0 + 1000 * 0.01)


def test_the_break_even_is_the_first_number_of_images_that_costs_less() -> None:
    ours, theirs = Cost(5.0, 30.0, 0.02), Cost(0.0, 0.0, 0.5)
    m = ours.cheaper_from(theirs)
    assert m == math.floor(35 / 0.48) + 1
    assert ours.total(m, 1) < theirs.total(m, 1) and ours.total(m - 1, 1) >= theirs.total(m - 1, 1)


def test_an_editor_that_is_trained_and_slower_is_beaten_at_once_and_a_faster_one_never() -> None:
    ours = Cost(5.0, 30.0, 0.02)
    assert ours.cheaper_from(Cost(0.0, 100.0, 0.02)) == 1
    assert ours.cheaper_from(Cost(0.0, 0.0, 0.01)) is None


def test_an_editor_of_faster_edits_and_a_longer_training_is_beaten_up_to_a_number_of_images() -> (
    None
):
    ours, theirs = Cost(5.0, 30.0, 0.02), Cost(0.0, 40.0, 0.01)
    m = ours.cheaper_to(theirs)
    assert m is not None and table1._break_even(ours, theirs) == f"up to {m}"
    assert ours.total(m, 1) < theirs.total(m, 1) and ours.total(m + 1, 1) >= theirs.total(m + 1, 1)
    for other in (Cost(0.0, 0.0, 0.01), Cost(0.0, 35.005, 0.01)):
        assert ours.cheaper_to(other) is None and table1._break_even(ours, other) == "never"
    assert ours.cheaper_to(Cost(0.0, 100.0, 0.02)) is None  # at any number: `cheaper_from`


class Rival(Baseline):
    name, paper, optimizes = "Rival", "nobody", ("clip",)


class Taught(Baseline):
    name, paper, supervised = "Taught (supervised)", "nobody", True


def values(hits: int, kept: float, error: float, first: int = 0) -> dict[str, Any]:
    """What a unit keeps of 20 images from photograph `first` on, of which so many show the
    target."""
    return {
        "success": [i < hits for i in range(20)],
        "kept": [kept] * 19 + [None],
        "counterfactual_error": [error + 0.01 * (i % 2) for i in range(20)],
        "photographs": [str(i) for i in range(first, first + 20)],
        "images": 20, "clock": "wall time", "seconds": {"edits": 2.0},
    }  # fmt: skip


FOUND = {
    "ours": {"white hair": values(18, 0.9, 0.1), "a smiling face": values(16, 0.9, 0.1, 20)},
    "rival": {"white hair": values(10, 0.8, 0.2), "a smiling face": values(12, 0.8, 0.2, 20)},
    "taught": {"white hair": values(20, 0.99, 0.0)},
}


@pytest.fixture
def case(tiny: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(editing, "BASELINES", {"rival": Rival, "taught": Taught})
    return Case(tiny, Plan.quick(images=20, resamples=50), Store(tmp_path))


def test_quality_is_the_mean_over_prompts_and_a_supervised_editor_is_no_rival(case: Case) -> None:
    table = table1.quality(case, FOUND, "table1", "")
    ours, _, taught, nothing, right = table.rows
    assert isinstance(ours["success"], Interval)
    assert ours["success"].estimate == pytest.approx((18 / 20 + 16 / 20) / 2)
    assert ours["kept"].estimate == pytest.approx(0.9)  # what could not be asked is left out
    assert taught["editor"] == "Taught (supervised)" and taught["prompts"] == 1
    assert (nothing["editor"], right["editor"]) == ("no edit", "right answer")
    assert table.ranked == [0, 1]
    lines = {line.split(" | ")[0]: line for line in table.markdown().splitlines()}
    assert "**0.850" in lines["| SDD (ours)"] and "**" not in lines["| Taught (supervised)"]
    assert "identity" in lines["| editor"] and "not measured" in lines["| Rival"]


def test_a_domain_that_draws_no_right_answers_has_no_columns_for_them(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def text() -> str:
        tables = table1.quality(case, FOUND, "t", ""), table1.paired(case, FOUND, "t", "")
        return "\n".join(table.markdown() for table in tables)

    drawn = text()
    assert "| counterfactual error |" in drawn and "FID to right answers" in drawn
    assert "\n| right answer |" in drawn
    assert "not known in this domain" not in drawn
    monkeypatch.setitem(vars(case.domain), "reader", clothes_reader)
    told = text()
    assert "ounterfactual" not in told and "right answer" not in told
    assert "What a right edit looks like is not known in this domain." in told


def test_an_editor_that_does_nothing_is_no_rival_in_keeping_the_rest(case: Case) -> None:
    lazy = {**FOUND, "rival": {"white hair": values(2, 1.0, 0.2)}}
    table = table1.quality(case, lazy, "table1", "")
    assert table.ranked == [0]
    ours = {**FOUND, "ours": {"white hair": values(2, 1.0, 0.2)}}
    assert table1.quality(case, ours, "table1", "").ranked == [1]
    assert table1.quality(case, FOUND, "table1", "").ranked == [0, 1]


def test_no_distance_to_images_before_is_bold_and_the_least_to_right_answers_is(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter([3.0, 2.0, 1.0])
    monkeypatch.setattr(
        table1, "distances", lambda *of: dict.fromkeys(("fid", "kid", "fid_right"), next(made))
    )
    lines = table1.quality(case, FOUND, "table1", "").markdown().splitlines()
    rival = next(line for line in lines if line.startswith("| Rival"))
    assert "| 2 | 2.00 | 2.0000 | **2.00** |" in rival


def test_judges_that_had_a_part_in_edits_are_named(case: Case) -> None:
    notes = table1.quality(case, FOUND, "table1", "").notes
    (classified,) = (n for n in notes if n.startswith("No edit was made by the classifier"))
    assert (
        "It reads skin, hair color, " in classified
        and "the one that a prompt is about" in classified
    )
    assert any("The CLIP that judges also had a part in the edits of Rival:" in n for n in notes)
    assert any("identity network" in note and "SDD (ours)" in note for note in notes)
    unjudged = SimpleNamespace(classifier=None, clip=None, identity=None, reader=None)
    assert list(table1._judges(unjudged, FOUND)) == []  # type: ignore[arg-type]


def test_what_a_loss_is_made_of_is_what_an_editor_optimizes() -> None:
    for cls in BASELINES.values():
        settings = inspect.signature(cls).parameters
        assert ("identity_weight" in settings) == ("identity" in cls.optimizes)
        assert getattr(cls, "guided_by_clip", False) == ("clip" in cls.optimizes)
    for cls in TRAINED.values():
        assert cls.supervised == cls.name.endswith("(supervised)")


def test_a_table_tells_how_many_images_there_were_not_how_many_were_asked_for(case: Case) -> None:
    asked = replace(case, plan=replace(case.plan, images=500))
    assert table1.quality(asked, FOUND, "table1", "").notes[0].startswith("20 images that lack")
    assert table1.quality(asked, {}, "table1", "").notes[0].startswith("500 images")


def test_two_prompts_of_one_photograph_count_as_one(case: Case) -> None:
    shared = {
        key: {prompt: {**one, "photographs": [str(i) for i in range(20)]}
              for prompt, one in its.items()}
        for key, its in FOUND.items() if key != "taught"
    }  # fmt: skip
    (rival,) = table1.paired(case, shared, "p", "").rows
    # 8 of 20 photographs differ by one prompt, 4 by another: images 10 to 17 and 12 to 15.
    assert rival["success_p"] == pytest.approx(2 / 2**8)
    assert "there are 20 of them" in table1.paired(case, shared, "p", "").notes[0]


def test_edits_that_take_as_long_never_make_up_for_a_training() -> None:
    ours = Cost(5.0, 15.0, 0.0101)
    assert table1._break_even(ours, Cost(0.0, 10.0, 0.0102)) == "edits alike"
    assert table1._break_even(ours, Cost(0.0, 10.0, 0.0202)) == math.floor(10 / 0.0101) + 1


def test_pairs_are_of_the_same_prompts_and_images(case: Case) -> None:
    rival, taught = table1.paired(case, FOUND, "p", "").rows
    assert rival["success"].estimate == pytest.approx((0.4 + 0.2) / 2)
    # 12 of 40 images differ, all to our advantage: two of 2¹² signs give as much.
    assert rival["success_p"] == pytest.approx(2 * 2 / 2**12)  # twice, by Holm, of two rows
    assert taught["success"].estimate == pytest.approx(-0.1)
    assert "there are 40 of them" in table1.paired(case, FOUND, "p", "").notes[0]
    assert taught["kept"].estimate == pytest.approx(-0.09)


def test_ours_of_prompts_as_one_has_its_own_times_and_break_even(case: Case) -> None:
    seconds = {"selection": 1.0, "training": 4.0}
    outcome = Outcome({"prompts": [], "clock": "wall time", "seconds": seconds})
    case.store.keep(together(case), outcome)
    before = {"selection": 10.0, "training": 30.0}
    found = {
        "ours": {"a": {"seconds": before | {"edits": 2.0}, "images": 20, "clock": "wall time"}},
        "rival": {"a": {"seconds": {"edits": 10.0}, "images": 20, "clock": "wall time"}},
    }
    alone, as_one, rival = table1.time(case, found, "t", "").rows
    assert alone["training"] == 30.0 and as_one["editor"] == "SDD (ours), prompts as one"
    assert (as_one["selection"], as_one["training"], as_one["edit"]) == (1.0, 4.0, 0.1)
    assert as_one["total"] == pytest.approx(10 * (5 + 20 * 0.1))
    assert rival["break_even"] == math.floor(40 / 0.4) + 1
    assert rival["break_even_as_one"] == math.floor(5 / 0.4) + 1
