"""Every editor on every prompt: the measurements behind tables 1 and 2 and most figures."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..baselines import BASELINES, TRAINED, Baseline, load_baseline
from .case import Case
from .judge import judged
from .ours import SelectiveDistillation
from .sets import features_of, photographs_of, references
from .stopwatch import Stopwatch
from .store import Outcome, Unit
from .subject import subject_of

if TYPE_CHECKING:
    from ..domains import Domain

OURS = "ours"
"""Key of our own editor, beside those of `BASELINES`."""

AT_ONCE = 8
"""Images that every editor is given together."""

_USUAL_COST = 60


def editors(case: Case) -> list[str]:
    """Return the keys of all editors of a case, ours first.

    Raises:
        ValueError: the plan names a method that does not exist.
    """
    there = [*BASELINES, *case.trained]
    asked = there if case.plan.methods is None else case.plan.methods
    for name in asked:
        if name not in there and name in TRAINED:
            raise ValueError(
                f"{name} has to be trained first: `sdd bench train {name} --out FOLDER`, and then "
                "--trained FOLDER here"
            )
        if name not in there:
            raise ValueError(f"unknown method {name!r}; there are: {', '.join(there)}")
    return [OURS, *asked]


def class_of(key: str) -> type[Baseline]:
    if key == OURS:
        return SelectiveDistillation
    return TRAINED[key] if key in TRAINED else BASELINES[key]


def load_editor(key: str, domain: Domain, case: Case, seed: int = 0) -> Baseline:
    """Make an editor.

    Args:
        seed: of our own.

    Raises:
        ValueError: the domain lacks a part that it needs.
    """
    if key == OURS:
        return SelectiveDistillation(domain, case.plan.steps, case.plan.selection_images, seed)
    settings = dict(case.plan.settings.get(key, {}))
    if key in case.trained:
        settings["path"] = case.trained[key].path
    return load_baseline(key, domain, **settings)


def check_settings(case: Case) -> None:
    """Make every editor that the plan has settings for.

    Raises:
        ValueError: one refuses them that does not refuse the domain.
    """
    plain = replace(case, plan=replace(case.plan, settings={}))
    for key in editors(case)[1:]:
        if key not in case.plan.settings:
            continue
        try:
            load_editor(key, case.domain, case)
        except (TypeError, ValueError) as error:
            try:
                load_editor(key, case.domain, plain)
            except ValueError:
                continue  # the domain lacks a part, which the page tells
            raise ValueError(f"settings of {key} cannot be used: {error}") from error


def editing(case: Case, key: str, prompt: str, seed: int = 0) -> Unit:
    """Return the unit that edits m images by one editor with one prompt, and judges them.

    Args:
        seed: of our own selection and training.

    Its values: what `judged` tells, "seconds" of "once" for all prompts, of "selection" and
    "training" for this one and of "edits" for all images, "clock", "photographs", which tell images
    from others, and ours "timesteps". Its strip "edits" shows the first images.
    """
    plan = case.plan

    def run() -> Outcome:
        subject = subject_of(case.domain, prompt, plan.images)
        editor, watch = load_editor(key, case.domain, case, seed), Stopwatch(case.domain.device)
        with watch.lap("once"):
            editor.prepare_domain()
        with watch.lap("training"):
            editor.prepare(prompt)
        with watch.lap("edits"):
            given = subject.given if key == OURS else subject.before
            parts = [editor.edit(some, prompt) for some in given.split(AT_ONCE)]
        after = torch.cat(parts).clamp(-1, 1)
        seconds = {**watch.seconds, **getattr(editor, "seconds", {})}
        values: dict[str, Any] = {"seconds": seconds}
        values |= judged(case.domain, subject, after, case.judges)
        values |= {"clock": watch.clock, "images": len(after), "prompt": prompt}
        values["features"] = features_of(case, after.cpu())
        values["photographs"] = photographs_of(subject.before)
        if isinstance(editor, SelectiveDistillation):
            values["timesteps"] = editor.timesteps
        return Outcome(values, {"edits": after[: plan.shown]})

    depends: dict[str, Any] = {
        "editor": key, "prompt": prompt, "images": plan.images, "shown": plan.shown,
        "settings": settings_of(case, key), **case.judges.to_json(),
    }  # fmt: skip
    name = f"edits/{key}, prompt {case.prompts.index(prompt)}"
    turn = 10 + case.prompts.index(prompt)
    if seed:
        depends, name, turn = {**depends, "seed": seed}, f"{name}, seed {seed}", 18
    return case.unit(name.replace(" ", "-"), depends, run, turn=turn, cost=_USUAL_COST)


def settings_of(case: Case, key: str) -> dict[str, Any]:
    """Return what an editor's results depend on besides its prompt."""
    if key == OURS:
        return {"steps": case.plan.steps, "selection_images": case.plan.selection_images}
    parameters = inspect.signature(class_of(key)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    used = {**defaults, **case.plan.settings.get(key, {})}
    told = {name: repr(value) for name, value in used.items()}
    if key in case.trained:
        about = case.trained[key].about
        told |= {"trained_steps": str(about["training"]["steps"])}
        if "guidance_scale" in about:
            told |= {"trained_guidance_scale": str(about["guidance_scale"])}
        told |= {"network": case.trained[key].digest}
    return told


def units(case: Case) -> list[Unit]:
    """Return the units of all editors; by their turns one prompt comes after another."""
    return [unit for key in editors(case) for unit in units_of(case, key)]


def units_of(case: Case, key: str) -> list[Unit]:
    """Return the units of one editor, and of the reference images that they are compared with."""
    found = [references(case, prompt) for prompt in case.prompts]
    return found + [editing(case, key, prompt) for prompt in case.prompts]


def measured(case: Case, key: str) -> dict[str, dict[str, Any]]:
    """Return what is measured of an editor so far: prompt → values."""
    found = ((prompt, case.store.find(editing(case, key, prompt))) for prompt in case.prompts)
    return {prompt: values for prompt, values in found if values is not None}
