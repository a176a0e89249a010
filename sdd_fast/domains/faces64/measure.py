"""Measure, in figures a person can check, what an edit does to rendered faces it has never seen."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...images import psnr as psnr
from ...manipulator import manipulate
from ...metrics.attributes import (
    differing,
    measure_attributes,
    read_attributes as read_attributes,
)
from ...metrics.identity import identity_similarity
from ...shield import shielded
from .. import Domain
from .attributes import asked
from .edits import EDITS
from .held_out import MEASURE_SEED, faces_without as faces_without
from .renderer import render


@dataclass(frozen=True)
class EditQuality:
    """One edit, measured.

    Args:
        prompt, attribute, values: the target: a face counts if the classifier reads one of
            `values` as its `attribute` after the edit.
        faces: number of held-out faces that lacked the target before.
        success: share of them that have it after the edit, 0…1.
        kept: share whose other attributes read as they were drawn, per attribute. The hair color
            of a bald head is not asked for.
        identity: mean cosine similarity of identity embeddings before and after.
        strength: of the edit.
    """

    prompt: str
    attribute: str
    values: tuple[str, ...]
    faces: int
    success: float
    kept: dict[str, float]
    identity: float
    strength: float = 1.0

    @property
    def kept_mean(self) -> float:
        return sum(self.kept.values()) / len(self.kept)

    @property
    def kept_worst(self) -> tuple[str, float]:
        return min(self.kept.items(), key=lambda item: item[1])

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"kept_mean": self.kept_mean, "kept_worst": list(self.kept_worst)}


@shielded(grad=False)
def measure_edit(
    domain: Domain,
    mapper: nn.Module,
    lam: float,
    prompt: str,
    *,
    target: tuple[str, tuple[str, ...]] | None = None,
    strength: float = 1.0,
    faces: int = 256,
    seed: int = MEASURE_SEED,
) -> EditQuality:
    """Encode held-out faces that lack the target, edit them and read the attributes off.

    Args:
        prompt: one of `EDITS`, or any text together with `target` = (attribute, values).

    Raises:
        ValueError: the prompt is not one whose target is known and none is given, or the domain
            has no classifier.
    """
    if target is None and prompt not in EDITS:
        raise ValueError(
            f"what counts as success of {prompt!r} is not known; give target=(attribute, values) "
            f"or one of the prompts {', '.join(map(repr, EDITS))}"
        )
    attribute, values = target if target is not None else EDITS[prompt]
    if domain.encoder is None:
        raise ValueError(f"domain {domain.name} has no encoder to measure edits of pictures with")
    people = faces_without(attribute, values, faces, seed)
    before = render(people, domain.resolution)
    after = torch.cat(
        [
            manipulate(domain.generator, domain.encoder(x), [(mapper, lam * strength)]).images
            for x in before.to(domain.device).split(64)
        ]
    )
    after = after.nan_to_num(0.0).clamp(-1, 1).cpu()  # what cannot be shown is gray
    target = (attribute, values)
    outcome = measure_attributes(domain, before, after, target, labels=people.labels)
    assert outcome.success is not None
    identity = math.nan
    if domain.identity is not None:
        vectors = identity_similarity(domain.identity, before, after, device=domain.device)
        identity = vectors.mean().item()
    return EditQuality(
        prompt=prompt,
        attribute=attribute,
        values=values,
        faces=len(people),
        success=outcome.success.double().mean().item(),
        kept=_shares(outcome.kept),
        identity=identity,
        strength=strength,
    )


def agreement(seen: dict[str, Tensor], drawn: dict[str, Tensor]) -> dict[str, float]:
    """Return the share of faces whose attribute reads as drawn; hair color only where hair is."""
    differs = differing(seen, drawn, asked(drawn))
    return _shares({name: 1 - values for name, values in differs.items()})


def _shares(kept: dict[str, Tensor]) -> dict[str, float]:
    """Means over the faces that were asked; all of a few faces may be bald."""
    asked_of = {name: values[~values.isnan()] for name, values in kept.items()}
    return {name: values.mean().item() for name, values in asked_of.items() if len(values)}
