"""Fig. 1: what noising and denoising makes of images, against the noise level (SDEdit)."""

from __future__ import annotations

from PIL.Image import Image

from ...baselines import load_baseline
from ...grid import grid
from ..case import Case
from ..editing import settings_of
from ..judge import judged, mean_of
from ..store import Outcome, Unit
from ..subject import subject_of

TITLE = "An edit against the noise level (Fig. 1)"
_MOST = 24  # images that shares are told of
CAPTION = (
    "SDEdit at noise levels α, with the share of images that show the target and the share of "
    f"other attributes kept: of {_MOST} images of one prompt, or as many as there are; the tables "
    "have more."
)
LEVELS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def units(case: Case) -> list[Unit]:
    return [levels(case)]


def levels(case: Case) -> Unit:
    """Return the unit of edits at all levels: "levels", and a strip of each."""
    prompt, plan = case.prompts[0], case.plan
    count = min(_MOST, plan.images)
    settings = dict(plan.settings.get("sdedit", {}))

    def run() -> Outcome:
        subject = subject_of(case.domain, prompt, plan.images).first(count)
        rows, strips = [], {"before": subject.before[: plan.shown]}
        for level in LEVELS:
            editor = load_baseline("sdedit", case.domain, **{**settings, "level": level})
            after = editor.edit(subject.before, prompt)
            told = judged(case.domain, subject, after)
            means = {key: mean_of(told, key) for key in ("success", "kept")}
            rows.append({"level": level, **means})
            strips[f"level-{level:g}"] = after[: plan.shown]
        return Outcome({"levels": rows}, strips)

    depends = {
        "levels": list(LEVELS), "prompt": prompt, "images": [count, plan.images],
        "shown": plan.shown, "settings": settings_of(case, "sdedit"),
    }  # fmt: skip
    return case.unit("figures/noise-levels", depends, run, turn=20, cost=60)


def draw(case: Case) -> Image | None:
    unit = levels(case)
    found = case.store.find(unit)
    before = case.store.strip(unit, "before")
    if found is None or before is None:
        return None
    rows, labels = [before], ["before"]
    for one in found["levels"]:
        strip = case.store.strip(unit, f"level-{one['level']:g}")
        if strip is None:
            continue
        told = [
            f"{name} {one[key]:.0%}"
            for key, name in (("success", "success"), ("kept", "others kept"))
            if one[key] is not None
        ]
        rows.append(strip)
        labels.append(f"α = {one['level']:g} " + ", ".join(told))
    return grid(rows, row_labels=labels, title=f"SDEdit, “{case.prompts[0]}”", cell=96)
