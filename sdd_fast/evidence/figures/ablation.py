"""Fig. 8: edits by each choice of timesteps under the limited budget."""

from __future__ import annotations

from PIL.Image import Image

from ...grid import grid
from .. import table3
from ..case import Case
from ..judge import mean_of
from ..store import Unit

TITLE = "Which timesteps to distill from (Fig. 8)"
CAPTION = (
    "The same images after a limited training at each choice of timesteps; in brackets the share "
    "of all test images that show the target."
)
_PROMPTS = 2


def units(case: Case) -> list[Unit]:
    return [table3.training(case, one, "as they are", 0) for one in table3.STRATEGIES]


def draw(case: Case) -> Image | None:
    rows, labels = [], []
    for i, subject in enumerate(case.ablation_subjects[:_PROMPTS]):
        its = []
        for strategy in table3.STRATEGIES:
            unit = table3.training(case, strategy, "as they are", 0)
            values, strip = case.store.find(unit), case.store.strip(unit, f"prompt-{i}")
            if values is None or strip is None:
                continue
            success = mean_of(values["prompts"][i], "success")
            told = "" if success is None else f" ({success:.0%})"
            its.append((strip, f"{strategy}{told}"))
        if its:
            rows += [subject.before[: len(its[0][0])], *(strip for strip, _ in its)]
            labels += [subject.prompt, *(label for _, label in its)]
    return grid(rows, row_labels=labels, cell=96) if rows else None
