"""What the figures of an edit say about it, as codes: one verdict, and what to try next.

The figures are those of an `EditMonitor`; where attributes of held-out images could be read, these
have the last word on whether the edit reached its target and what else it changed. The words for
people are in `report.wording`, which knows what a domain calls its images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

NO_EFFECT_BELOW = 0.05
"""`peak_change` below this share of the full range: a person would hardly see the edit."""
SATURATED_ABOVE = 0.05
"""`saturated_share` above this: one value in twenty was pushed out of range by the edit."""
OFF_TARGET_BELOW = 0.05
"""`direction` below this: what changed is unrelated to the prompt, or opposed to it, whatever the
CLIP. What an edit that works exceeds is more, and differs: see `DomainSpec.direction_above`."""
IDENTITY_LOST_BELOW = 0.3
"""`identity` below this adds "larger_identity_weight": the image shows another subject."""

REACHED_ABOVE = 0.8
"""Share of held-out images that must show the target for "good"."""
MISSED_BELOW = 0.5
"""Below this share the edit counts as failed, however the image looks."""
KEPT_WORST_ABOVE = 0.7
"""An attribute that fewer images keep than this is called a side effect."""
KEPT_WELL_ABOVE = 0.95
"""Below this share even a good edit names the attribute that fewest images keep."""

_TOO_LITTLE = ("more_steps", "other_timesteps", "higher_guidance_scale", "smaller_l2_weight")
ADVICE: dict[str, tuple[str, ...]] = {
    "not measurable": ("lower_guidance_scale", "fewer_steps"),
    "unknown words": ("known_words",),
    "no effect": (
        "more_steps", "higher_guidance_scale", "smaller_l2_weight", "smaller_identity_weight",
        "other_timesteps", "more_levels",
    ),
    "saturated": (
        "lower_guidance_scale", "larger_range_weight", "larger_l2_weight", "fewer_steps",
        "lower_strength", "smaller_timesteps",
    ),
    "off target": (
        "other_timesteps", "higher_guidance_scale", "known_words", "fewer_levels",
        "larger_l2_weight",
    ),
    "direction unknown": ("look", "clip"),
    "uncalibrated": ("look",),
    "missed": (*_TOO_LITTLE, "more_levels", "higher_strength"),
    "partly reached": (*_TOO_LITTLE, "more_levels", "higher_strength"),
    "partly understood": ("known_words",),
    "side effect": (
        "fewer_levels", "larger_keep_weight", "larger_l2_weight", "lower_guidance_scale",
        "lower_strength",
    ),
}  # fmt: skip
"""Code of a verdict → what to try next, the most promising first; nothing for other codes."""

WITHOUT_EFFECT = frozenset({"not measurable", "no effect"})
"""Codes of edits that nobody should be told to apply to their own images."""

CODES = frozenset(ADVICE) | {"ok", "flawed", "reached", "reached and kept"}
EARLIER_CODES = {
    "nothing": "no effect", "burnt": "saturated", "astray": "off target",
    "towards the prompt": "ok",
}  # fmt: skip


NEEDED = ("edit_size", "peak_change", "saturated_share")
"""Figures of an `EditMonitor` without which nothing can be said of an edit."""


@dataclass(frozen=True)
class Verdict:
    """Judgment of an edit.

    Args:
        level: "good"; "fair": usable, with a flaw; "bad": do not use it like this.
        code: why, see `wording.headline`. advice: what to try next, the most promising first.
    """

    level: Literal["good", "fair", "bad"]
    code: str
    advice: tuple[str, ...] = ()


def judge(
    measured: Mapping[str, Any],
    quality: Mapping[str, Any] | None = None,
    unknown_words: Sequence[str] = (),
) -> Verdict:
    """Judge an edit by all that is known of it.

    Args:
        measured: the figures of `EditMonitor`.
        quality: those that an `AttributeReader` measured; None where there are none, as during the
            training.
        unknown_words: words of the prompt that the teacher was never taught. The CLIP of a domain
            learned from the same captions: of such a prompt it is no witness.
    """
    # NaN compares as neither more nor less: what is not finite has not been measured.
    given = measured.keys()
    measured = {k: v for k, v in measured.items() if isinstance(v, (int, float)) and isfinite(v)}
    if any(name in given and name not in measured for name in NEEDED):
        return _verdict("bad", "not measurable")
    if unknown_words and quality is None:
        return _verdict("bad", "unknown words")
    if measured["saturated_share"] > SATURATED_ABOVE:
        return _verdict("bad", "saturated")
    if measured["peak_change"] < NO_EFFECT_BELOW:
        return _verdict("bad", "no effect")
    flaws = ("larger_identity_weight",) * (measured.get("identity", 1.0) < IDENTITY_LOST_BELOW)
    direction, needed = measured.get("direction"), measured.get("direction_above")
    if quality is not None:
        # A CLIP direction is a weaker witness than four in five images that show the target.
        astray = direction is not None and direction < OFF_TARGET_BELOW
        if astray and quality["success"] < REACHED_ABOVE:
            return _verdict("bad", "off target", flaws)
        return _judge_attributes(quality, unknown_words, flaws)
    if direction is None:
        return _verdict("fair", "direction unknown", flaws)
    if direction < (OFF_TARGET_BELOW if needed is None else needed):
        return _verdict("bad", "off target", flaws)
    if needed is None:
        return _verdict("fair", "uncalibrated", flaws)
    return _verdict("fair", "flawed", flaws) if flaws else _verdict("good", "ok")


def _judge_attributes(
    quality: Mapping[str, Any], unknown_words: Sequence[str], flaws: tuple[str, ...]
) -> Verdict:
    if quality["success"] < MISSED_BELOW:
        return _verdict("bad", "missed")
    if quality["success"] < REACHED_ABOVE:
        return _verdict("fair", "partly reached")
    if unknown_words:
        return _verdict("fair", "partly understood", flaws)
    if worst_kept(quality)[1] < KEPT_WORST_ABOVE:
        return _verdict("fair", "side effect")
    return _verdict("fair", "reached", flaws) if flaws else _verdict("good", "reached and kept")


def _verdict(
    level: Literal["good", "fair", "bad"], code: str, flaws: tuple[str, ...] = ()
) -> Verdict:
    return Verdict(level, code, ADVICE.get(code, ()) + flaws)


def from_earlier(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a history entry with today's keys and codes, whatever version wrote it."""
    found = dict(entry)
    if "burnt_share" in found:
        found["saturated_share"] = found.pop("burnt_share")
    if "verdict" in found:
        found["verdict"] = EARLIER_CODES.get(found["verdict"], found["verdict"])
    if isinstance(found.get("advice"), str):  # words, which named no domain
        found["advice"] = list(judge(found).advice)
    return found


def worst_kept(quality: Mapping[str, Any]) -> tuple[str, float]:
    """Return the attribute that fewest images kept, and their share."""
    return min(quality["kept"].items(), key=lambda item: float(item[1]))
