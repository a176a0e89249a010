from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.monitor import ADVICE, judge
from sdd_fast.report.verdict import for_the_terminal, judge_edit, words, worst_kept


def monitored(**changes: float) -> dict[str, Any]:
    figures = {
        "edit_size": 0.1, "peak_change": 0.6, "burnt_share": 0.0, "direction": 0.5,
        "clip_gain": 0.2, "identity": 0.9,
    } | changes  # fmt: skip
    return figures | judge(figures)


def quality(success: float, **kept: float) -> dict[str, Any]:
    return {"success": success, "faces": 200, "kept": {"skin": 0.99, "beard": 0.97} | kept}


def test_the_monitor_alone() -> None:
    assert judge_edit(monitored()).level == "good"
    for change, word in (
        ({"peak_change": 0.01}, "nothing"),
        ({"burnt_share": 0.2}, "burns"),
        ({"direction": -0.3}, "not towards"),
    ):
        found = judge_edit(monitored(**change))
        assert found.level == "bad" and word in found.headline and found.advice
    # Without a CLIP nobody has looked where the edit goes, and nobody says so.
    undirected = {k: v for k, v in monitored().items() if k not in ("direction", "clip_gain")}
    found = judge_edit(undirected)
    assert found.level == "fair" and "was not measured" in found.headline
    assert "look at the before/after pictures" in found.advice and "--clip" in found.advice
    assert judge_edit(undirected, quality(0.97)).level == "good"
    stranger = judge_edit(monitored(identity=0.1))
    assert stranger.level == "fair" and "identity" in stranger.advice


def test_measured_attributes_have_the_last_word_on_the_target() -> None:
    assert judge_edit(monitored(), quality(0.97)).level == "good"
    half = judge_edit(monitored(), quality(0.6))
    assert half.level == "fair" and "60 %" in half.headline
    missed = judge_edit(monitored(), quality(0.1))
    assert missed.level == "bad" and "only 10 % of 200" in missed.headline and missed.advice
    # Nine in ten faces outweigh a CLIP direction, but not a burnt image.
    assert judge_edit(monitored(direction=-0.3), quality(0.97)).level == "good"
    assert judge_edit(monitored(direction=-0.3), quality(0.6)).level == "bad"
    assert judge_edit(monitored(burnt_share=0.2), quality(0.97)).level == "bad"


def test_a_good_verdict_tells_how_much_else_was_kept() -> None:
    plain = judge_edit(monitored(), quality(0.97, glasses=0.98))
    assert plain.headline.endswith("; other attributes are kept by 98.0 %")
    flawed = judge_edit(monitored(), quality(0.97, glasses=0.74))
    assert flawed.level == "good"
    assert flawed.headline.endswith("are kept by 90 % (glasses least, by 74 %)")


def test_side_effects_are_named() -> None:
    found = judge_edit(monitored(), quality(0.97, hair_color=0.4))
    assert found.level == "fair" and "40 % keep their hair colour" in found.headline
    assert "--levels" in found.advice
    assert worst_kept(quality(1.0, yaw=0.2)) == ("yaw", 0.2)
    assert words("yaw") == "view" and words("hair_length") == "hair length"


@pytest.mark.parametrize("advice", ADVICE.values())
def test_advice_is_in_the_words_of_the_command_line(advice: str) -> None:
    shown = for_the_terminal(advice, 40.0)
    for field in fields(DistillConfig):
        if "_" in field.name:
            assert field.name not in shown
    assert "100" not in shown  # another guidance scale than the one used
    assert for_the_terminal("raise l2_weight", 30.0) == "raise --l2-weight"


def test_advice_is_relative_to_the_guidance_scale_used() -> None:
    nothing = judge_edit(monitored(peak_change=0.0), guidance_scale=40.0)
    assert "--guidance-scale (40 → 80)" in nothing.advice
    burnt = judge_edit(monitored(burnt_share=0.5), guidance_scale=40.0)
    assert "--guidance-scale (40 → 20)" in burnt.advice
