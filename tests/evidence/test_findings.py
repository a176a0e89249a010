"""Sentences about the paper's claims, from made-up tables: they follow the figures, either way."""

from __future__ import annotations

from collections.abc import Sequence

from sdd_fast.evidence.findings import findings
from sdd_fast.evidence.table import Column, Table
from sdd_fast.evidence.table3 import COMPARED
from sdd_fast.metrics.interval import Interval


def at(estimate: float, spread: float = 0.02) -> Interval:
    return Interval(estimate, estimate - spread, estimate + spread, 0.95, "by hand", 10)


def tables(
    success: Sequence[float] = (0.9, 0.7, 0.95),
    strategies: Sequence[float] = (0.2, 0.3, 0.4, 0.5, 0.0),
    even: int | str = 48,
    total: float = 500.0,
) -> dict[str, list[Table]]:
    names = ("SDD (ours)", "SDEdit", "InstructPix2Pix (supervised)")
    rows = [{"editor": n, "success": at(x)} for n, x in zip(names, success, strict=True)]
    seconds = [{"editor": "SDD (ours)", "edit": 0.01, "total": 30.0}]
    seconds += [{"editor": "SDD (ours), prompts as one", "edit": 0.01, "total": 15.0}]
    seconds += [{"editor": "SDEdit", "edit": 0.5, "break_even": even, "total": total,
                 "break_even_as_one": 21}]  # fmt: skip
    order = ("random", "small ξ", "large ξ", "largest HQS", "lowest HQS")
    ablation = [{"strategy": s, "success": at(x)} for s, x in zip(order, strategies, strict=True)]
    note = f"Success of {COMPARED}: +0.300; p = 0.001."
    scores = [{"score": "HQS", "success_rank": at(0.8)},
              {"score": "L1", "success_rank": at(0.9), "success_p": 0.25}]  # fmt: skip
    columns = [Column("editor", "editor")]
    return {
        "table1": [
            Table("table1", "", columns, rows, ranked=[0, 1]),
            Table("table1-time", "", columns, seconds),
        ],
        "table3": [
            Table("table3", "", columns, ablation, [note]),
            Table("table3-unit-rms", "", columns, [{"strategy": s} for s in order]),
        ],
        "hqs": [Table("hqs", "", columns, scores)],
    }


def test_claims_that_hold() -> None:
    told = findings(tables())
    assert any("ours has the better mean, the intervals are apart" in one for one in told)
    assert not any("InstructPix2Pix" in one for one in told)  # no rival
    assert any("cheaper than SDEdit from 48 images" in one and "50 times" in one for one in told)
    assert "Time: with the prompts selected for and trained together, from 21 images on." in told
    assert any("is in the paper's order: random 0.200, small ξ 0.300" in one for one in told)
    assert any(one.endswith("timesteps: +0.300; p = 0.001.") for one in told)
    assert any(
        "0.80 [0.78, 0.82]; most has “L1”, 0.90 (against HQS p = 0.25)" in one for one in told
    )
    assert any(one.endswith("no `sdd bench train`: no other editor takes less.") for one in told)
    assert not any("unit-RMS" in one for one in told)  # not measured


def test_seeds_are_told_by_their_extremes() -> None:
    rows = [{"seed": s, "success": at(x)} for s, x in ((0, 0.9), (1, 0.7), ("all", 0.8))]
    measured = tables()
    measured["table1"].append(Table("table1-seeds", "", [Column("seed", "seed")], rows))
    (told,) = (one for one in findings(measured) if "seeds" in one)
    assert told == ("Ours selected for and trained with each of 2 seeds: success 0.700 to 0.900.")


def test_claims_that_do_not_hold() -> None:
    told = findings(tables((0.7, 0.71, 0.9), (0.5, 0.3, 0.4, 0.2, 0.0), "never", 9.0))
    assert any("ours has not the better mean, the intervals are not apart" in one for one in told)
    assert any("SDD is never cheaper" in one for one in told)
    assert any(one.endswith("no `sdd bench train`: less is taken by SDEdit.") for one in told)
    assert any("mean success is not in the paper's order" in one for one in told)


def test_an_editor_of_ours_that_does_nothing_is_not_praised_for_keeping_the_rest() -> None:
    lazy = tables((0.1, 0.7, 0.9))
    (quality, *_) = lazy["table1"]
    lazy["table1"][0] = Table("table1", "", quality.columns, quality.rows, ranked=[1])
    told = findings(lazy)
    assert any("Success: ours 0.100 [0.080, 0.120]: it does not reach" in one for one in told)
    assert not any("better mean" in one or "Others kept" in one for one in told)


def test_a_table_3_of_which_all_means_are_equal_has_no_order() -> None:
    told = findings(tables(strategies=(0.0, 0.0, 0.0, 0.0, 0.0)))
    assert any("mean success is the same for all: random 0.000" in one for one in told)
    assert not any("paper's order" in one for one in told)


def test_what_a_training_took_that_is_not_in_the_total_is_not_compared() -> None:
    measured = tables()
    (_, seconds) = measured["table1"]
    student = {"editor": "Few-step student", "edit": 0.01, "total": 1.0}
    columns = [Column("editor", "editor")]
    measured["table1"][1] = Table(
        "table1-time", "", columns, [*seconds.rows, student], ranked=range(len(seconds.rows))
    )
    assert any(one.endswith("no other editor takes less.") for one in findings(measured))


def test_a_score_that_so_few_prompts_cannot_tell_from_hqs_has_no_p() -> None:
    measured = tables()
    (scores,) = measured["hqs"]
    rows = [{**row, "success_p": None} for row in scores.rows]
    measured["hqs"] = [Table("hqs", "", scores.columns, rows)]
    told = findings(measured)
    assert any("“L1”, 0.90 (too few prompts to tell it from HQS)" in one for one in told)
