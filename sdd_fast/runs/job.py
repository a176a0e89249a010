"""One run, from its settings to its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..distillation.config import DistillConfig
from ..distillation.judge import Verdict
from ..distillation.result import DistillResult
from ..files import shown
from ..notebook import image_tag, table
from ..progress import Listener
from ..report import wording
from ..run_folder import GRID_FILE, MAPPER_FILE, REPORT_FILE
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


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        prompt, folder = self.record["prompt"], str(shown(self.folder))
        return f"EditRun({prompt!r}, {self.verdict.level}: {self.headline}; {folder!r})"

    def _repr_html_(self) -> str:
        """The verdict, and the held-out images before and after."""
        prompt, picture = self.record["prompt"], self.folder / GRID_FILE
        rows = {
            "verdict": f"{self.verdict.level}: {self.headline}",
            "advice": self.advice,
            "timesteps": ", ".join(map(str, self.record["timesteps"])),
            "folder": self.folder,
            "report": self.report,
        }
        facts = table({name: value for name, value in rows.items() if str(value)})
        seen = image_tag(picture, f"before and after: {prompt}") if picture.exists() else ""
        return f"<b>“{escape(prompt)}”</b>{facts}{seen}"
