"""An edit at growing strength, as an animated picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdd_fast.editing.animation import save_animation, strengths_between, sweep
from sdd_fast.editing.editor import Editor
from sdd_fast.images import to_pil
from sdd_fast.models import LevelsMapper, StyleGAN2


def shades(count: int, size: tuple[int, int] = (41, 30)) -> list[Image.Image]:
    """Frames that are told apart by their gray."""
    return [Image.new("RGB", size, (40 * i + 10,) * 3) for i in range(count)]


def grays(path: Path) -> list[int]:
    with Image.open(path) as opened:
        found = []
        for i in range(getattr(opened, "n_frames", 1)):
            opened.seek(i)
            pixel = opened.convert("RGB").getpixel((5, 5))
            assert isinstance(pixel, tuple)
            found.append(round((pixel[0] - 10) / 40))
        return found


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_frames_go_forth_and_back(kind: str, tmp_path: Path) -> None:
    path = save_animation(tmp_path / f"a.{kind}", shades(4), fps=10)
    assert grays(path) == [0, 1, 2, 3, 2, 1]
    once = save_animation(tmp_path / f"b.{kind}", shades(4), fps=10, bounce=False)
    assert grays(once) == [0, 1, 2, 3]
    with Image.open(path) as opened:
        opened.load()
        assert opened.size == (41, 30) and opened.info["loop"] == 0
        assert opened.info["duration"] == 100


def test_mp4_has_every_frame(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="videos need PyAV: the extra video")
    path = save_animation(tmp_path / "a.mp4", shades(4), fps=25)
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        assert float(stream.average_rate) == 25 and (stream.width, stream.height) == (40, 30)
        found = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(stream)]
    assert np.round((np.array(found) - 10) / 40).tolist() == [0, 1, 2, 3, 2, 1]


def test_a_sweep_encodes_once_and_edits_at_every_strength() -> None:
    torch.manual_seed(0)
    generator = StyleGAN2(32, w_dim=16, z_dim=16, n_mlp=2, channel_base=256, channel_max=8)
    editor = Editor(generator, LevelsMapper(8, 16, ["coarse", "medium"], zero_init=False))
    w_plus = torch.randn(2, 8, 16)
    encoded = []

    class Counted:
        edit = editor.edit

        def encode(self, images: Any, *, aligned: bool) -> torch.Tensor:
            encoded.append(aligned)
            return editor.encode(images)

    frames = sweep(Counted(), w_plus, [-1.0, 0.5])
    assert encoded == [False] and [frame.size for frame in frames] == [(512, 256)] * 2
    side_by_side = torch.cat(list(editor.edit(w_plus, 0.5)), 2)
    want = to_pil(side_by_side).resize((512, 256), Image.Resampling.BICUBIC)
    assert frames[1].tobytes() == want.tobytes() != frames[0].tobytes()


def test_strengths() -> None:
    assert strengths_between(-1, 1.5, 6) == pytest.approx([-1, -0.5, 0, 0.5, 1, 1.5])
    for count, message in ((1, "2 to 1000 strengths, got 1"), (1001, "got 1001")):
        with pytest.raises(ValueError, match=message):
            strengths_between(0, 1, count)


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"a.png must end in .gif, .webp, .mp4"):
        save_animation(tmp_path / "a.png", shades(2))
    with pytest.raises(ValueError, match="frames of one size, got 0"):
        save_animation(tmp_path / "a.gif", [])
    with pytest.raises(ValueError, match="frames of one size, got 3"):
        save_animation(tmp_path / "a.gif", [*shades(2), *shades(1, (30, 30))])
    with pytest.raises(ValueError, match="fps must be 0.1 to 100, got 0"):
        save_animation(tmp_path / "a.gif", shades(2), fps=0)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sdd_fast\[video\]'.*\.webp"):
        save_animation(tmp_path / "a.mp4", shades(2))
    assert list(tmp_path.iterdir()) == []
