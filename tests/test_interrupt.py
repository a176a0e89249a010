"""Signals that ask a program to end wait for the end of a step."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from sdd_fast.interrupt import STOPPING, InterruptAfterStep, stopped_by_signals


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_waits_and_the_second_does_not(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with InterruptAfterStep() as interrupt:
        os.kill(os.getpid(), number)
        assert interrupt.requested and not interrupt.insisted
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.insisted
    assert signal.getsignal(number) is before
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert f"{name}: finishing this step and saving" in capsys.readouterr().err


def test_other_handlers_and_ignored_signals_stay() -> None:
    def handler(signum: int, frame: object) -> None:
        heard.append(signum)

    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, handler), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals(), InterruptAfterStep() as interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested and heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGHUP, before[1])


def test_a_command_is_stopped_by_sigterm_as_by_ctrl_c() -> None:
    with stopped_by_signals():
        with pytest.raises(KeyboardInterrupt, match="stopped by SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
    with stopped_by_signals():
        with InterruptAfterStep() as interrupt:  # takes over for its steps
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupt.requested
        with pytest.raises(KeyboardInterrupt, match="stopped by SIGHUP"):
            os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_in_a_bunch_are_one_request(number: signal.Signals) -> None:
    with stopped_by_signals():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # while what was begun is cleaned up
    with stopped_by_signals(), InterruptAfterStep() as interrupt:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert interrupt.requested and not interrupt.insisted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_later_signal_insists(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdd_fast.interrupt._ONE_REQUEST", 0.0)
    with stopped_by_signals():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    with InterruptAfterStep() as interrupt:
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert interrupt.insisted


def test_a_signal_that_a_library_swallowed_still_stops_before_the_work() -> None:
    with stopped_by_signals():
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match="stopped by Ctrl-C"), InterruptAfterStep():
            pass
    with stopped_by_signals(), InterruptAfterStep():
        pass
