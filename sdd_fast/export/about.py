"""What an exported file says about itself: a JSON text, called `sdd.json` in every format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from .. import __version__
from ..domains.embedded import EMBEDDED
from ..manipulator import MapperInfo, config_of
from .parts import Part, Slot
from .torchscript import FORMAT as MAPPER_FORMAT, VERSION

NAME = "sdd.json"
FORMAT = "sdd_fast editor"


def license_note(infos: Sequence[MapperInfo]) -> str:
    """What is known of who may use the weights of these edits."""
    notes = []
    for domain in sorted({info.domain for info in infos}):
        if domain in EMBEDDED:
            notes.append(f"The weights of the domain {domain} are sdd_fast's: Apache-2.0.")
        else:
            named = f"of the domain {domain!r}" if domain else "of a domain without a name"
            notes.append(
                f"Made from generator and encoder {named}, whose licenses apply; sdd_fast does not "
                "know them."
            )
    return " ".join(notes)


def about(part: Part, note: str) -> dict[str, Any]:
    """Everything that a file tells, as JSON values.

    A mapper's file says what that of `export_torchscript` says, and more; see `load_torchscript`.
    """
    told: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "part": part.name,
        "license": note,
        "made_by": f"sdd_fast {__version__}, torch {torch.__version__}",
        "inputs": [_slot(slot) for slot in part.inputs],
        "outputs": [_slot(slot) for slot in part.outputs],
    }
    if part.name == "mapper":
        info = part.infos[0]
        return {
            **told,
            "format": MAPPER_FORMAT,
            "network": type(part.network).__name__,
            "config": config_of(part.network),
            **_edit(info),
            "levels": part.levels,
        }
    return {
        **told,
        "edits": [_edit(info) for info in part.infos],
        "levels": "an input" if part.levels is None else part.levels,
    }


def as_text(told: dict[str, Any]) -> str:
    return json.dumps(told, indent=2, ensure_ascii=False)


def _edit(info: MapperInfo) -> dict[str, Any]:
    return {
        "prompt": info.prompt, "lam": info.lam, "levels": list(info.levels),
        "timesteps": list(info.timesteps), "domain": info.domain,
    }  # fmt: skip


def _slot(slot: Slot) -> dict[str, Any]:
    shape = ["batch", *slot.shape]
    return {"name": slot.name, "shape": shape, "dtype": "float32", "meaning": slot.meaning}
