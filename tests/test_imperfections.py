"""Imperfections of edits: the section of the guide, and the measures against known cases."""

from __future__ import annotations

import json
import math

import imperfections_page as page
import measure_imperfections as measures
import pytest
import torch


def test_the_guide_shows_the_figures_that_were_measured() -> None:
    content = json.loads(measures.RESULTS.read_text(encoding="utf-8"))
    guide = page.GUIDE.read_text(encoding="utf-8")
    fix = "run: python tools/measure_imperfections.py runs/imperfect"
    assert page.with_section(guide, page.section(content)) == guide, fix


def test_only_what_is_between_the_marks_is_replaced() -> None:
    old = f"before\n{page.BEGIN}old\n{page.END}\nafter\n"
    assert page.with_section(old, "new\n") == f"before\n{page.BEGIN}new\n{page.END}\nafter\n"


def test_edits_are_means_over_seeds() -> None:
    rows = [
        {"side": "default", "seed": seed, "strength": 1.0, "psnr": psnr, "chroma": {"red": red}}
        for seed, psnr, red in ((1, 20.0, 0.25), (2, 30.0, 0.75))
    ]
    rows.append({**rows[0], "strength": 1.5})
    found = page.edits({"edits": rows})
    assert list(found) == [("default", 1.0), ("default", 1.5)]
    assert found["default", 1.0]["psnr"] == 25
    assert found["default", 1.0]["chroma"] == {"red": 0.5}
    assert found["default", 1.5]["psnr"] == 20


@pytest.fixture(scope="module")
def scene() -> measures.Scene:
    return measures.draw_scene(24, 64)


def test_regions_hold_what_they_are_named_after(scene: measures.Scene) -> None:
    """White hair turns hair and beards white, and leaves the rest as it was but for traces."""
    change = (scene.right - scene.before).abs().amax(1, keepdim=True)
    for rest in (scene.untouched, scene.background):
        assert change[rest].mean() < 0.01 * change[scene.hair].mean()
    gray = scene.right.mean(1, keepdim=True)
    assert gray[scene.hair].mean() > 0.5
    assert gray[scene.beard & scene.bearded[:, None, None, None]].mean() > 0
    parts = torch.stack([scene.hair, scene.beard, scene.background, scene.untouched])
    assert parts.sum(0).max() == 1 and all(part.any() for part in parts)


def test_half_of_the_way_is_moved_by_a_half(scene: measures.Scene) -> None:
    for share in (0.0, 0.5, 1.0):
        images = torch.lerp(scene.before, scene.right, share)
        found = measures.moved(scene, images, scene.hair)
        torch.testing.assert_close(found, torch.full_like(found, share), atol=1e-5, rtol=0)


def test_a_gradient_of_the_background_is_found_with_what_deviates_from_it() -> None:
    y = torch.linspace(-1, 1, 64)[:, None].expand(1, 3, 64, 64)
    stripes = 0.1 * (torch.arange(64) % 2 * 2 - 1)
    where = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    slope, stains = measures.shading(0.2 - 0.3 * y + stripes, where)
    assert math.isclose(slope.item(), -0.3, rel_tol=1e-5)
    assert math.isclose(stains.item(), 12.75, rel_tol=1e-5)


def test_a_blurred_image_is_less_sharp_and_a_plain_one_not_at_all(scene: measures.Scene) -> None:
    blurred = torch.nn.functional.avg_pool2d(scene.before, 3, 1, 1)
    sharp, soft = (measures.sharpness(x, scene.untouched) for x in (scene.before, blurred))
    assert 0 < soft < sharp / 2
    assert measures.sharpness(torch.full_like(blurred, 0.5), scene.untouched) < 1e-10
