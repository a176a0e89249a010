"""A measurement of a tiny domain: every unit is timed, an interrupted one goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_domain import write_tiny_domain

import sdd_fast as sdd
from sdd_fast.progress import Progress
from sdd_fast.timing.equations import Plan
from sdd_fast.timing.record import FILE, FORMAT, Record
from sdd_fast.timing.report import crossings, duration, figure, markdown, verdict
from sdd_fast.timing.stages import Stage
from sdd_fast.timing.time_cost import FIGURE, TABLES, time_cost
from sdd_fast.timing.units import Case, units_of

PLAN = Plan(images=50, prompts=2, steps=30, timesteps=2, searched=3)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Case:
    folder = write_tiny_domain(tmp_path_factory.mktemp("domain") / "tiny", tiny_sd)
    return Case.of(sdd.load_domain(folder), "white hair", [300, 700], 3, 2, quick=True)


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    a = torch.randn(64, 64)
    pair = [Stage.of("ceiling", "product", lambda: a @ a, 1)]
    pair.append(Stage.of("ceiling", "copy", a.clone, 1))
    monkeypatch.setattr("sdd_fast.timing.time_cost.ceilings", lambda *of: pair)


def test_every_unit_is_measured_and_what_follows_is_computed(case: Case, tmp_path: Path) -> None:
    result = time_cost(case, tmp_path, PLAN, rounds=2, progress=False)
    there = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    names = {unit.name for unit in units_of(case)}
    assert {"evaluation", "setup", "step", "edit", "sdedit-2", "sdedit-6", "solver-8"} == names
    assert {len(samples) for samples in there["samples_s"].values()} == {2}
    assert names < set(there["samples_s"])
    assert {one["unit"] for one in there["stages"]} == {"evaluation", "step", "edit"}
    assert all(work["moved"] > 0 for work in there["work"].values())
    assert sum(work["flop"] > 0 for work in there["work"].values()) >= len(there["work"]) - 2

    units, ours = there["units"], there["ours"]
    before = units["evaluation"]["median"] * 6 + units["setup"]["median"]
    assert ours["beforehand"] == pytest.approx(before + 30 * units["step"]["median"])
    assert ours["total"] == pytest.approx(2 * ours["beforehand"] + 100 * ours["edit"])
    of_ddim = there["others"]["SDEdit, 50 DDIM steps"]
    assert of_ddim["edit_is"] == "computed from 2 and 6 steps"
    assert of_ddim["total"] == pytest.approx(100 * of_ddim["edit"])
    assert result["others"] == there["others"]
    text = (tmp_path / TABLES).read_text(encoding="utf-8")
    assert "## Measured: units" in text and "## Computed: 50 images for each of 2 prompts" in text
    assert (tmp_path / FIGURE).stat().st_size > 5000


class StopsAfter:
    """A listener that interrupts, and remembers what it heard."""

    def __init__(self, count: int) -> None:
        self.count, self.heard = count, list[Progress]()

    def __call__(self, event: Progress) -> None:
        self.heard.append(event)
        if event.done == self.count and not event.closed:
            raise KeyboardInterrupt


def test_an_interrupted_measurement_goes_on(case: Case, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="stopped after 3 of .* Run the same again"):
        time_cost(case, tmp_path, PLAN, rounds=1, progress=StopsAfter(3))
    first = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))["samples_s"]
    assert len(first) == 3
    again = StopsAfter(-1)
    time_cost(case, tmp_path, PLAN, rounds=1, progress=again)
    there = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert again.heard[0].done == 3 and again.heard[-1].done == again.heard[-1].total
    assert {key: there["samples_s"][key] for key in first} == first

    # Another plan needs no other samples.
    other = StopsAfter(-1)
    result = time_cost(case, tmp_path, replace(PLAN, images=7), rounds=1, progress=other)
    assert len(other.heard) == 2 and result["plan"]["images"] == 7
    assert (
        json.loads((tmp_path / FILE).read_text(encoding="utf-8"))["samples_s"]
        == (there["samples_s"])
    )
    with pytest.raises(ValueError, match="batch_size is 2 there and 1 now.*resume=False"):
        time_cost(replace(case, batch_size=1), tmp_path, PLAN, progress=False)


def test_files_of_something_else_are_kept(case: Case, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[]", encoding="utf-8")
    with pytest.raises(FileExistsError, match="no measurement of"):
        Record(tmp_path / FILE, {}, restart=True)
    for damaged in ({}, {"request": {}, "samples_s": {"step": ["1"]}, "work": {}}):
        (tmp_path / FILE).write_text(json.dumps({"format": FORMAT, **damaged}), encoding="utf-8")
        with pytest.raises(ValueError, match="is damaged.*Delete it"):
            Record(tmp_path / FILE, {})
    (tmp_path / FILE).write_text('{"format": ', encoding="utf-8")
    with pytest.raises(ValueError, match="Delete it, or choose another folder"):
        Record(tmp_path / FILE, {})
    (tmp_path / FILE).unlink()
    (tmp_path / TABLES).write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="would be replaced; choose another folder"):
        time_cost(case, tmp_path, PLAN, progress=False)
    assert (tmp_path / TABLES).read_text(encoding="utf-8") == "mine"


def test_sdedit_takes_two_rows_a_step(case: Case) -> None:
    prior, sdedit = case.domain.prior, [u for u in units_of(case) if "SDEdit" in u.what]
    rows = []
    for unit in sdedit:
        before = prior.unet_rows
        assert unit.seconds() > 0
        rows.append(prior.unet_rows - before)
    assert rows == [2 * steps * case.edits for steps in (2, 6, 8)]


def test_a_case_is_checked_before_anything_is_timed(case: Case) -> None:
    with pytest.raises(ValueError, match="timestep 2000 is out of range"):
        Case.of(case.domain, "white hair", [2000])
    with pytest.raises(ValueError, match="images must be a positive integer"):
        Case.of(case.domain, "white hair", images=0)
    whole = Case.of(case.domain, "white hair")
    assert len(whole.timesteps) == 19 and len(replace(whole, quick=True).timesteps) == 5


def results(ours: float, theirs: float) -> dict[str, Any]:
    spread = {"median": ours, "p20": ours, "p80": ours, "samples": 1}
    units = {name: {"what": name, **spread} for name in ("evaluation", "step", "edit")}
    even = None if theirs <= ours else 5
    other = {"edit": theirs, "edit_is": "measured", "total": theirs, "break_even": even}
    return {
        "plan": {"images": 1, "prompts": 1}, "units": units, "stages": [],
        "ceilings": {"flop_per_s": 1e12, "bytes_per_s": 1e9},
        "ours": {"selection": 1.0, "training": 3.0, "beforehand": 4.0, "edit": ours, "total": 4.0},
        "others": {"one": other, "two": other},
    }  # fmt: skip


def test_where_sdd_is_never_cheaper_the_tables_say_so() -> None:
    names = ("domain", "device", "dtype", "attention", "resolution", "teacher_resolution")
    request: dict[str, Any] = dict(zip(names, names, strict=True))
    request |= {"versions": {"torch": "2"}, "quick": False, "native_kernels": True, "threads": 1}
    never = results(2.0, 1.0)
    tables = markdown(request, never)
    assert "| 1 s | never |" in tables and "native" not in tables
    assert "Without the native kernels" in markdown(request | {"native_kernels": False}, never)
    figure(request, never)
    sentence = verdict("one", never["others"]["one"], never["ours"], Plan())
    assert "SDD takes longer for any number of images" in sentence
    cheaper = results(1.0, 2.0)
    assert "| 2 s | 5 images a prompt |" in markdown(request, cheaper)
    sentence = verdict("one", cheaper["others"]["one"], cheaper["ours"], Plan())
    assert "50% of SDD's time" in sentence and "from 5 on" in sentence


def test_durations_are_words_of_people() -> None:
    seconds = (0.00321, 0.25, 4.5, 89.0, 720.0, 12240.0)
    words = ["3.21 ms", "250 ms", "4.5 s", "89 s", "12 min", "3.4 h"]
    assert [duration(s) for s in seconds] == words


def test_the_crossings_are_drawn_where_sdd_becomes_cheaper() -> None:
    """100 s beforehand and 1 s an edit: cheaper than 3 s an edit from the 51st image on."""
    drawn = crossings("costs", "time", {"SDD": (100.0, 1.0)}, {"fast": 0.5, "slow": 3.0}, 2, 7)
    (axes,) = drawn.axes
    labels = [line.get_label() for line in axes.lines]
    assert {"SDD", "slow: 51 images", "fast: never"} <= set(labels)
    (dot,) = (line for line in axes.lines if line.get_marker() == "o")
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([51], [2 * 51 * 3.0])
    sdd, slow = (axes.lines[labels.index(name)] for name in ("SDD", "slow: 51 images"))
    for m, ours, theirs in zip(sdd.get_xdata(), sdd.get_ydata(), slow.get_ydata(), strict=True):
        assert ours == pytest.approx(2 * (100 + m)) and (ours < theirs) == (m > 50)
    drawn.canvas.draw()
    assert {"1 s", "10 min"} & {text.get_text() for text in axes.get_yticklabels()}
