"""Fig. 7: pose. A prompt with two right answers, and a choice between them for each image.

A face that turns to either side is in "side view". Here the prompt itself and each side gets a
mapper, and every image takes that of the sides whose edit CLIP finds closer to the prompt. A choice
needs a teacher that follows the words of both sides. That of `faces64` ignores "side view" and
"turned to the right", see the guide: their mappers turn no face, and all images take the left one.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from ...distillation.config import DistillConfig
from ...distillation.distill import distill
from ...editing.editor import Editor
from ...grid import grid
from ...metrics.clip import clip_similarity
from ...selection.choose import Selection
from ...selection.in_domain import compute_curves
from .. import table2
from ..case import Case
from ..editing import class_of, editing, measured
from ..judge import judged, mean_of
from ..store import Outcome, Unit
from ..subject import Subject, subject_of

TITLE = "Pose (Fig. 7)"
CAPTION = (
    "Above: ours and StyleCLIP with a prompt that names one side. Below: a mapper for “side view”, "
    "one for each side, and for every image the edit of the latter two that CLIP finds closer to "
    "“side view”. In brackets the share of all test images that show a target. The teacher of "
    "faces64 follows “turned to the left” alone and ignores “turned to the right” and “side view”, "
    "so that there only one side is left to choose."
)
SIDE_VIEW = "a face, side view"
SIDES = ("a face, turned to the left", "a face, turned to the right")
CHOICE = "of both sides, CLIP's choice"


def applies(case: Case) -> bool:
    """Whether the domain knows side views, and something to choose by."""
    reader = case.domain.reader
    target = None if reader is None else reader.target_in(SIDE_VIEW)
    return target is not None and len(target[1]) > 1 and case.domain.clip is not None


def units(case: Case) -> list[Unit]:
    return [side_views(case)] if applies(case) else []


def side_views(case: Case) -> Unit:
    """Return the unit of mappers for "side view" and for each side: "rows", and a strip of each."""
    plan, prompts = case.plan, [SIDE_VIEW, *SIDES]

    def run() -> Outcome:
        domain = case.domain
        subject = subject_of(domain, SIDE_VIEW, plan.images)
        selection = Selection(images=plan.selection_images)
        curves = compute_curves(domain, prompts, selection, progress=False)
        results: list[Any] = distill(
            domain.prior, domain.generator, domain.w_plus, prompts,
            [curve.plateau() for curve in curves], w_std=domain.w_std, identity=domain.identity,
            config=DistillConfig(steps=plan.steps), domain=domain.name, progress=False,
        )  # fmt: skip
        edits = {
            prompt: Editor(domain.generator, [(one.mapper, one.info)], domain.encoder)
            .edit(subject.given)
            .cpu()
            for prompt, one in zip(prompts, results, strict=True)
        }
        edits[CHOICE] = chosen(case, subject, [edits[side] for side in SIDES])
        rows: list[dict[str, Any]] = []
        strips = {"before": subject.before[: plan.shown]}
        for label, after in edits.items():
            told = judged(domain, subject, after)
            strips[f"row-{len(rows)}"] = after[: plan.shown]
            rows.append({"label": label, "success": mean_of(told, "success")})
        return Outcome({"rows": rows}, strips)

    depends = {
        "prompts": prompts, "steps": plan.steps, "images": plan.images, "shown": plan.shown,
        "selection_images": plan.selection_images,
    }  # fmt: skip
    return case.unit("figures/pose", depends, run, turn=20, cost=max(1, 3 * plan.steps // 8))


def chosen(case: Case, subject: Subject, edits: list[Tensor]) -> Tensor:
    """Return of each image the edit that CLIP finds most similar to the prompt, [m, 3, R, R]."""
    domain = case.domain
    assert domain.clip is not None
    seen = [
        clip_similarity(
            domain.clip, subject.before, after, domain.source_text, subject.prompt,
            device=domain.device,
        ).absolute
        for after in edits
    ]  # fmt: skip
    best = torch.stack(seen).argmax(0)
    return torch.stack(edits)[best, torch.arange(len(best))]


def draw(case: Case) -> Image | None:
    rows, labels = [], []
    named = next((prompt for prompt in SIDES if prompt in case.prompts), None)
    if named is not None:
        for key in table2.keys(case):
            values = measured(case, key).get(named)
            strip = case.store.strip(editing(case, key, named), "edits")
            if values is not None and strip is not None:
                success = mean_of(values, "success")
                told = "" if success is None else f" ({success:.0%})"
                rows.append(strip)
                labels.append(f"{class_of(key).name}{told}")
        if rows:
            before = subject_of(case.domain, named, case.plan.images).before
            rows, labels = [before[: len(rows[0])], *rows], [f"before: {named}", *labels]
    unit = side_views(case) if applies(case) else None
    found = None if unit is None else case.store.find(unit)
    if unit is not None and found is not None:
        names = ["before", *(f"row-{i}" for i in range(len(found["rows"])))]
        its = [case.store.strip(unit, name) for name in names]
        rows += [strip for strip in its if strip is not None]
        labels.append(f"before: {SIDE_VIEW}")
        for label, one in zip((SIDE_VIEW, *SIDES, CHOICE), found["rows"], strict=True):
            told = "" if one["success"] is None else f" ({one['success']:.0%})"
            labels.append(f"{label}{told}")
    return grid(rows, row_labels=labels, cell=96) if rows else None
