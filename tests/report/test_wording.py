from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import pytest

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.judge import ADVICE, EARLIER_CODES, Verdict, judge, worst_kept
from sdd_fast.report import wording
from sdd_fast.report.wording import advise, words

FACES = {"image": "face", "images": "faces", "subject": "person", "yaw": "view"}


def monitored(**changes: float) -> dict[str, Any]:
    return {
        "edit_size": 0.1, "peak_change": 0.6, "saturated_share": 0.0, "direction": 0.5,
        "direction_above": 0.3, "clip_gain": 0.2, "identity": 0.9,
    } | changes  # fmt: skip


def quality(success: float, **kept: float) -> dict[str, Any]:
    return {"success": success, "images": 200, "kept": {"skin": 0.99, "beard": 0.97} | kept}


def said(
    monitor: dict[str, Any],
    measured: dict[str, Any] | None = None,
    scale: float = 30.0,
    unknown: Sequence[str] = (),
    nouns: dict[str, str] = FACES,
) -> tuple[Verdict, str, str]:
    """A verdict, its headline and its advice."""
    verdict = judge(monitor, measured, unknown)
    record = {
        "nouns": nouns, "quality": measured, "unknown_words": unknown, "verdict": asdict(verdict),
        "distill": {"guidance": {"guidance_scale": scale}}, "known_prompts": ["a bald face"],
    }  # fmt: skip
    return verdict, wording.headline(record), wording.advice(record)


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
    assert judge(undirected, quality(0.97)).level == "good"
    # And how far is far enough is known of a calibrated domain only.
    uncalibrated = {k: v for k, v in monitored().items() if k != "direction_above"}
    verdict, headline, advice = said(uncalibrated)
    assert verdict.level == "fair" and "not been calibrated" in headline and "look at" in advice
    assert judge(uncalibrated, quality(0.97)).level == "good"
    assert judge(monitored(direction=0.2)).code == "off target"
    assert judge(monitored(direction=0.2), quality(0.6)).code == "partly reached"
    verdict, _, advice = said(monitored(identity=0.1))
    assert verdict.level == "fair" and advice.startswith("the edit changes which person")
    assert advice.endswith("person it is: raise --identity-weight")


def test_measured_attributes_have_the_last_word_on_the_target() -> None:
    assert judge(monitored(), quality(0.97)).level == "good"
    verdict, headline, _ = said(monitored(), quality(0.6))
    assert verdict.level == "fair" and "60 %" in headline
    verdict, headline, advice = said(monitored(), quality(0.1))
    assert verdict.level == "bad" and "only 10 % of 200 held-out faces" in headline and advice
    # Nine in ten images outweigh a CLIP direction, but not a saturated one.
    assert judge(monitored(direction=-0.3), quality(0.97)).level == "good"
    assert judge(monitored(direction=-0.3), quality(0.6)).level == "bad"
    assert judge(monitored(saturated_share=0.2), quality(0.97)).level == "bad"


def test_a_good_verdict_tells_how_much_else_was_kept() -> None:
    _, headline, _ = said(monitored(), quality(0.97, glasses=0.98))
    assert headline.endswith("; other attributes are kept by 98.0 %")
    verdict, headline, _ = said(monitored(), quality(0.97, glasses=0.74))
    assert verdict.level == "good"
    assert headline.endswith("are kept by 90 % (glasses least, by 74 %)")
    alone = {"success": 0.97, "images": 200, "kept": {"glasses": 0.74}}
    assert said(monitored(), alone)[1].endswith("are kept by 74 % (glasses)")


def test_words_that_were_never_taught_are_named() -> None:
    verdict, headline, advice = said(monitored(), unknown=["elephant", "riding"])
    assert verdict.level == "bad" and "never taught “elephant”, “riding”" in headline
    assert "try a prompt in the words" in advice and "(such as “a bald face”)" in advice
    verdict, headline, _ = said(monitored(), quality(0.97), unknown=["grandma"])
    assert verdict.level == "fair" and headline.startswith("97.0 % of 200 held-out faces show")
    assert headline.endswith("never taught “grandma”")


def test_a_domain_of_cups_hears_nothing_of_faces() -> None:
    cups = {"image": "cup", "images": "cups", "subject": "vessel"}
    figures = [
        monitored(**change) for change in (
            {}, {"peak_change": 0.01}, {"saturated_share": 0.2}, {"direction": -0.3},
            {"identity": 0.1}, {"identity": 0.1, "direction": -0.3},
        )
    ]  # fmt: skip
    qualities = [None, *(quality(share) for share in (0.1, 0.6, 0.97)), quality(0.97, skin=0.3)]
    for monitor in figures:
        for measured in qualities:
            for unknown in ([], ["elephant"]):
                _, headline, advice = said(monitor, measured, unknown=unknown, nouns=cups)
                text = headline + advice.replace("a bald face", "")
                assert not re.search("face|person|people|subject", text), text


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
    for codes in ADVICE.values():
        assert set(codes) <= {*wording.ADVICE, *wording.ALONE}
    assert {*ADVICE, *EARLIER_CODES.values()} <= {*wording.HEADLINES}


def test_advice_is_relative_to_the_guidance_scale_used() -> None:
    _, _, advice = said(monitored(peak_change=0.0), scale=40.0)
    assert "--guidance-scale (40 → 80)" in advice
    _, _, advice = said(monitored(saturated_share=0.5), scale=40.0)
    assert "--guidance-scale (40 → 20)" in advice


def test_figures_on_one_line() -> None:
    line = wording.describe(monitored(latent_change=0.25))
    assert line.startswith("edit size 10.0% (peak 60%), Δw 0.25")
    assert wording.describe(monitored() | {"verdict": "ok"}).endswith("saturated 0.0%: ok")
    assert "direction +" in line and "saturated 0.0%" in line and "\n" not in line
