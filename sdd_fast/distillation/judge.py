"""What the figures of an edit say about it, as codes: a verdict, and what to try next.

`judge` goes by the figures of an `EditMonitor`. Of a finished edit `judge_edit` gives those the
first word; where attributes of held-out images could be read, they have the last on whether the
edit reached its target and what else it changed. The words for people are in `report.wording`,
which knows what a domain calls its images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

NO_EFFECT_BELOW = 0.05
"""`peak_change` below this share of the full range: a person would hardly see the edit."""
SATURATED_ABOVE = 0.05
"""`saturated_share` above this: one value in twenty was pushed out of range by the edit."""
OFF_TARGET_BELOW = 0.05
"""`direction` below this: what changed is unrelated to the prompt, or opposed to it."""
IDENTITY_LOST_BELOW = 0.3
"""`identity` below this adds "larger_identity_weight": the image shows another subject."""

ADVICE: dict[str, tuple[str, ...]] = {
    "ok": (),
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
}  # fmt: skip
"""Verdict → what to try next, the most promising first."""

REACHED_ABOVE = 0.8
"""Share of held-out images that must show the target for "good"."""
MISSED_BELOW = 0.5
"""Below this share the edit counts as failed, however the image looks."""
KEPT_WORST_ABOVE = 0.7
"""An attribute that fewer images keep than this is called a side effect."""
KEPT_WELL_ABOVE = 0.95
"""Below this share even a good edit names the attribute that fewest images keep."""

MISSED_ADVICE = (
    "more_steps", "other_timesteps", "higher_guidance_scale", "smaller_l2_weight", "more_levels",
    "higher_strength",
)  # fmt: skip
SIDE_EFFECT_ADVICE = (
    "fewer_levels", "larger_keep_weight", "larger_l2_weight", "lower_guidance_scale",
    "lower_strength",
)  # fmt: skip

_EARLIER_VERDICTS = {"nothing": "no effect", "burnt": "saturated", "astray": "off target"}


def judge(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the "verdict" and the list "advice" that belong to the figures of `EditMonitor`."""
    if measured["saturated_share"] > SATURATED_ABOVE:
        verdict = "saturated"
    elif measured["peak_change"] < NO_EFFECT_BELOW:
        verdict = "no effect"
    elif measured.get("direction", 1.0) < OFF_TARGET_BELOW:
        verdict = "off target"
    else:
        verdict = "ok"
    advice = list(ADVICE[verdict])
    if verdict in ("ok", "off target") and measured.get("identity", 1.0) < IDENTITY_LOST_BELOW:
        advice.append("larger_identity_weight")
    return {"verdict": verdict, "advice": advice}


def from_earlier(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a history entry with today's keys and codes, whatever version wrote it."""
    found = dict(entry)
    if "burnt_share" in found:
        found["saturated_share"] = found.pop("burnt_share")
    if "verdict" in found:
        found["verdict"] = _EARLIER_VERDICTS.get(found["verdict"], found["verdict"])
    if isinstance(found.get("advice"), str):  # words, which named no domain
        found["advice"] = judge(found)["advice"]
    return found


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


def judge_edit(monitor: Mapping[str, Any], quality: Mapping[str, Any] | None = None) -> Verdict:
    """Combine the figures of `EditMonitor` with those that an `AttributeReader` measured.

    Args:
        monitor: as `EditMonitor` returns it, with "verdict" and "advice".
        quality: None where attributes cannot be measured.
    """
    code, advice = monitor["verdict"], tuple(monitor["advice"])
    success = None if quality is None else float(quality["success"])
    # A CLIP direction is a weaker witness than nine in ten images that show the target.
    overruled = code == "off target" and success is not None and success >= REACHED_ABOVE
    if code != "ok" and not overruled:
        return Verdict("bad", code, advice)
    if quality is None or success is None:
        if advice:
            return Verdict("fair", "flawed", advice)
        if "direction" not in monitor:
            return Verdict("fair", "direction unknown", ("look", "clip"))
        return Verdict("good", "towards the prompt")
    if success < MISSED_BELOW:
        return Verdict("bad", "missed", MISSED_ADVICE)
    if success < REACHED_ABOVE:
        return Verdict("fair", "partly reached", MISSED_ADVICE)
    if worst_kept(quality)[1] < KEPT_WORST_ABOVE:
        return Verdict("fair", "side effect", SIDE_EFFECT_ADVICE)
    if code == "ok" and advice:
        return Verdict("fair", "reached", advice)
    return Verdict("good", "reached and kept")


def worst_kept(quality: Mapping[str, Any]) -> tuple[str, float]:
    """Return the attribute that fewest images kept, and their share."""
    return min(quality["kept"].items(), key=lambda item: float(item[1]))
