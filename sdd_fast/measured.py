"""What was measured on this machine, kept for the next time in a file of the user's cache.

Nothing depends on the file being there: what it lacks is measured again. A key names everything
that the value depends on, versions of libraries included.
"""

from __future__ import annotations

import importlib.metadata
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from .files import expanded, read_json, write_json

_VERSION = 1
_LIBRARIES = ("sdd_fast", "torch", "diffusers", "xformers", "flash-attn", "flash-attn-3")


def measured_file() -> Path:
    """Return where it is kept: sdd_fast/measured.json in $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(base) / "sdd_fast" / "measured.json"


def key_of(*parts: Any) -> str:
    """Return the key of a figure: what it depends on, and the libraries it was measured with."""
    return " | ".join(map(str, (*parts, *_versions())))


def _versions() -> list[str]:
    found = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device_name(device: str | torch.device) -> str:
    """Return what a device is called: the model of a GPU, the instructions of a CPU."""
    kind = torch.device(device)
    if kind.type == "cuda":
        return torch.cuda.get_device_name(kind)
    amx = " AMX" if torch.cpu._is_amx_tile_supported() else ""
    return f"{kind.type} {torch.backends.cpu.get_cpu_capability()}{amx}"


def everything() -> dict[str, Any]:
    """Return all that is kept; of a file that cannot be used, nothing, with a warning."""
    path = measured_file()
    try:
        content = read_json(path)
        if content["version"] == _VERSION and isinstance(content["measured"], dict):
            return content["measured"]
        problem = "it is of another version"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = str(error)
    warnings.warn(f"{path} is not used and written anew: {problem}", stacklevel=2)
    return {}


def keep(key: str, value: Any) -> None:
    """Keep a value, JSON only; where nothing can be written, warn and go on."""
    content = {"version": _VERSION, "measured": everything() | {key: value}}
    try:
        write_json(measured_file(), content)
    except OSError as error:
        warnings.warn(f"what was measured is not kept for the next time: {error}", stacklevel=2)
