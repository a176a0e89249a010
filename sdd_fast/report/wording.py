"""The words for people: of verdicts, advice and figures, for the report and the terminal alike.

They call images and what these show by the nouns of the domain, see `DomainSpec.nouns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..distillation.judge import KEPT_WELL_ABOVE, NEEDED, worst_kept

SEALS = {"good": "Good", "fair": "Usable, with a flaw", "bad": "Not usable like this"}

HEADLINES = {
    "not measurable": "The edited {images} hold values that are no numbers, so that nothing can be "
    "measured",
    "unknown words": "The diffusion model was never taught {unknown}: what the edit does instead "
    "is chance",
    "no effect": "The edit has no effect that anyone would see",
    "saturated": "The edit saturates the {image}: many values leave their range",
    "off target": "The {image} changes, but not towards the prompt",
    "flawed": "The edit works, with a flaw",
    "direction unknown": "The edit is visible and saturates nothing; whether it goes towards the "
    "prompt was not measured",
    "uncalibrated": "The edit is visible, saturates nothing and moves towards the prompt; how far "
    "is far enough has not been calibrated for this domain",
    "ok": "The edit is visible, goes towards the prompt and saturates nothing",
    "missed": "The edit misses its target: only {reached}",
    "partly reached": "The edit works on most {images}: {reached}",
    "partly understood": "{reached}, but the diffusion model was never taught {unknown}",
    "side effect": "{reached}, but only {worst_share} keep their {worst}",
    "reached": "{reached}",
    "reached and kept": "{reached}; other attributes are kept by {kept}",
}
"""Code of a `Verdict` → one sentence."""

ADVICE = {
    "more_steps": "twice the steps (--steps)",
    "fewer_steps": "fewer --steps or a lower --lr",
    "other_timesteps": "other timesteps (select again, --top 3, or --timesteps)",
    "smaller_timesteps": "smaller --timesteps",
    "higher_guidance_scale": "a higher --guidance-scale ({guidance_scale:g} → {twice:g})",
    "lower_guidance_scale": "a lower --guidance-scale ({guidance_scale:g} → {half:g})",
    "smaller_l2_weight": "a smaller --l2-weight",
    "larger_l2_weight": "a larger --l2-weight",
    "smaller_identity_weight": "a smaller --identity-weight",
    "larger_range_weight": "a larger --range-weight",
    "larger_keep_weight": "a larger --keep-weight",
    "more_levels": "all --levels",
    "fewer_levels": "fewer --levels (such as medium alone)",
    "known_words": "a prompt in the words that the diffusion model was trained on{examples}",
    "higher_strength": "a --strength above 1 when editing",
    "lower_strength": "a --strength below 1 when editing",
}
"""Code of advice → what to try; the codes below stand alone instead."""

ALONE = {
    "larger_identity_weight": "the edit changes which {subject} it is: raise --identity-weight",
    "look": "look at the before/after pictures",
    "clip": "or name a CLIP folder (--clip) and give the same command again: a finished run is "
    "then measured, not repeated",
}


def headline(record: Mapping[str, Any]) -> str:
    """Return the verdict on a complete run in one sentence; `record` is its run.json."""
    quality, known = record.get("quality"), dict(record["nouns"])
    known["unknown"] = _quoted(record.get("unknown_words", ()))
    if quality is not None:
        worst, share = worst_kept(quality)
        kept = [float(value) for value in quality["kept"].values()]
        name = words(worst, known)
        least = f" ({name} least, by {percent(share)})" if len(kept) > 1 else f" ({name})"
        known |= {
            "reached": f"{percent(quality['success'])} of {quality['images']} held-out "
            f"{known['images']} show the target",
            "worst": words(worst, known),
            "worst_share": percent(share),
            "kept": percent(sum(kept) / len(kept)) + (least if share < KEPT_WELL_ABOVE else ""),
        }
    return HEADLINES[record["verdict"]["code"]].format(**known)


def advice(record: Mapping[str, Any]) -> str:
    """Return what to try after a complete run, in options of `sdd distill`; "" if nothing."""
    guidance_scale = record["distill"]["guidance"]["guidance_scale"]
    codes, prompts = record["verdict"]["advice"], record.get("known_prompts", ())
    return advise(codes, record["nouns"], guidance_scale, prompts)


def advise(
    codes: Sequence[str],
    nouns: Mapping[str, str],
    guidance_scale: float,
    prompts: Sequence[str] = (),
) -> str:
    """Return the codes of advice in words; `prompts` are some that work."""
    known: dict[str, Any] = {"guidance_scale": guidance_scale, **nouns}
    known |= {"twice": 2 * guidance_scale, "half": guidance_scale / 2}
    known["examples"] = f" (such as {_quoted(prompts[:3])})" if prompts else ""
    tried = [ADVICE[code].format(**known) for code in codes if code in ADVICE]
    alone = [ALONE[code].format(**known) for code in codes if code in ALONE]
    if tried:
        tried = [("try, in this order: " if len(tried) > 1 else "try ") + ", ".join(tried)]
    return (", " if "look" in codes else "; ").join(tried + alone)


def _quoted(texts: Sequence[str]) -> str:
    return ", ".join(f"“{text}”" for text in texts)


def words(name: str, nouns: Mapping[str, str]) -> str:
    """Return an attribute's name as people write it."""
    return nouns.get(name, name.replace("_", " "))


def describe(measured: Mapping[str, Any]) -> str:
    """Return the figures of `EditMonitor` on one line, with its verdict if that is among them."""
    if any(measured[name] is None for name in NEEDED):
        return "the edited images hold values that are no numbers"
    parts = [f"edit size {measured['edit_size']:.1%} (peak {measured['peak_change']:.0%})"]
    if "latent_change" in measured:
        parts.append(f"Δw {measured['latent_change']:.2f}")
    if "direction" in measured:
        parts.append(f"direction {measured['direction']:+.2f}")
        parts.append(f"CLIP gain {measured['clip_gain']:+.3f}")
    if "identity" in measured:
        parts.append(f"identity {measured['identity']:.2f}")
    parts.append(f"saturated {measured['saturated_share']:.1%}")
    return ", ".join(parts) + (f": {measured['verdict']}" if "verdict" in measured else "")


def percent(value: float | None) -> str:
    """Return a share in per cent; "–" if it was not measured."""
    if value is None:
        return "–"
    digits = 1 if 0 < value < 0.1 or 0.9 < value < 0.9995 else 0
    return f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 2, signed: bool = False) -> str:
    """Return a figure with a real minus; "–" if it was not measured."""
    if value is None:
        return "–"
    rounded = round(value, digits) + 0.0  # no "−0.00"
    return f"{rounded:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Return a time in the unit that suits it; "–" if none was taken."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
