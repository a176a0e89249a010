"""run.json: what a run was asked for, what came out, how long it took and on which versions."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..distillation.config import DistillConfig
from ..files import PathLike, read_json
from ..run_folder import RUN_FILE

if TYPE_CHECKING:
    from ..domains import Domain

FORMAT, VERSION = "sdd_fast.run", 1

REQUIRED = (
    "prompt", "domain", "domain_reference", "resolution", "source_text", "complete", "command",
    "distill", "seconds", "started", "versions",
)  # fmt: skip
"""What every record has from its beginning, see `new_record`."""


def read_run(folder: PathLike) -> dict[str, Any]:
    """The content of a run's run.json.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one that this version of the package wrote, or it is damaged.
    """
    path = Path(folder) / RUN_FILE
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{path} is not the record of a run of sdd_fast")
    if record.get("version") != VERSION:
        raise ValueError(f"{path} has version {record.get('version')!r}, expected {VERSION}")
    missing = [key for key in REQUIRED if key not in record]
    if missing:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(missing)}")
    return record


def new_record(
    domain: Domain, prompt: str, config: DistillConfig, command: str, earlier: dict[str, Any]
) -> dict[str, Any]:
    """The record of a run that starts, or continues `earlier`."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {
        "format": FORMAT,
        "version": VERSION,
        "prompt": prompt,
        "domain": domain.name,
        "domain_reference": domain.reference,
        "resolution": domain.resolution,
        "source_text": domain.source_text,
        "complete": False,
        "command": command or earlier.get("command", ""),
        "dtype": str(domain.dtype).removeprefix("torch."),
        "distill": asdict(config),
        "seconds": earlier.get("seconds", {}),
        "started": earlier.get("started", now),
        "versions": versions(domain.device),
    }


def without_nan(value: Any) -> Any:
    """JSON has no NaN: what could not be measured becomes None."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, float) and value != value:
        return None
    return value


def versions(device: str) -> dict[str, Any]:
    """What the figures of a run depend on besides its settings."""
    from .. import __version__

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _cpu_name()
    return {
        "sdd_fast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = (line for line in lines if line.startswith("model name"))
        return next(named).split(":", 1)[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
