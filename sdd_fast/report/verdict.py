"""What a person should think of a finished edit, in one headline, and what to try next.

The monitor's verdict (nothing, burnt, astray) comes first; where attributes of held-out faces
could be read, they have the last word on whether the edit reached its target and what else it
changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .page import percent

REACHED_ABOVE = 0.8
"""Share of held-out faces that must show the target for "good"."""
MISSED_BELOW = 0.5
"""Below this share the edit counts as failed, however the picture looks."""
KEPT_WORST_ABOVE = 0.7
"""An attribute that fewer faces keep than this is called a side effect."""
KEPT_WELL_ABOVE = 0.95
"""Below this share even a good edit names the attribute that fewest faces keep."""

MISSED_ADVICE = (
    "try, in this order: twice the steps (--steps), other timesteps (--top 3, or --timesteps), a "
    "higher --guidance-scale, a smaller --l2-weight, all --levels, or a strength above 1 when "
    "editing"
)
SIDE_EFFECT_ADVICE = (
    "try fewer levels (--levels, e.g. medium alone for expressions), a larger --keep-weight or "
    "--l2-weight, a lower --guidance-scale, or a strength below 1 when editing"
)

UNJUDGED = (
    "The edit is visible and burns nothing; whether it goes towards the prompt was not measured"
)
UNJUDGED_ADVICE = (
    "look at the before/after pictures, or name a CLIP folder (--clip) and give the same command "
    "again: a finished run is then measured, not repeated"
)
HEADLINES = {
    "nothing": "The edit does nothing a person would see",
    "burnt": "The edit burns the image",
    "astray": "The image changes, but not towards the prompt",
}


@dataclass(frozen=True)
class Verdict:
    """Judgement of an edit.

    Args:
        level: "good"; "fair": usable, with a flaw; "bad": do not use it like this.
        headline: one sentence. advice: what to try next; "" if nothing.
    """

    level: Literal["good", "fair", "bad"]
    headline: str
    advice: str = ""


def judge_edit(
    monitor: Mapping[str, Any],
    quality: Mapping[str, Any] | None = None,
    guidance_scale: float = 30.0,
) -> Verdict:
    """Combine the figures of `EditMonitor` with those of `EditQuality.to_json()`.

    Args:
        monitor: as `EditMonitor` returns it, with "verdict" and "advice".
        quality: None where attributes cannot be measured.
        guidance_scale: of the training, for advice in its numbers.
    """
    advice = for_the_terminal(monitor["advice"], guidance_scale)
    kind = monitor["verdict"]
    success = None if quality is None else float(quality["success"])
    # A CLIP direction is a weaker witness than nine in ten faces that show the target.
    overruled = kind == "astray" and success is not None and success >= REACHED_ABOVE
    if kind != "ok" and not overruled:
        return Verdict("bad", HEADLINES[kind], advice)
    if quality is None or success is None:
        if advice:
            return Verdict("fair", "The edit works, with a flaw", advice)
        if "direction" not in monitor:
            return Verdict("fair", UNJUDGED, UNJUDGED_ADVICE)
        return Verdict("good", "The edit is visible, goes towards the prompt and burns nothing")
    reached = f"{percent(success)} of {quality['faces']} held-out faces show the target"
    if success < MISSED_BELOW:
        return Verdict("bad", f"The edit misses its target: only {reached}", MISSED_ADVICE)
    if success < REACHED_ABOVE:
        return Verdict("fair", f"The edit works on most faces: {reached}", MISSED_ADVICE)
    head, share = worst_kept(quality)
    if share < KEPT_WORST_ABOVE:
        headline = f"{reached}, but only {percent(share)} keep their {words(head)}"
        return Verdict("fair", headline, SIDE_EFFECT_ADVICE)
    if kind == "ok" and advice:
        return Verdict("fair", reached, advice)
    kept = [float(value) for value in quality["kept"].values()]
    least = f" ({words(head)} least, by {percent(share)})" if share < KEPT_WELL_ABOVE else ""
    mean = percent(sum(kept) / len(kept))
    return Verdict("good", f"{reached}; other attributes are kept by {mean}{least}")


def worst_kept(quality: Mapping[str, Any]) -> tuple[str, float]:
    """The attribute that fewest faces kept, and their share."""
    return min(quality["kept"].items(), key=lambda item: float(item[1]))


def words(name: str) -> str:
    """An attribute's name as people write it."""
    return {"yaw": "view", "hair_color": "hair colour"}.get(name, name.replace("_", " "))


def for_the_terminal(advice: str, guidance_scale: float) -> str:
    """The monitor names fields of `DistillConfig`; a person at the terminal types options.

    Its examples of another guidance scale become multiples of the one that was used.
    """
    for name in ("guidance_scale", "l2_weight", "identity_weight", "range_weight", "keep_weight"):
        advice = advice.replace(name, "--" + name.replace("_", "-"))
    lower, higher = guidance_scale / 2, 2 * guidance_scale
    advice = advice.replace("(100 → 30)", f"({guidance_scale:g} → {lower:g})")
    return advice.replace("(30 → 100)", f"({guidance_scale:g} → {higher:g})")
