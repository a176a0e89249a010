"""How commands talk to programs and shells."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from cli_runner import Sdd
from PIL import Image

import sdd_fast
from sdd_fast import progress
from sdd_fast.cli import app, main


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    (tmp_path / "faces").mkdir()
    for name in "ab":
        Image.new("RGB", (40, 40), (200, 10, 10)).save(tmp_path / "faces" / f"{name}.png")
    return tmp_path / "faces"


def leaves(group: Any, path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, one in group.commands.items():
        found |= leaves(one, f"{name} ") if hasattr(one, "commands") else {path + name: one}
    return found


def test_every_command_can_talk_to_programs_and_be_quiet() -> None:
    commands = leaves(typer.main.get_command(app))
    assert {"edit", "distill", "bench paper", "render", "info"} <= set(commands)
    for name, one in commands.items():
        words = [word for parameter in one.params for word in parameter.opts]
        for word in ("--json", "--quiet", "-q", "--verbose", "-v"):
            assert words.count(word) == 1, (name, word)


def test_json_is_the_only_thing_on_stdout(
    sdd: Sdd, editor: Path, faces: Path, tmp_path: Path
) -> None:
    (faces / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    done = sdd("edit", editor, faces, "--out", out, "--json")
    facts = json.loads(done.out)
    assert done.code == 1 and done.out.count("\n") == 1
    assert (facts["command"], facts["ok"], facts["exit_code"]) == ("edit", False, 1)
    assert facts["written"] == [str(out / "a.png"), str(out / "b.png")]
    assert facts["grid"] == str(out / "grid" / "before-after.png") and facts["seconds"] > 0
    (left_out,) = facts["skipped"]
    assert left_out["path"] == str(faces / "broken.png") and "not an image" in left_out["reason"]
    assert "edited 2 pictures" in done.err and "skipped" in done.err


def test_json_tells_of_errors_and_wrong_command_lines(sdd: Sdd, tmp_path: Path) -> None:
    words = ["render", "--out", tmp_path / "f", "-n", "1", "--resolution", "16"]
    first = sdd(*words, "--json")
    assert json.loads(first.out) == {
        "command": "render", "ok": True, "exit_code": 0, "folder": str(tmp_path / "f"),
        "written": [str(tmp_path / "f" / "face-01.png")],
    }  # fmt: skip
    again = sdd(*words, "--json")
    facts = json.loads(again.out)
    assert (again.code, facts["exit_code"], facts["ok"]) == (1, 1, False)
    assert "would be replaced" in facts["error"] and "give --overwrite" in facts["error"]
    wrong = sdd("render", "-n", "0", "--json")
    facts = json.loads(wrong.out)
    assert (wrong.code, facts["exit_code"]) == (2, 2) and "must be 1 to 100000" in facts["error"]
    plain = sdd(*words, "--overwrite")  # nothing is left over from the calls before
    assert plain.code == 0 and plain.out.startswith("drew 1 faces")


def test_quiet_leaves_warnings_and_errors(
    sdd: Sdd, editor: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    loud = sdd("edit", editor, faces, "--out", tmp_path / "loud")
    assert "editing: " in loud.err and loud.out
    quiet = sdd("edit", editor, faces, "--out", tmp_path / "quiet", "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    (faces / "broken.png").write_bytes(b"no image")
    warned = sdd("edit", editor, faces, "--out", tmp_path / "quiet", "-q", "--overwrite")
    assert warned.out == "" and "sdd: warning: skipped: " in warned.err


def test_verbose_shows_what_the_library_logs(
    sdd: Sdd, editor: Path, faces: Path, tmp_path: Path
) -> None:
    plain = sdd("edit", editor, faces, "--out", tmp_path / "a")
    assert "sdd_fast.editing.edit_files" not in plain.err
    told = sdd("edit", editor, faces, "--out", tmp_path / "b", "-v")
    assert "sdd_fast.editing.edit_files: edited 2 of 2 images" in told.err
    assert "sdd_fast.editing.edit_files" not in told.out


def test_the_library_prints_nothing_itself() -> None:
    """But for progress, which a listener replaces, the answer to Ctrl-C, and what the process of a
    training tells the page of `sdd app`."""
    folder = Path(sdd_fast.__file__).parent
    printing = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name) and node.id == "print":
                printing.add(path.relative_to(folder).parts[0])
    assert printing == {"cli", "progress.py", "interrupt.py", "app"}


def test_the_package_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sdd_fast", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"sdd_fast {sdd_fast.__version__}\n"


def test_shells_complete_commands_and_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_SDD_COMPLETE", "complete_bash")
    for line, count, wanted in (
        ("sdd tr", 1, "train-domain"),
        ("sdd edit --past", 2, "--paste-back"),
    ):
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(count))
        with pytest.raises(SystemExit):
            main([])
        assert wanted in capsys.readouterr().out.split()
