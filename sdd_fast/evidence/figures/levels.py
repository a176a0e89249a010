"""Appendix C: what each level of W+ changes, and what a mapper of styles does without colors."""

from __future__ import annotations

from typing import Any

from PIL.Image import Image

from ... import draws
from ...distillation.config import DistillConfig
from ...distillation.distill import distill
from ...editing.editor import Editor
from ...grid import grid
from ...models import StyleSpaceMapper
from ...selection.choose import Selection
from ...selection.in_domain import compute_curves
from ..case import Case
from ..judge import judged, mean_of
from ..store import Outcome, Unit
from ..subject import subject_of

TITLE = "Levels of the latent space (Appendix C)"
CAPTION = (
    "One mapper, of which only one level is applied at a time; below, mappers of style vectors, "
    "the second without those that color the image. In brackets success and others kept."
)
MAPPERS = ("W+", "styles", "styles without toRGB")
_MOST = 64


def units(case: Case) -> list[Unit]:
    return [levels(case)]


def levels(case: Case) -> Unit:
    """Return the unit of all mappers: "rows", and a strip of each."""
    prompt, plan = case.prompts[0], case.plan
    count = min(_MOST, plan.images)

    def run() -> Outcome:
        subject = subject_of(case.domain, prompt, count)
        rows: list[dict[str, Any]] = []
        strips = {"before": subject.before[: plan.shown]}
        for editor, label, applied in _editors(case, prompt):
            after = editor.edit(subject.given, levels=applied)
            told = judged(case.domain, subject, after)
            means = {key: mean_of(told, key) for key in ("success", "kept")}
            strips[f"row-{len(rows)}"] = after[: plan.shown]
            rows.append({"label": label, **means})
        return Outcome({"rows": rows}, strips)

    depends = {
        "prompt": prompt, "steps": plan.steps, "images": count, "shown": plan.shown,
        "mappers": list(MAPPERS), "selection_images": plan.selection_images,
    }  # fmt: skip
    return case.unit("figures/levels", depends, run, turn=20, cost=plan.steps // 2)


def _editors(case: Case, prompt: str) -> list[tuple[Editor, str, list[str] | None]]:
    """Return editors with what they are called, and the levels to apply of each."""
    domain = case.domain
    selection = Selection(images=case.plan.selection_images)
    (curve,) = compute_curves(domain, [prompt], selection, progress=False)
    config = DistillConfig(steps=case.plan.steps, guidance_rms=domain.guidance_rms.get(prompt))
    found: list[tuple[Editor, str, list[str] | None]] = []
    for kind in MAPPERS:
        mapper = None
        if kind != "W+":
            with draws.private(config.seed):
                mapper = StyleSpaceMapper(
                    domain.generator.style_dims, to_rgb=kind == "styles", output_activation=False
                )
        result = distill(
            domain.prior, domain.generator, domain.w_plus, prompt, curve.plateau(),
            mapper=mapper, identity=domain.identity, config=config, domain=domain.name,
            progress=False, **({"w_std": domain.w_std} if mapper is None else {}),
        )  # fmt: skip
        editor = Editor(domain.generator, [(result.mapper, result.info)], domain.encoder)
        if kind == "W+":
            found += [(editor, f"{level} alone", [level]) for level in result.info.levels]
        found.append((editor, f"{kind}, all", None))
    return found


def draw(case: Case) -> Image | None:
    unit = levels(case)
    found, before = case.store.find(unit), case.store.strip(unit, "before")
    if found is None or before is None:
        return None
    rows, labels = [before], ["before"]
    for i, one in enumerate(found["rows"]):
        strip = case.store.strip(unit, f"row-{i}")
        if strip is not None:
            told = [f"{one[key]:.0%}" for key in ("success", "kept") if one[key] is not None]
            rows.append(strip)
            labels.append(f"{one['label']} ({', '.join(told)})" if told else one["label"])
    return grid(rows, row_labels=labels, title=f"“{case.prompts[0]}”", cell=96)
