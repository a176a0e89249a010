"""A training that a page starts, watches and stops; once for real, else one that acts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trainings import PRETENDED

from sdd_fast import load_domain
from sdd_fast.app import training
from sdd_fast.app.other_tabs import TrainingTab, status_html
from sdd_fast.app.training import Request, Status, Trainer
from sdd_fast.run_folder import CHECKPOINT_FILE, MAPPER_FILE, REPORT_FILE
from sdd_fast.runs.record import read_run


def until(told: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def acted(home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.setattr(Trainer, "program", (sys.executable, str(PRETENDED)))
    return Trainer(load_domain(home.domain), tmp_path)


@pytest.mark.usefixtures("quick_figures")
def test_a_training_is_stopped_and_goes_on(
    home: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(load_domain(home.domain), tmp_path, lambda asked, folder: "sdd distill …")
    asked = Request("white hair", steps=40, timesteps=(700,), levels=("medium",))
    status = trainer.start(asked)
    assert status.at_work and status.folder == tmp_path / "white-hair"
    with pytest.raises(ValueError, match="“white hair” is being distilled, one at a time"):
        trainer.start(Request("a beard"))
    until(lambda: (p := trainer.status.progress) is not None and p.unit == "steps" and p.done > 2)
    assert trainer.stop().state == "stopping"
    until(lambda: not trainer.status.at_work)
    assert trainer.status.state == "stopped", trainer.status.said
    folder = tmp_path / "white-hair"
    assert (folder / CHECKPOINT_FILE).exists() and not (folder / MAPPER_FILE).exists()
    reached = trainer.status.progress
    assert reached is not None and 0 < reached.done < 40

    capsys.readouterr()
    assert training.main(json.dumps(trainer.job(asked, folder))) == 0  # what the process does
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    done = [line["value"]["done"] for line in told if line["kind"] == "progress"]
    assert min(done) >= reached.done and max(done) == 40
    assert told[-1]["kind"] == "verdict" and told[-1]["value"]["headline"]
    assert (folder / REPORT_FILE).exists()
    record = read_run(folder)
    assert record["complete"] and record["command"] == "sdd distill …"
    assert record["levels"] == ["medium"] and record["timesteps"] == [700]

    other = json.dumps(trainer.job(replace(asked, steps=41), folder))
    assert training.main(other) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[-1]["kind"] == "error" and "start over" in told[-1]["value"]


def test_what_it_says_is_shown(acted: Trainer) -> None:
    tab = TrainingTab(acted)
    with pytest.raises(ValueError, match="prompt"):
        tab.start(" ", 20, "", [], 0, False)
    with pytest.raises(ValueError, match="steps must be 1 to"):
        tab.start("a beard", 1e6, "", [], 0, False)
    timer, html, *_, start, stop = tab.start("wait", 20, "700", ["fine: color"], 3, True)
    assert timer.active and not start["interactive"] and stop["interactive"]
    assert "Training: “wait”" in html
    acted.close()
    acted.start(Request("finish"))
    until(lambda: not acted.status.at_work)
    timer, html, figure, curve, sample, start, stop = tab.look()
    assert not timer.active and start["interactive"] and not stop["interactive"]
    assert "Done: “finish”" in html and "<b>Usable, with a flaw.</b> It &lt;works&gt;" in html
    assert figure["visible"] and curve["visible"] and "data:image/png" in curve["value"]
    assert not sample["visible"]  # a run that is done shows its grid, which is not there


def test_a_failure_is_told_and_another_may_start(acted: Trainer) -> None:
    acted.start(Request("fail"))
    until(lambda: not acted.status.at_work)
    assert acted.status.state == "failed" and acted.status.said[-1] == "it has other settings"
    acted.start(Request("die"))
    until(lambda: not acted.status.at_work)
    assert acted.status.state == "failed" and acted.status.said[-1] == "the last words"
    acted.start(Request("finish"))
    until(lambda: not acted.status.at_work)
    assert acted.status.state == "done"


def test_a_server_that_ends_stops_its_training(acted: Trainer) -> None:
    acted.start(Request("wait"))
    until(lambda: acted.status.progress is not None)
    acted.close()
    assert acted.status.state == "stopped" and acted.status.said[-1] == "stopped after 3 steps"
    acted.close()  # again does no harm


def test_text_of_others_is_no_html() -> None:
    status = Status("failed", "<img src=x>", None, ("<script>",))
    html = status_html(status)
    assert "<img" not in html and "<script>" not in html and "&lt;script&gt;" in html
