"""Runs command lines of `sdd` in this process."""

from __future__ import annotations

from typing import Any

import pytest

from sdd_fast.cli import main


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class Sdd:
    """Runs a command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: Any) -> Result:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(word) for word in words])
        captured = self.capsys.readouterr()
        return Result(int(exit_.value.code or 0), captured.out, captured.err)

    def fails(self, *words: Any, code: int = 1) -> str:
        """The one message of a command that must fail, without a traceback."""
        result = self(*words)
        assert result.code == code, result.err
        assert "Traceback" not in result.err
        return " ".join(result.err.replace("│", " ").split())
