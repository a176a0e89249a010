"""Objects say in one line what they are, and show themselves in a notebook."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.judge import Verdict
from sdd_fast.distillation.result import DistillResult
from sdd_fast.editing.edited_images import EditedImages
from sdd_fast.editing.editor import Editor
from sdd_fast.manipulator import MapperInfo
from sdd_fast.models import LevelsMapper, StyleGAN2
from sdd_fast.runs import job
from sdd_fast.selection.curve import HQSCurve


def pictures_in(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


def result() -> DistillResult:
    history: list[dict[str, Any]] = [{"step": 250, "edit_size": 0.0714, "verdict": "ok"}]
    info = MapperInfo("<b>old</b>", 0.1, ("coarse", "fine"), (600, 700), "faces64")
    return DistillResult(nn.Identity(), history, info, DistillConfig(), 61.23)


def test_a_curve_says_what_it_is_and_draws_itself() -> None:
    deficit = torch.tensor([[3.0, 2.0, 1.0], [3.0, 1.5, 1.0]])
    curve = HQSCurve((200, 400, 600), 9 - deficit, deficit, 4 - deficit, prompt="white hair")
    assert repr(curve) == (
        "HQSCurve('white hair', 3 timesteps 200…600, 2 images, largest "
        f"{float(curve.mean.max()):+.3f} at {curve.largest()}; signed, per-image)"
    )
    picture = Image.open(io.BytesIO(curve._repr_png_()))
    assert picture.width > 500 and len(picture.convert("RGB").getcolors(10**6) or []) > 10


def test_an_editor_says_what_it_edits() -> None:
    generator = StyleGAN2(64, w_dim=16, z_dim=16, n_mlp=2, channel_base=256, channel_max=8)
    edits = [(LevelsMapper(10, 16), MapperInfo("old", domain="cats")), LevelsMapper(10, 16)]
    assert repr(Editor(generator, edits)) == (
        "Editor(“old” + “edit”, 64×64 of cats, takes W+ latents only, on cpu)"
    )


def test_edited_images_are_a_list_and_show_themselves() -> None:
    images = EditedImages([Image.new("RGB", (40, 30), (i, 0, 0)) for i in range(40)], ["a<b"])
    assert isinstance(images, list) and repr(images) == "EditedImages(40 images of 40×30)"
    page = images._repr_html_()
    shown = pictures_in(page)
    assert len(shown) == 32 and "and 8 more" in page
    assert [picture.convert("RGB").getpixel((3, 3)) for picture in shown[:3]] == [
        (0, 0, 0), (1, 0, 0), (2, 0, 0)
    ]  # fmt: skip
    assert "a&lt;b" in page and "a<b" not in page
    assert repr(EditedImages()) == "EditedImages([])"


def test_a_result_is_a_line_and_a_table() -> None:
    assert repr(result()) == (
        "DistillResult('<b>old</b>', mapper Identity, levels coarse+fine, timesteps 600+700, "
        "λ 0.1, steps 250, seconds 61.2, edit size 7.1%, verdict ok)"
    )
    page = result()._repr_html_()
    assert "&lt;b&gt;old" in page and "<b>old" not in page and "600+700" in page


def test_a_run_shows_its_verdict_and_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job.wording, "headline", lambda record: "99 % show the target")
    monkeypatch.setattr(job.wording, "advice", lambda record: "")
    record = {"prompt": "<i>old</i>", "timesteps": [600]}
    run = job.EditRun(tmp_path, result(), Verdict("good", "ok"), record)
    assert repr(run) == f"EditRun('<i>old</i>', good: 99 % show the target; {str(tmp_path)!r})"
    assert pictures_in(run._repr_html_()) == []
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "before-after.png")
    page = run._repr_html_()
    assert [one.getpixel((0, 0)) for one in pictures_in(page)] == [(1, 2, 3)]
    assert "99 % show the target" in page and "<i>" not in page and "advice" not in page
