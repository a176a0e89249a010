from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub, serving
from huggingface_hub import constants
from small_editor import small_editor

from sdd_fast.editing.editor import Editor


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub of this machine in the place of the real one, with an empty cache; "me" is logged in.

    What huggingface_hub reads of the environment it has read already; see test_hub_processes for
    the environment itself.
    """
    with serving() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.endpoint)
        template = found.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        yield found


@pytest.fixture(scope="session")
def editor() -> Editor:
    return small_editor()


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
