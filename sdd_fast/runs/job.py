"""One run, from its settings to its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..distillation.config import DistillConfig
from ..distillation.judge import Verdict
from ..distillation.result import DistillResult
from ..progress import Listener
from ..report import wording
from ..run_folder import MAPPER_FILE, REPORT_FILE
from ..selection.choose import Selection

if TYPE_CHECKING:
    from ..domains import Domain

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One run; `record` grows from one stage to the next.

    Args:
        place: where to write until the training begins, see `run_folder.pending`.
    """

    domain: Domain
    prompt: str
    folder: Path
    place: Path
    selection: Selection
    levels: Sequence[str] | None
    config: DistillConfig
    resume: bool
    progress: bool | Listener
    say: Say
    record: dict[str, Any]
    earlier: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return bool(self.earlier.get("complete")) and (self.folder / MAPPER_FILE).exists()


@dataclass(frozen=True)
class EditRun:
    """What `run_edit` returns. `record` is the content of run.json."""

    folder: Path
    result: DistillResult
    verdict: Verdict
    record: dict[str, Any]

    @property
    def mapper(self) -> nn.Module:
        return self.result.mapper

    @property
    def report(self) -> Path:
        return self.folder / REPORT_FILE

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        return wording.headline(self.record)

    @property
    def advice(self) -> str:
        """What to try next; "" if nothing."""
        return wording.advice(self.record)
