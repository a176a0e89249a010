"""The table of steps-faces64.json: what trainings of several lengths reach."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import torch

TEXT = """## What fewer steps reach

Edits of faces64, distilled by `tools/compare_steps.py`, all sides at the same selected timesteps,
measured on 256 held-out faces that lack the target. *Images*: seen in a training. *Success*: the
share of those faces that show the target; *kept*: that of their other attributes that stay.
*Lowest*: that of the worst of the trainings. In brackets: the 95 % interval of a mean over the
trainings (bootstrap). The authors' settings are as published, for a generator of
1024 pixels; they were not searched for this small domain.
"""
DIFFERENCES = """Below each mean: its difference to the authors' training of the same prompt and
seed, where there is one.
"""
SIDES = (
    "authors, 4000 of 2",
    "ours, 300 of 8",
    "ours, 150 of 8",
    "ours, 250 of 4",
    "ours, 250 of 4, stopped early",
    "ours, 200 of 4",
)
"""What tools/compare_steps.py compares, once all of it is measured."""
COLUMNS = ("training: steps, batch", "images", "trainings", "success", "lowest", "kept", "lowest")
REFERENCE = "authors, 4000 of 2"
_RESAMPLES = 10_000


def steps_part(result: dict[str, Any]) -> list[str]:
    edits = result["edits"]
    sides: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
    for edit in edits:
        sides.setdefault(edit["side"], {})[edit["prompt"], edit["seed"]] = edit
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for side, found in sorted(sides.items(), key=lambda item: -_images(item[1].values())):
        cells = [side, f"{_images(found.values()):,.0f}", str(len(found))]
        for figure in ("success", "kept"):
            values = [edit[figure] for edit in found.values()]
            told = _interval(values)
            both = [key for key in found if key in sides.get(REFERENCE, {})]
            if side != REFERENCE and both:
                differences = [found[k][figure] - sides[REFERENCE][k][figure] for k in both]
                told += f"<br>{_interval(differences, '+.3f')}"
            cells += [told, f"{min(values):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    told = DIFFERENCES if len(sides) > 1 and REFERENCE in sides else ""
    return [TEXT + told + "\n" + _compared(sides) + "\n" + "\n".join(lines) + "\n"]


def _compared(sides: Mapping[str, Mapping[tuple[str, int], Any]]) -> str:
    """Say which sides are compared, over what, and which are not."""
    every = {key for found in sides.values() for key in found}
    prompts, seeds = ({key[i] for key in every} for i in (0, 1))
    whole = len(prompts) * len(seeds)
    counts = {side: len(sides.get(side, ())) for side in (*SIDES, *sides)}
    full = [f"*{side}*" for side, count in counts.items() if count == whole]
    some = [f"*{side}* ({n} of {whole})" for side, n in counts.items() if 0 < n < whole]
    none = [f"*{side}*" for side, count in counts.items() if count == 0]
    listed = ", ".join(map(str, sorted(seeds)))
    over = f"{_count(len(prompts), 'prompt')} and seed{'s' * (len(seeds) > 1)} {listed}"
    told = [
        f"Compared over {over}, {_count(whole, 'training')} a side: {'; '.join(full) or 'none'}."
    ]
    if some:
        told.append(f"Of fewer trainings, whose means are of those alone: {'; '.join(some)}.")
    if none:
        told.append(
            "Not compared, since nothing is measured of them for these prompts and seeds yet: "
            f"{'; '.join(none)}."
        )
    return textwrap.fill(" ".join(told), 100, break_on_hyphens=False) + "\n"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _images(edits: Any) -> float:
    edits = list(edits)
    return sum(edit["steps"] * edit["batch_size"] for edit in edits) / len(edits)


def _interval(values: Sequence[float], form: str = ".3f") -> str:
    """Mean [its 95 % interval] of trainings, by the percentiles of resampled means."""
    x = torch.tensor(values, dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    means = x[torch.randint(len(x), (_RESAMPLES, len(x)), generator=rng)].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return f"{x.mean():{form}} [{low:{form}}, {high:{form}}]"
