from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.judge import ADVICE, Verdict, judge, judge_edit, worst_kept
from sdd_fast.report import wording
from sdd_fast.report.wording import advise, words

FACES = {"image": "face", "images": "faces", "subject": "person", "yaw": "view"}


def monitored(**changes: float) -> dict[str, Any]:
    figures = {
        "edit_size": 0.1, "peak_change": 0.6, "saturated_share": 0.0, "direction": 0.5,
        "clip_gain": 0.2, "identity": 0.9,
    } | changes  # fmt: skip
    return figures | judge(figures)


def quality(success: float, **kept: float) -> dict[str, Any]:
    return {"success": success, "faces": 200, "kept": {"skin": 0.99, "beard": 0.97} | kept}


def said(
    monitor: dict[str, Any], measured: dict[str, Any] | None = None, scale: float = 30.0
) -> tuple[Verdict, str, str]:
    """A verdict, its headline and its advice."""
    verdict = judge_edit(monitor, measured)
    training = {"guidance": {"guidance_scale": scale}}
    record = {"nouns": FACES, "quality": measured, "distill": training}
    return verdict, wording.headline(verdict, record), wording.advice(verdict, record)


def test_the_monitor_alone() -> None:
    verdict, headline, advice = said(monitored())
    assert verdict.level == "good" and "goes towards the prompt" in headline and not advice
    for change, word in (
        ({"peak_change": 0.01}, "no effect"),
        ({"saturated_share": 0.2}, "saturates"),
        ({"direction": -0.3}, "not towards"),
    ):
        verdict, headline, advice = said(monitored(**change))
        assert verdict.level == "bad" and word in headline and advice
    # Without a CLIP nobody has looked where the edit goes, and nobody says so.
    undirected = {k: v for k, v in monitored().items() if k not in ("direction", "clip_gain")}
    verdict, headline, advice = said(undirected)
    assert verdict.level == "fair" and "was not measured" in headline
    assert "look at the before/after pictures" in advice and "--clip" in advice
    assert judge_edit(undirected, quality(0.97)).level == "good"
    verdict, _, advice = said(monitored(identity=0.1))
    assert verdict.level == "fair" and advice.startswith("the edit turns the face into that of")
    assert advice.endswith("another person: raise --identity-weight")


def test_measured_attributes_have_the_last_word_on_the_target() -> None:
    assert judge_edit(monitored(), quality(0.97)).level == "good"
    verdict, headline, _ = said(monitored(), quality(0.6))
    assert verdict.level == "fair" and "60 %" in headline
    verdict, headline, advice = said(monitored(), quality(0.1))
    assert verdict.level == "bad" and "only 10 % of 200 held-out faces" in headline and advice
    # Nine in ten images outweigh a CLIP direction, but not a saturated one.
    assert judge_edit(monitored(direction=-0.3), quality(0.97)).level == "good"
    assert judge_edit(monitored(direction=-0.3), quality(0.6)).level == "bad"
    assert judge_edit(monitored(saturated_share=0.2), quality(0.97)).level == "bad"


def test_a_good_verdict_tells_how_much_else_was_kept() -> None:
    _, headline, _ = said(monitored(), quality(0.97, glasses=0.98))
    assert headline.endswith("; other attributes are kept by 98.0 %")
    verdict, headline, _ = said(monitored(), quality(0.97, glasses=0.74))
    assert verdict.level == "good"
    assert headline.endswith("are kept by 90 % (glasses least, by 74 %)")


def test_side_effects_are_named() -> None:
    verdict, headline, advice = said(monitored(), quality(0.97, hair_color=0.4))
    assert verdict.level == "fair" and "40 % keep their hair color" in headline
    assert "--levels" in advice
    assert worst_kept(quality(1.0, yaw=0.2)) == ("yaw", 0.2)
    assert words("yaw", FACES) == "view" and words("hair_length", FACES) == "hair length"


@pytest.mark.parametrize("codes", [*ADVICE.values(), tuple(wording.ADVICE), tuple(wording.ALONE)])
def test_advice_is_in_the_words_of_the_command_line(codes: tuple[str, ...]) -> None:
    shown = advise(codes, FACES, 40.0)
    for field in fields(DistillConfig):
        if "_" in field.name:
            assert field.name not in shown
    assert bool(shown) == bool(codes)


def test_every_code_has_words() -> None:
    from sdd_fast.distillation.judge import MISSED_ADVICE, SIDE_EFFECT_ADVICE

    known = {*wording.ADVICE, *wording.ALONE}
    for codes in (*ADVICE.values(), MISSED_ADVICE, SIDE_EFFECT_ADVICE):
        assert set(codes) <= known
    assert {*ADVICE} - {"ok"} <= {*wording.HEADLINES}


def test_advice_is_relative_to_the_guidance_scale_used() -> None:
    _, _, advice = said(monitored(peak_change=0.0), scale=40.0)
    assert "--guidance-scale (40 → 80)" in advice
    _, _, advice = said(monitored(saturated_share=0.5), scale=40.0)
    assert "--guidance-scale (40 → 20)" in advice


def test_figures_on_one_line() -> None:
    line = wording.describe(monitored(latent_change=0.25))
    assert line.startswith("edit size 10.0% (peak 60%), Δw 0.25") and line.endswith(": ok")
    assert "direction +" in line and "saturated 0.0%" in line and "\n" not in line
