from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_runner import Sdd
from tiny_domain import write_tiny_domain

from sdd_fast.editing.editor import Editor
from sdd_fast.models import Encoder, LevelsMapper, StyleGAN2


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


@pytest.fixture
def editor(tmp_path: Path) -> Path:
    """The file of a small editor of random weights."""
    torch.manual_seed(0)
    generator = StyleGAN2(32, w_dim=16, z_dim=16, n_mlp=2, channel_base=256, channel_max=8)
    encoder = Encoder(32, 8, 16, channel_base=256, channel_max=8, head_channels=2)
    mapper = LevelsMapper(8, 16, ["coarse", "medium"], zero_init=False)
    return Editor(generator, mapper, encoder).save(tmp_path / "editor.safetensors")
