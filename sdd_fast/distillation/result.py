"""What `distill` returns, or raises when some of several prompts fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..manipulator import MapperInfo
from ..notebook import table
from .config import DistillConfig


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self._told().items())
        return f"DistillResult({self.info.prompt!r}, {told})"

    def _repr_html_(self) -> str:
        return table({"prompt": self.info.prompt, **self._told()})

    def _told(self) -> dict[str, Any]:
        """What a person wants to know of it, by name."""
        told: dict[str, Any] = {
            "mapper": type(self.mapper).__name__,
            "levels": "+".join(self.info.levels) or "none",
            "timesteps": "+".join(map(str, self.info.timesteps)),
            "λ": f"{self.info.lam:g}",
            "steps": self.history[-1].get("step", self.config.steps) if self.history else 0,
            "seconds": f"{self.seconds:.1f}",
        }
        measured = [entry for entry in self.history if "edit_size" in entry]
        if measured:
            told |= {"edit size": f"{measured[-1]['edit_size']:.1%}"}
            told |= {name: measured[-1][name] for name in ("verdict",) if name in measured[-1]}
        return told


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
