"""sdd edit of a video."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runner import Sdd
from PIL import Image

from sdd_fast.editing.animation import save_animation

pytest.importorskip("av", reason="videos need PyAV: the extra video")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    frames = [Image.new("RGB", (48, 40), (90, 30 * i, 60)) for i in range(4)]
    return save_animation(tmp_path / "clip.mp4", frames, bounce=False)


def test_a_video_is_edited_into_another(sdd: Sdd, editor: Path, clip: Path, tmp_path: Path) -> None:
    words = ["edit", editor, clip, "--strength", "0.5", "--out", tmp_path / "new.mp4"]
    done = sdd(*words)
    assert done.code == 0, done.err
    assert (
        done.out.startswith("edited 4 frames in ") and f"frames/s): {tmp_path}/new.mp4" in done.out
    )
    told = json.loads(sdd(*words, "--overwrite", "--json").out)
    assert told["written"] == [str(tmp_path / "new.mp4")] and told["frames"] == 4
    assert "would be replaced" in sdd.fails(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{clip}", "{clip}", "--out", "a.mp4"], "a video is edited alone, but 2 files"),
        (["{clip}"], "an edited video is an MP4; give a name that ends in .mp4"),
        (["{clip}", "--out", "a.mp4", "--format", "webp"], "it is for pictures, not for a video"),
        (["{clip}", "--out", "a.mp4", "--sweep", "0:1:3"], "it is for pictures, not for a video"),
        (["none.mov", "--out", "a.mp4"], "none.mov: there is no such video"),
    ],
)
def test_what_is_refused(
    sdd: Sdd, editor: Path, clip: Path, words: list[str], message: str
) -> None:
    done = sdd("edit", editor, *(word.format(clip=clip) for word in words))
    assert done.code != 0 and message in done.err.replace("\n", " ")
