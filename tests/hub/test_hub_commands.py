"""`sdd push`, and commands that take a name on the hub in the place of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Sdd
from fake_hub import FakeHub, serving
from PIL import Image
from small_editor import INFO
from tiny_domain import write_tiny_domain

from sdd_fast.domains import load_domain
from sdd_fast.editing.editor import Editor
from sdd_fast.files import read_json, write_json
from sdd_fast.hub.card import is_replaceable
from sdd_fast.manipulator import save_mapper
from sdd_fast.runs.run import default_config, run_edit
from sdd_fast.selection.choose import Selection


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Sdd:
    return Sdd(capsys)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "me.png")
    return tmp_path / "me.png"


@pytest.fixture
def saved(editor: Editor, tmp_path: Path) -> Path:
    return editor.save(tmp_path / "editor.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, quick_figures: None) -> Path:
    """A finished run in a domain of one's own, called tiny."""
    place = tmp_path_factory.mktemp("runs")
    domain = load_domain(write_tiny_domain(place / "tiny", tiny_sd))
    made = run_edit(
        domain, "white hair", place / "run", selection=Selection(2, (300, 500), top=2),
        config=default_config(steps=2), measured_images=8, say=lambda line: None,
    )  # fmt: skip
    return made.folder


def test_a_run_is_published_with_what_was_measured_of_it(
    hub: FakeHub, command: Sdd, run: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    refused = command.fails("push", run, "me/hair")
    assert "the domain tiny does not come with sdd_fast" in refused and "--part mapper" in refused
    done = command("push", run, "me/hair", "--part", "mapper", "--private", "-m", "first", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["created"], told["changed"], told["part"]) == (True, True, "mapper")
    assert told["url"] == f"{hub.endpoint}/me/hair" and told["repository"] == "me/hair"
    repository = hub.repositories["me/hair"]
    assert repository.private and repository.messages[-1] == "first"
    assert repository.files["before-after.png"] == (run / "before-after.png").read_bytes()
    assert repository.files["mapper.safetensors"] != b""
    card = repository.files["README.md"].decode()
    record = read_json(run / "run.json")
    for text in ("![“white hair”, before and after](before-after.png)", "300, 500",
                 "| target reached", "### What was not", 'editor = sdd.Editor.from_pretrained("me/',
                 "sdd edit me/hair picture.jpg", "name it, `--domain PATH`",
                 f"{record['distill']['steps']} steps of"):  # fmt: skip
        assert text in card, text
    assert str(tmp_path.parent) not in card and "/tmp" not in card
    again = command("push", run, "me/hair", "--part", "mapper")
    assert again.code == 0 and "nothing has changed" in again.out
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_a_run_that_is_not_finished_is_not_published(
    hub: FakeHub, command: Sdd, run: Path, tmp_path: Path
) -> None:
    import shutil

    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    record = read_json(copy / "run.json")
    write_json(copy / "run.json", {**record, "complete": False})
    told = command.fails("push", copy, "me/hair", "--part", "mapper")
    assert "is not finished: it is not measured yet" in told and "which goes on" in told
    (copy / "mapper.safetensors").unlink()
    assert "has not finished" in command.fails("push", copy, "me/hair", "--part", "mapper")
    assert "no such run folder" in command.fails("push", tmp_path / "none", "me/hair")
    assert "is no name of a repository" in command.fails("push", run, "hair")
    assert "and then OWNER/NAME" in command.fails("push", run, code=2)
    assert hub.requests == []


def test_a_preview_asks_no_hub(hub: FakeHub, command: Sdd, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "card"
    done = command("push", run, "me/hair", "--part", "mapper", "--preview", folder)
    assert done.code == 0 and "nothing was published" in done.out
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "before-after.png", "config.json", "curve.png", "mapper.safetensors",
    }  # fmt: skip
    assert is_replaceable((folder / "README.md").read_text(encoding="utf-8"))
    assert hub.requests == []
    assert "something else, such as a run" in command.fails(
        "push", run, "me/hair", "--part", "mapper", "--preview", run
    )


def test_a_name_takes_the_place_of_a_run(
    hub: FakeHub, command: Sdd, saved: Path, photo: Path, tmp_path: Path
) -> None:
    assert command("push", saved, "me/hair", "--branch", "v1").code == 0
    done = command("edit", "me/hair@v1", photo, "--out", tmp_path / "by-name")
    assert done.code == 0, done.err
    assert command("edit", saved, photo, "--out", tmp_path / "by-file").code == 0
    images = [(tmp_path / out / "me.png").read_bytes() for out in ("by-name", "by-file")]
    assert images[0] == images[1]
    shown = command("info", "me/hair@v1")
    commit = hub.repositories["me/hair"].branches["v1"]
    assert "white hair" in shown.out and f"me/hair@v1, commit {commit}" in shown.out
    out = tmp_path / "renderer.pt"
    exported = command("export", "me/hair@v1", "--part", "renderer", "--out", out)
    assert exported.code == 0 and out.exists(), exported.err


def test_a_name_that_nothing_has_is_said_with_what_was_tried(
    hub: FakeHub, command: Sdd, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = command.fails("edit", "nobody/hair", photo)
    assert "there is no folder or file 'nobody/hair', and the hub id 'nobody/hair'" in told
    assert "is not on the hub" in told and "hf auth login" in told
    assert "no file or folder" in command.fails("info", "hair")
    (tmp_path / "runs").mkdir()
    hub.requests.clear()
    assert "no such run folder, mapper file or picture" in command.fails("edit", "runs/hair", photo)
    assert hub.requests == []
    assert "no pictures were given" in command.fails("edit", "nobody/hair")


def test_a_mapper_file_of_somebody_is_published_without_a_license(
    hub: FakeHub, command: Sdd, editor: Editor, tmp_path: Path
) -> None:
    path = tmp_path / "hair.safetensors"
    save_mapper(path, editor.mappers[0], INFO)
    assert command("push", path, "me/hair").code == 0
    card = hub.repositories["me/hair"].files["README.md"].decode()
    assert "no record of a run" in card


SCRIPT = """
import sys
from sdd_fast.cli import main

for words in (["push", "editor.safetensors", "me/hair", "--json"],
              ["edit", "me/hair", "me.png", "--out", "a", "-q"]):
    try:
        main(words)
    except SystemExit as end:
        if end.code:
            raise
"""


def test_a_process_finds_the_hub_by_its_environment(saved: Path, photo: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_TOKEN, as they are read when a process starts."""
    home = photo.parent
    with serving() as hub:
        environment = {
            **os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home / "home"),
            "HF_TOKEN": "hf_writer", "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True,
            cwd=home,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["commit"] == hub.repositories["me/hair"].branches["main"]
    assert (home / "a/me.png").exists() and (home / "home/hub/models--me--hair").is_dir()
