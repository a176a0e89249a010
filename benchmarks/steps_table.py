"""The table of steps-faces64.json: what trainings of several lengths reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

TEXT = """## What fewer steps reach

Edits of faces64, distilled by `tools/compare_steps.py`: {prompts} prompts, seeds {seeds}, all
sides at the same selected timesteps, measured on 256 held-out faces that lack the target. *Images*:
seen in a training. *Success*: the share of those faces that show the target; *kept*: that of their
other attributes that stay. *Lowest*: that of the worst of the trainings. Below each mean its
difference to the authors' training of the same prompt and seed. In brackets: the 95 % interval of a
mean over the trainings (bootstrap).

"""
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
    prompts, seeds = ({edit[of] for edit in edits} for of in ("prompt", "seed"))
    text = TEXT.format(prompts=len(prompts), seeds=", ".join(map(str, sorted(seeds))))
    return [text + "\n".join(lines) + "\n"]


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
