"""What a run makes sure of before any work: its settings fit, and its folder is its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.mapper import level_range
from ..run_folder import CURVE_FILE, CURVE_PICTURE, RUN_FILE, TRAINED, WRITTEN
from ..selection.choose import Selection
from ..selection.curve import HQSCurve
from .record import read_run

if TYPE_CHECKING:
    from ..domains import Domain


def slug(prompt: str) -> str:
    """Return a folder name for a prompt: "a face with white hair" → "a-face-with-white-hair".

    Where a name leaves out what tells the prompt from others, such as capitals or commas, it ends
    in a few digits that do.
    """
    name = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:60] or "edit"
    if name.replace("-", " ") == prompt:
        return name
    return f"{name}-{hashlib.sha256(prompt.encode(errors='replace')).hexdigest()[:4]}"


def check(
    domain: Domain,
    prompt: str,
    timesteps: Sequence[int] | None,
    curve: HQSCurve | None,
    levels: Sequence[str] | None,
    selection: Selection,
) -> None:
    """Say whatever can be said before any work is done."""
    if not prompt.strip():
        raise ValueError(f"the prompt is empty: {prompt!r}; describe the target, e.g. 'white hair'")
    if timesteps is not None:
        if curve or selection.top is not None or selection.threshold is not None:
            raise ValueError(
                "fixed timesteps leave nothing to select; give no curve, top or threshold"
            )
        if not timesteps:
            raise ValueError("no timesteps given; leave them out to have them selected")
        domain.prior.timesteps_tensor(list(timesteps), len(timesteps))
        domain.prior.schedule.check_signal(list(timesteps))
    if curve is not None and curve.prompt != prompt:
        raise ValueError(f"the curve belongs to the prompt {curve.prompt!r}, not to {prompt!r}")
    _ = domain.quality  # shown by the report; damage is found here
    for level in levels or ():
        level_range(level, domain.generator.num_layers)


def check_selection(folder: Path, prompt: str) -> None:
    """Refuse a folder in which `sdd select` would replace more than a curve of the same prompt."""
    taken = [name for name in (RUN_FILE, *TRAINED) if (folder / name).exists()]
    if taken:
        raise ValueError(
            f"{folder} holds a run ({', '.join(taken)}), whose curve would be replaced; choose "
            "another folder"
        )
    path = folder / CURVE_FILE
    if not path.exists():
        if (folder / CURVE_PICTURE).exists():
            raise ValueError(
                f"{folder / CURVE_PICTURE} is not of a selection, and would be replaced; choose "
                "another folder"
            )
        return
    try:
        other = HQSCurve.load(path).prompt
    except ValueError as error:
        raise ValueError(f"{error}; it would be replaced: choose another folder") from error
    if other != prompt:
        raise ValueError(
            f"{path} is the curve of another prompt, {other!r}, and would be replaced; choose "
            "another folder"
        )


def earlier_run(folder: Path, domain: Domain, prompt: str, resume: bool) -> dict[str, Any]:
    """Return the record of an earlier run in the folder, {} if there is none to continue."""
    if not (folder / RUN_FILE).exists():
        selected = (CURVE_FILE, CURVE_PICTURE)  # by `sdd select`, for this run
        foreign = [
            name
            for name in (*TRAINED, *WRITTEN)
            if name not in selected and (folder / name).exists()
        ]
        if foreign:
            raise ValueError(
                f"{folder} holds {', '.join(foreign)}, but no {RUN_FILE}: these are files of "
                "something else, which a run would replace; choose another folder"
            )
    # What a restart is to replace stays until there is something new in its place.
    if not resume or not (folder / RUN_FILE).exists():
        return {}
    earlier = read_run(folder)
    for name, value in {"prompt": prompt, "domain": domain.name}.items():
        if earlier[name] != value:
            raise ValueError(
                f"{folder} holds a run of another {name}: {earlier[name]!r}, not {value!r}; "
                "choose another folder for this one, or start over there with resume=False"
            )
    return earlier
