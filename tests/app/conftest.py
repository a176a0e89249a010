from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_domain import write_tiny_domain

from sdd_fast.app.launch import open_studio
from sdd_fast.app.studio import Studio
from sdd_fast.manipulator import MapperInfo, save_mapper
from sdd_fast.models import LevelsMapper
from sdd_fast.run_folder import MAPPER_FILE, REPORT_FILE, RUN_FILE, RUN_FORMAT

PROMPTS = ("white hair", "old <b>&amp;</b>")  # the latter is text, not HTML
REPORT = "<!doctype html><h1 id='told'>A report</h1><script>parent.broken = true</script>"


@dataclass(frozen=True)
class Home:
    """A domain of random weights, and runs in it: two given, one to add, two of other domains."""

    domain: Path
    folder: Path

    @property
    def given(self) -> list[Path]:
        return [self.folder / "hair", self.folder / "old"]

    def studio(self, **parts: object) -> Studio:
        return open_studio(self.given, domain=self.domain, **parts)


def write_run(folder: Path, seed: int, prompt: str, domain: str, reference: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mapper = LevelsMapper(8, 16, ["coarse", "medium"], zero_init=False)
    folder.mkdir(parents=True)
    info = MapperInfo(prompt, 3.0, ("coarse", "medium"), (800,), domain)
    save_mapper(folder / MAPPER_FILE, mapper, info)
    record = {"format": RUN_FORMAT, "prompt": prompt, "domain_reference": reference}
    (folder / RUN_FILE).write_text(json.dumps(record))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Home:
    place = tmp_path_factory.mktemp("app")
    domain = write_tiny_domain(place / "tiny", tiny_sd)
    here = str(domain.resolve())
    write_run(place / "runs/hair", 0, PROMPTS[0], "tiny", here)
    write_run(place / "runs/old", 1, PROMPTS[1], "tiny", here)
    write_run(place / "runs/beard", 2, "a beard", "tiny", here)
    write_run(place / "runs/cat", 3, "a red cat", "cats", "afhq-cat-512")
    write_run(place / "runs/twin", 4, "a twin", "tiny", "/elsewhere/tiny")
    (place / "runs/hair" / REPORT_FILE).write_text(REPORT)
    (place / "runs/notes").mkdir()
    return Home(domain, place / "runs")
