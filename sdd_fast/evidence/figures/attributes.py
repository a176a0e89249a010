"""Fig. 5 and 9–12: edits of one attribute after another, ours."""

from __future__ import annotations

from PIL.Image import Image

from ...grid import grid
from ..case import Case
from ..editing import OURS, editing, measured
from ..judge import mean_of
from ..store import Unit
from ..subject import subject_of

TITLE = "Edits by attribute (Fig. 5, 9–12)"
CAPTION = (
    "Before and after, the first images of the test set, not chosen; the share of images that show "
    "the target afterwards is of all of them."
)


def units(case: Case) -> list[Unit]:
    return [editing(case, OURS, prompt) for prompt in case.prompts]


def draw(case: Case) -> Image | None:
    rows, labels = [], []
    found = measured(case, OURS)
    for prompt in found:
        strip = case.store.strip(editing(case, OURS, prompt), "edits")
        if strip is None:
            continue
        success = mean_of(found[prompt], "success")
        told = "" if success is None else f" ({success:.0%})"
        rows += [subject_of(case.domain, prompt, case.plan.images).before[: len(strip)], strip]
        labels += ["before", f"{prompt}{told}"]
    return grid(rows, row_labels=labels, cell=96) if rows else None
