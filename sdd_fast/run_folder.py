"""The folder of a run: the names of its files, and how a distillation is resumed in it.

config.json              what was asked for, for people and for `Editor.load`
checkpoint.safetensors   mapper, optimiser, history and step: all of a moment in one file
mapper.safetensors       the mapper alone, once training is complete
history.json             the measurements, for plots and reports
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .files import PathLike, load_tensors, save_tensors, write_json
from .manipulator import MapperInfo, save_mapper

CONFIG_FILE, CHECKPOINT_FILE = "config.json", "checkpoint.safetensors"
MAPPER_FILE, HISTORY_FILE = "mapper.safetensors", "history.json"
TRAINED = (CONFIG_FILE, CHECKPOINT_FILE, MAPPER_FILE, HISTORY_FILE)
"""What `distill` writes."""

RUN_FILE = "run.json"
CURVE_FILE, CURVE_PICTURE = "curve.json", "curve.png"
GRID_FILE, TRAINING_FILE, REPORT_FILE = "before-after.png", "training.png", "report.html"
WRITTEN = (RUN_FILE, CURVE_FILE, CURVE_PICTURE, GRID_FILE, TRAINING_FILE, REPORT_FILE)
"""What `run_edit` writes besides."""

FORMAT = "1"


@dataclass
class Progress:
    """Where a training stands after `step` completed steps.

    Args:
        sums: float64 sums of the measurements since the last history entry; `count` of them.
        seconds: time spent training, over all sittings.
    """

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    seconds: float = 0.0


class RunFolder:
    """Reads and writes the files of one run.

    Args:
        path: the folder; made when first written to.
        description: everything that determines the run's result, JSON values only. A checkpoint
            is resumed only if it was written under the same description.
    """

    def __init__(self, path: PathLike, description: dict[str, Any]) -> None:
        self.path = Path(path)
        self.description = json.loads(json.dumps(description))
        self.checkpoint = self.path / CHECKPOINT_FILE

    def start(self, config: dict[str, Any], resume: bool) -> None:
        """Write config.json; without `resume`, also remove what an earlier run left."""
        if self.checkpoint.exists() and resume:
            self._check_same(load_tensors(self.checkpoint)[1])
        else:
            for name in (CHECKPOINT_FILE, MAPPER_FILE, HISTORY_FILE):
                (self.path / name).unlink(missing_ok=True)
        write_json(self.path / CONFIG_FILE, config)

    def load(self, mapper: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Restore mapper and optimiser from the checkpoint, if there is one.

        Raises:
            ValueError: the checkpoint is damaged or belongs to a run with other settings.
        """
        if not self.checkpoint.exists():
            return Progress()
        tensors, metadata = load_tensors(self.checkpoint)
        self._check_same(metadata)
        groups: dict[str, dict[str, Tensor]] = {"mapper": {}, "optimizer": {}, "sums": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            groups[kind][rest] = tensor
        mapper.load_state_dict(groups["mapper"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["optimizer"].items():
            index, _, key = name.partition("/")
            state.setdefault(int(index), {})[key] = tensor
        param_groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": param_groups})
        progress = json.loads(metadata["progress"])
        return Progress(sums=groups["sums"], **progress)

    def save(self, mapper: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Write the checkpoint and the history so far."""
        tensors = {f"mapper/{name}": tensor for name, tensor in mapper.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
        tensors |= {f"sums/{name}": value for name, value in progress.sums.items()}
        numbers = {
            "step": progress.step,
            "history": progress.history,
            "count": progress.count,
            "seconds": progress.seconds,
        }
        metadata = {
            "format": FORMAT,
            "description": json.dumps(self.description),
            "progress": json.dumps(numbers),
        }
        save_tensors(self.checkpoint, tensors, metadata)
        write_json(self.path / HISTORY_FILE, progress.history)

    def finish(self, mapper: nn.Module, info: MapperInfo) -> None:
        """Write the finished mapper."""
        save_mapper(self.path / MAPPER_FILE, mapper, info)

    def _check_same(self, metadata: dict[str, str]) -> None:
        if metadata.get("format") != FORMAT:
            raise ValueError(
                f"{self.checkpoint} was not written by this version of sdd_fast; choose another "
                "run folder, or resume=False to start over"
            )
        differing = _differences(json.loads(metadata["description"]), self.description)
        if differing:
            raise ValueError(
                f"{self.checkpoint} belongs to a run with other settings:\n  "
                + "\n  ".join(differing)
                + "\nRepeat those settings to resume it, choose another run folder, or pass "
                "resume=False to start over and discard it"
            )


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """One line for each value in which two JSON objects differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted({*old, *new}):
            inner = f"{name}.{key}" if name else key
            lines += _differences(old.get(key), new.get(key), inner)
        return lines
    return [] if old == new else [f"{name}: {old!r} in the checkpoint, {new!r} now"]
