from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import Sdd
from tiny_domain import write_tiny_domain


@pytest.fixture(scope="module", autouse=True)
def _figures(quick_figures: None) -> None:
    """Every run draws two."""


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")


@pytest.fixture
def sdd(capsys: pytest.CaptureFixture[str]) -> Sdd:
    return Sdd(capsys)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Path:
    return write_tiny_domain(tmp_path_factory.mktemp("domain") / "tiny", tiny_sd)
