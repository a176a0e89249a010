"""Fig. 8: edits by each choice of timesteps under the limited budget."""

from __future__ import annotations

from statistics import fmean

import torch
from PIL.Image import Image

from ...grid import grid
from .. import table3
from ..case import Case
from ..judge import mean_of
from ..store import Unit

TITLE = "Which timesteps to distill from (Fig. 8)"
CAPTION = (
    "An image of each prompt after a limited training at each choice of timesteps; in brackets the "
    "share of all test images of all prompts that show the target. These trainings are of the "
    "first seed alone; Table 3 has the means of all."
)


def units(case: Case) -> list[Unit]:
    return [table3.training(case, one, "as they are", 0) for one in table3.STRATEGIES]


def draw(case: Case) -> Image | None:
    columns, labels = [torch.stack([one.before[0] for one in case.ablation_subjects])], ["before"]
    for strategy, unit in zip(table3.STRATEGIES, units(case), strict=True):
        values = case.store.find(unit)
        strips = [case.store.strip(unit, f"prompt-{i}") for i in range(len(columns[0]))]
        firsts = [strip[0] for strip in strips if strip is not None]
        if values is None or len(firsts) < len(strips):
            continue
        columns.append(torch.stack(firsts))  # [prompts, 3, R, R]
        success = [mean_of(its, "success") for its in values["prompts"]]
        known = [one for one in success if one is not None]
        labels.append(f"{strategy} ({fmean(known):.0%})" if known else strategy)
    if len(columns) == 1:
        return None
    prompts = [one.prompt for one in case.ablation_subjects]
    return grid(torch.stack(columns, 1), row_labels=prompts, column_labels=labels, cell=112)
