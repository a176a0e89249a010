"""Units of work: kept as they come, found again by what they depend on, never done twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdd_fast.evidence.store import Outcome, Store, Unit, complete
from sdd_fast.progress import Progress


def unit(name: str, log: list[str], *, turn: int = 0, error: Any = None, **depends: Any) -> Unit:
    def run() -> Outcome:
        log.append(name)
        if error is not None:
            raise error
        return Outcome({"name": name})

    return Unit(name, depends, run, turn=turn)


def test_an_interruption_loses_only_the_unit_that_was_under_way(tmp_path: Path) -> None:
    log: list[str] = []
    store = Store(tmp_path / "units")
    stopped = [unit("a", log), unit("b", log, error=KeyboardInterrupt()), unit("c", log)]
    with pytest.raises(KeyboardInterrupt, match="1 of 3 measurements done"):
        complete(stopped, store, progress=False)
    assert log == ["a", "b"]
    assert complete([unit(name, log) for name in "abc"], store, progress=False) == {}
    assert log == ["a", "b", "b", "c"]  # "a" was not done again
    complete([unit(name, log) for name in "abc"], store, progress=False)
    assert len(log) == 4


def test_another_setting_is_another_unit_and_the_old_one_stays(tmp_path: Path) -> None:
    log: list[str] = []
    store = Store(tmp_path)
    few, more = unit("a", log, steps=80), unit("a", log, steps=90)
    assert few.digest != more.digest
    assert unit("a", log, steps=80, batch=4).digest == unit("a", log, batch=4, steps=80).digest
    complete([few], store, progress=False)
    assert store.find(few) == {"name": "a"} and store.find(more) is None
    complete([more], store, progress=False)
    assert log == ["a", "a"] and store.find(few) is not None


def test_units_of_earlier_turns_come_first_in_the_order_given(tmp_path: Path) -> None:
    log: list[str] = []
    units = [unit("b", log, turn=1), unit("c", log, turn=1), unit("a", log), unit("d", log, turn=2)]
    complete(units, Store(tmp_path), progress=False)
    assert log == ["a", "b", "c", "d"]


def test_what_a_domain_cannot_do_is_told_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    log: list[str] = []
    units = [unit("a", log, error=ValueError("the domain has no encoder")), unit("b", log)]
    failures = complete(units, Store(tmp_path), progress=False)
    assert failures == {"a": "the domain has no encoder"}
    assert Store(tmp_path).find(units[0]) is None and Store(tmp_path).find(units[1]) is not None


def test_an_editor_that_fails_in_an_unforeseen_way_is_told_with_the_kind_of_its_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    units = [unit("a", log, error=TypeError("no such argument")), unit("b", log)]
    assert complete(units, Store(tmp_path), progress=False) == {"a": "TypeError: no such argument"}
    assert log == ["a", "b"] and "Traceback" in caplog.text


def test_what_failed_before_an_interruption_is_told(tmp_path: Path) -> None:
    units = [
        unit("a", [], error=ValueError("no encoder")), unit("b", [], error=KeyboardInterrupt()),
    ]  # fmt: skip
    failures: dict[str, str] = {}
    with pytest.raises(KeyboardInterrupt):
        complete(units, Store(tmp_path), progress=False, failures=failures)
    assert failures == {"a": "no encoder"}


def test_where_units_were_measured_is_kept_beside_them(tmp_path: Path) -> None:
    then, now = Store(tmp_path, {"torch": "2.0"}), Store(tmp_path, {"torch": "3.0"})
    a, b, c, d = (unit(name, []) for name in "abcd")
    Store(tmp_path).keep(a, Outcome({"x": 1}))
    then.keep(b, Outcome({"x": 1}))
    for one in (c, c, d):
        now.keep(one, Outcome({"x": 1}))
    found = now.origins([a, b, c, c, d, unit("e", [])])
    assert found[0] == ({"torch": "3.0"}, 2)
    assert sorted(count for _, count in found) == [1, 1, 2] and ({}, 1) in found
    assert now.find(b) == {"x": 1}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store, one = Store(tmp_path), unit("a", [])
    store.keep(one, Outcome({"x": 1}))
    (file,) = tmp_path.glob("a-*.json")
    file.write_text(file.read_text()[:20])
    with pytest.raises(ValueError, match=f"{file} is damaged .* delete it"):
        store.find(one)


def test_images_of_a_unit_come_back_to_8_bits(tmp_path: Path) -> None:
    store, one = Store(tmp_path), unit("table/a", [])
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    store.keep(one, Outcome({}, {"edits": images}))
    found = store.strip(one, "edits")
    assert found is not None and found.shape == images.shape
    assert float((found - images).abs().max()) <= 1 / 255 + 1e-6
    assert store.strip(one, "others") is None


def test_progress_counts_what_was_done_in_earlier_sittings(tmp_path: Path) -> None:
    log: list[str] = []
    store, events = Store(tmp_path), list[Progress]()
    complete([unit("a", log)], store, progress=False)
    complete([unit(name, log) for name in "ab"], store, progress=events.append)
    assert (events[0].done, events[0].total) == (1, 2)
    assert events[-1].closed and events[-1].done == 2
