"""What `distill` returns, or raises when some of several prompts fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..manipulator import MapperInfo
from .config import DistillConfig


@dataclass(frozen=True)
class DistillResult:
    """The result of `distill`.

    Args:
        mapper: trained, in eval mode, without gradients.
        history: one dict per `log_every` steps, see `distill`.
        info: prompt, λ, levels, timesteps and domain, as stored with the mapper.
        config: as used: a balanced guidance scale is filled in.
        seconds: training time, over all sittings; of prompts trained together, this one's share.
    """

    mapper: nn.Module
    history: list[dict[str, Any]]
    info: MapperInfo
    config: DistillConfig
    seconds: float

    @property
    def compile_seconds(self) -> float:
        """Seconds that compiling took besides, over all sittings."""
        return float(sum(entry.get("compile_seconds", 0.0) for entry in self.history))


class PromptsFailed(FloatingPointError):
    """Some of several prompts failed; the others are finished and saved.

    A loss became NaN or infinite, or a mapper, monitor or folder of one prompt raised an error.

    Attributes:
        results: of all prompts in their order, None for those that failed.
    """

    def __init__(self, message: str, results: list[DistillResult | None]) -> None:
        super().__init__(message)
        self.results = results


def check_failures(results: Sequence[DistillResult], failures: Sequence[str]) -> None:
    """Raise PromptsFailed if a prompt has a failure that is not ""."""
    failed = [failure for failure in failures if failure]
    if failed:
        told = f"{len(failed)} of {len(results)} prompts failed, the others are finished:\n  "
        raise PromptsFailed(
            (told if len(results) > 1 else "") + "\n  ".join(failed),
            [None if why else one for one, why in zip(results, failures, strict=True)],
        )


def figures_of(entry: dict[str, Any]) -> str:
    """Return what of a history entry is shown beside the progress."""
    # No verdict: of an edit that is not finished there is none.
    if "edit_size" not in entry:
        return f"residual {entry['residual']:.3g}"
    direction = f", direction {entry['direction']:+.2f}" if "direction" in entry else ""
    return f"edit size {entry['edit_size']:.1%}{direction}"


def shorten(text: str, width: int = 32) -> str:
    """Cut a prompt to `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"
