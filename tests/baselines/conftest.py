"""A tiny domain for what needs no quality, shared by the tests of a module."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_domain import write_tiny_domain

from sdd_fast.domains import Domain, load_domain


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Path:
    return write_tiny_domain(tmp_path_factory.mktemp("domain") / "tiny", tiny_sd)


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Domain:
    return load_domain(tiny_folder)
