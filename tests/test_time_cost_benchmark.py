"""The benchmark of steps and edits: rows of the U-Net that editors take, a dry run, its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gpu_suite
import pytest
import time_cost
import torch
import turn_tables
from baselines import tuned
from baselines.networks import Networks, tiny
from diffusers import UNet2DConditionModel, UNet2DModel


@pytest.fixture(scope="module")
def networks() -> Networks:
    return tuned.prepare(tiny("cpu"), torch.float32)


EDITORS = time_cost.EDITORS | time_cost.WITH_OWN_NETWORKS


@pytest.mark.parametrize("name", list(EDITORS))
def test_rows_of_the_unet_a_step(
    name: str, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list[int]()
    network = UNet2DModel if name in time_cost.WITH_OWN_NETWORKS else UNet2DConditionModel
    forward = network.forward

    def counted(self: Any, sample: torch.Tensor, *rest: Any, **more: Any) -> Any:
        rows.append(len(sample))
        return forward(self, sample, *rest, **more)

    monkeypatch.setattr(network, "forward", counted)
    other = EDITORS[name]
    edit, counts = other.edit(networks, torch.rand(2, 3, 32, 32)), []
    for steps in (1, 3):
        rows.clear()
        assert edit(steps).shape == (2, 3, 32, 32)
        counts.append(sum(rows))
    assert counts == [2 * other.rows, 3 * 2 * other.rows]


def test_what_make_gpu_times_is_there() -> None:
    there = {case.name.split(":")[0]: set(case.sides) for case in time_cost.cases("cuda")}
    for case, (_, sides) in gpu_suite.TIMED.items():
        assert set(sides) - there[case] <= {"FLUX.2-klein, 4 steps"}  # of newer diffusers
    assert "SDEdit, DDIM, compiled, 50 steps" in there[gpu_suite.EDIT]


def test_a_step_that_wins_nothing_is_told() -> None:
    def note(case: str, tuned: float) -> str:
        sides = {"ours": {"median_ms": 200.0}, "tuned": {"median_ms": tuned}}
        return " ".join(turn_tables.step_note({"case": case, "sides": sides}))

    assert "*tuned* takes 0.95 of the time of ours" in note("training step, faces64: batch 4", 190)
    assert note("training step, faces64: batch 4", 280) == ""
    assert note("training step, full: batch 2", 190) == ""
    assert turn_tables.step_note({"case": "training step, faces64: batch 4", "sides": {}}) == []


def test_a_dry_run_leaves_samples_of_both_kinds(tmp_path: Path) -> None:
    arguments = ["--device", "emulated", "--results", str(tmp_path), "--cold", "--rounds", "1"]
    step = ["paper", "tuned, float32", "ours, float32"]
    edit = ["SDEdit, DDIM, timed at 1", "SDEdit, DDIM, timed at 3", "SD-Turbo, 1 step", "ours"]
    time_cost.main([*arguments, "--cases", "training step, full", "--sides", *step])
    time_cost.main([*arguments, "--cases", "edit, full", "--sides", *edit])
    (path,) = tmp_path.glob("*/time_cost.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    assert [set(row["samples_s"]) for row in result["cases"]] == [set(step), set(edit)]

    for side, median in (("timed at 1", 1000.0), ("timed at 3", 2000.0)):
        result["cases"][1]["sides"][f"SDEdit, DDIM, {side}"]["median_ms"] = median
    result["cases"][1]["sides"]["ours"]["median_ms"] = 10.0
    page = "\n".join(turn_tables.time_cost_part({path: result}))
    (line,) = [line for line in page.splitlines() if line.startswith("| SDEdit, DDIM, 50 steps; ")]
    assert "| 25.5 (computed from 1 and 3 steps) | 1 | 2.55e+03× | not measured |" in line
    assert "timed at" not in page and "On a GPU: not measured." in page
