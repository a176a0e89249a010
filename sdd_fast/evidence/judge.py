"""What an edit did, in figures of every image, as units keep it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..fingerprint import fingerprint
from ..metrics.edit_metrics import evaluate
from ..metrics.features import FeatureNetwork
from ..models.lpips import LPIPS
from .subject import Subject

if TYPE_CHECKING:
    from ..domains import Domain


@dataclass(frozen=True, eq=False)
class Judges:
    """Networks that judge beside the domain's own, from files of the user's.

    Args:
        inception: for FID and KID, see `inception_features`; None: by the domain's own network.
        lpips: see `load_lpips`; None: not measured.
    """

    inception: FeatureNetwork | None = None
    lpips: LPIPS | None = None

    def to_json(self) -> dict[str, str]:
        """Return what tells them from others; {} of none."""
        found = {}
        if self.inception is not None:
            found["inception"] = fingerprint(self.inception.vectors)
        if self.lpips is not None:
            found["lpips"] = f"{self.lpips.network} {fingerprint(self.lpips)}"
        return found


def check_judges(domain: Domain) -> None:
    """Raise ValueError unless a domain has something to measure edits with."""
    if domain.classifier is None and domain.clip is None:
        raise ValueError(
            f"the domain {domain.name} has neither a classifier of labels nor a CLIP, so nothing "
            "tells whether an edit worked; give --clip (in Python: load_domain(…, clip=…)), or "
            "train the domain with labeled images"
        )


def judged(
    domain: Domain, subject: Subject, after: Tensor, judges: Judges | None = None
) -> dict[str, Any]:
    """Return `EditMetrics` of the edited images of a subject, JSON values only."""
    found = evaluate(
        domain, subject.before, after.cpu(), subject.prompt,
        target=subject.target, answers=subject.answers,
        lpips=None if judges is None else judges.lpips,
    )  # fmt: skip
    return found.to_json()


def values_of(told: Mapping[str, Any], key: str) -> Tensor | None:
    """Return a figure of every image, [N] bool, or float64 with NaN where it could not be asked.

    None: it was not measured.
    """
    found: Sequence[float | bool | None] | None = told.get(key)
    if found is None:
        return None
    if all(isinstance(x, bool) for x in found):
        return torch.tensor(found, dtype=torch.bool)
    return torch.tensor([math.nan if x is None else x for x in found], dtype=torch.float64)


def mean_of(told: Mapping[str, Any], key: str) -> float | None:
    """Return the mean of a figure over images; None if it was not measured."""
    values = values_of(told, key)
    return None if values is None else float(values.double().nanmean())


def figures_of(seeds: Sequence[Sequence[Mapping[str, Any]]], key: str) -> list[list[Tensor]] | None:
    """Return [prompt][seed] → values [N] of one figure; None if it was not measured."""
    cells: list[list[Tensor]] = []
    for i in range(len(seeds[0]) if seeds else 0):
        found = [values_of(prompts[i], key) for prompts in seeds]
        known = [values for values in found if values is not None]
        if len(known) < len(found):
            return None
        cells.append(known)
    return cells or None
