from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_domain import write_tiny_domain

from sdd_fast.domains import Domain, load_domain

PROMPTS = ["white hair", "a smiling face"]


def write_domain(folder: Path, tiny_sd: Path, *, faces: bool = True) -> Path:
    """The tiny domain, with two prompts whose success can be told."""
    write_tiny_domain(folder, tiny_sd, faces=faces)
    listing = json.loads((folder / "domain.json").read_text())
    (folder / "domain.json").write_text(json.dumps(listing | {"prompts": PROMPTS}))
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Path:
    return write_domain(tmp_path_factory.mktemp("evidence") / "tiny", tiny_sd)


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Domain:
    return load_domain(tiny_folder)


@pytest.fixture(scope="session")
def unlabeled(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Domain:
    folder = write_domain(tmp_path_factory.mktemp("unlabeled") / "tiny", tiny_sd, faces=False)
    return load_domain(folder)
