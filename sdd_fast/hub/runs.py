"""What a run's folder has for a model card: its record, its settings and its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from ..domains.spec import PRESETS
from ..files import read_json
from ..manipulator import MapperInfo
from ..run_folder import CONFIG_FILE, CURVE_PICTURE, GRID_FILE, RUN_FILE
from ..runs.record import read_run
from .card import CardEdit
from .contents import BEFORE_AFTER, BUILT_IN, CURVE, numbered
from .names import is_hub_id


def card_edit(
    mapper: nn.Module, info: MapperInfo, run: Path | None, index: int
) -> tuple[CardEdit, dict[str, Path]]:
    """Return what a card tells of an edit, and the pictures that go with it.

    Args:
        run: the folder that it was distilled in; None if there is none.
        index: of the edit among those of the card, for the names of its pictures.

    Raises:
        ValueError: the run is not finished, or of another prompt.
    """
    record, settings, pictures = None, None, {}
    names = {"before_after": "", "curve": ""}
    if run is not None and (run / RUN_FILE).exists():
        record = read_run(run)
        if not record["complete"]:
            raise ValueError(
                f"the run in {run} is not finished: it is not measured yet. Give the same "
                "`sdd distill` again, which goes on, and then push it"
            )
        if record["prompt"] != info.prompt:
            raise ValueError(
                f"the run in {run} is of {record['prompt']!r}, and the edit of {info.prompt!r}"
            )
    elif run is not None and (run / CONFIG_FILE).exists():
        found = read_json(run / CONFIG_FILE)
        settings = found.get("distill") if isinstance(found, dict) else None
    if run is not None:
        for key, there, name in (
            ("before_after", GRID_FILE, BEFORE_AFTER),
            ("curve", CURVE_PICTURE, CURVE),
        ):
            if (run / there).is_file():
                names[key] = numbered(name, index)
                pictures[names[key]] = run / there
    teacher = "" if record is None else _teacher(record["domain_reference"])
    told = asdict(info), described_network(mapper), record, _known(settings)
    edit = CardEdit(*told, names["before_after"], names["curve"], teacher)
    return edit, pictures


def _teacher(reference: str | Mapping[str, Any]) -> str:
    """The name of the diffusion model, of a path its last part: folders are nobody's business."""
    if isinstance(reference, str):
        if reference in BUILT_IN:
            return f"that of {reference}"
        if reference not in PRESETS:
            return ""
        found = read_json(PRESETS[reference]).get("diffusion")
    else:
        found = reference.get("diffusion")
    if not isinstance(found, str):
        return ""
    return found if is_hub_id(found) else Path(found).name


def described_network(mapper: nn.Module) -> str:
    """Return what a mapper is, in words."""
    count = sum(parameter.numel() for parameter in mapper.parameters())
    return f"{type(mapper).__name__}, {count:,} parameters"


def _known(settings: Any) -> Mapping[str, Any] | None:
    """The settings of a training, if they are all that a card tells of."""
    wanted = (
        "steps", "batch_size", "lr", "seed", "l2_weight", "identity_weight", "range_weight",
        "keep_weight", "prior_weight",
    )  # fmt: skip
    return settings if isinstance(settings, dict) and set(wanted) <= set(settings) else None
