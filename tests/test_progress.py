"""Progress events, and the listeners for terminals and log files."""

from __future__ import annotations

import io

import pytest

from sdd_fast import progress
from sdd_fast.progress import Progress, Task


def test_a_listener_gets_every_event_and_the_end_of_a_task_that_fails() -> None:
    events: list[Progress] = []
    with pytest.raises(KeyboardInterrupt), Task("x", 5, events.append, unit="images", done=2) as t:
        t.advance(1, "loss 3")
        t.advance(2)
        raise KeyboardInterrupt
    assert [(e.done, e.text, e.closed) for e in events] == [
        (2, "", False), (3, "loss 3", False), (5, "loss 3", False), (5, "loss 3", True),
    ]  # fmt: skip
    assert {(e.task, e.total, e.unit) for e in events} == {("x", 5, "images")}


def test_off_a_terminal_a_line_comes_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Task("HQS", 100, True, unit="images", done=20) as task:
        for _ in range(40):
            clock[0] += 1.0
            task.advance(1, "score .5")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "HQS: 50 of 100 images, about 0 min 50 s left; score .5\n"


def test_short_work_and_quiet_work_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for shown in (True, False):
        with Task("x", 3, shown) as task:
            task.advance(3)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Task("distill", 10, True, done=4) as task:
        task.advance(6, "edit size 3 %")
    assert "distill: 100%" in terminal.getvalue() and "edit size 3 %" in terminal.getvalue()
    assert "10/10" in terminal.getvalue()
