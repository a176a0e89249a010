"""Fig. 6: our edits beside those of every other editor, and of SDEdit at several noise levels."""

from __future__ import annotations

from PIL.Image import Image

from ...grid import grid
from ..case import Case
from ..editing import class_of, editing, editors, measured
from ..judge import mean_of
from ..store import Unit
from ..subject import subject_of
from . import noise_levels

TITLE = "Ours beside other editors (Fig. 6)"
CAPTION = (
    "The same images by every editor with the settings named below; in brackets the share of all "
    "test images that show the target, and of other attributes kept."
)
_LEVELS = (0.5, 0.7, 0.9)


def units(case: Case) -> list[Unit]:
    return [editing(case, key, case.prompts[0]) for key in editors(case)]


def draw(case: Case) -> Image | None:
    prompt, rows, labels = case.prompts[0], [], []
    for key in editors(case):
        values = measured(case, key).get(prompt)
        strip = case.store.strip(editing(case, key, prompt), "edits")
        if values is None or strip is None:
            continue
        told = [mean_of(values, name) for name in ("success", "kept")]
        shares = ", ".join(f"{one:.0%}" for one in told if one is not None)
        rows.append(strip)
        labels.append(f"{class_of(key).name} ({shares})" if shares else class_of(key).name)
    if not rows:
        return None
    subject = subject_of(case.domain, prompt, case.plan.images)
    rows, labels = [subject.before[: len(rows[0])], *rows], ["before", *labels]
    for level in _LEVELS:
        strip = case.store.strip(noise_levels.levels(case), f"level-{level:g}")
        if strip is not None:
            rows.append(strip)
            labels.append(f"SDEdit at α = {level:g}")
    return grid(rows, row_labels=labels, title=f"“{prompt}”", cell=96)
