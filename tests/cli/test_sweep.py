"""sdd edit --sweep"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Sdd
from PIL import Image


@pytest.fixture
def face(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_sweep_is_one_file(sdd: Sdd, editor: Path, face: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "sweep.gif", tmp_path / "other.png"
    shutil.copy(face, other)
    words = ["edit", editor, face, other, "--sweep", "-1:1.5:4", "--fps", "10", "--out", out]
    done = sdd(*words, "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["written"] == [str(out)] and facts["strengths"][::3] == [-1.0, 1.5]
    with Image.open(out) as opened:
        assert (opened.n_frames, opened.size) == (6, (512, 256))  # type: ignore[attr-defined]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.png", "editor.safetensors", "other.png", "sweep.gif"
    ]  # fmt: skip
    assert "would be replaced" in sdd.fails(*words)
    broken = tmp_path / "b.png"
    broken.write_bytes(b"no image")
    told = sdd("edit", editor, face, broken, "--sweep", "0:1:2", "--out", out, "--overwrite")
    assert told.code == 1 and f"skipped: {broken} is not an image" in told.err
    assert "written: " in told.out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--sweep", "-1:1.5", "--out", "a.gif"], 2, "is not FIRST:LAST:COUNT, such as -1:1.5:24"),
        (["--sweep", "0:1:1", "--out", "a.gif"], 2, "2 to 1000 strengths, got 1"),
        (["--sweep", "0:1:9"], 2, "give a file that ends in .gif, .webp, .mp4, got 'edited'"),
        (["--sweep", "0:1:9", "--out", "a.png"], 1, "a.png must end in .gif, .webp, .mp4"),
        (["--sweep", "0:1:9", "--out", "a.gif", "--fps", "0"], 1, "fps must be 0.1 to 100"),
    ],
)
def test_sweeps_that_are_none(
    sdd: Sdd, editor: Path, face: Path, words: list[str], code: int, message: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert message in sdd.fails("edit", editor, face, *words, code=code)
    assert not (tmp_path / "a.gif").exists()


def test_too_many_pictures(sdd: Sdd, editor: Path, face: Path, tmp_path: Path) -> None:
    faces = [tmp_path / f"{i}.png" for i in range(11)]
    for path in faces:
        shutil.copy(face, path)
    words = ["edit", editor, *faces, "--sweep", "0:1:2", "--out", tmp_path / "a.gif"]
    assert "at most 10 pictures side by side" in sdd.fails(*words)
