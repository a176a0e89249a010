"""Measure, in figures a person can check, what an edit does to rendered faces it has never seen."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import draws
from ...images import psnr as psnr
from ...manipulator import manipulate
from ...shield import shielded
from .. import Domain
from .attributes import ATTRIBUTES
from .edits import EDITS
from .held_out import without
from .renderer import Faces, render, sample_faces

_MEASURE_SEED = 20_000  # far from the seeds that training draws from


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


def read_attributes(domain: Domain, images: Tensor, batch_size: int = 128) -> dict[str, Tensor]:
    """Read the attribute labels {name: int64 [B]} off `images` with the domain's classifier."""
    if domain.classifier is None:
        raise ValueError(f"domain {domain.name} has no attribute classifier to measure with")
    with torch.no_grad():
        rows = [domain.classifier(x.clamp(-1, 1)) for x in images.split(batch_size)]
    return {k: torch.cat([row[k] for row in rows]).argmax(1) for k in rows[0]}


def faces_without(
    attribute: str, values: tuple[str, ...], n: int, seed: int = _MEASURE_SEED
) -> Faces:
    """Return `n` random faces that lack the target; bald heads have no hair color to edit."""
    drawn = sample_faces(8 * n, draws.generator(seed))
    return without(drawn, [(attribute, values)], n)


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
    seed: int = _MEASURE_SEED,
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
    ).clamp(-1, 1)
    seen = {k: v.cpu() for k, v in read_attributes(domain, after).items()}
    wanted = torch.tensor([ATTRIBUTES[attribute].index(v) for v in values])
    success = torch.isin(seen[attribute], wanted).double().mean().item()
    return EditQuality(
        prompt=prompt,
        attribute=attribute,
        values=values,
        faces=len(people),
        success=success,
        kept=_kept(seen, people.labels, attribute),
        identity=_identity(domain, before, after),
        strength=strength,
    )


def agreement(seen: dict[str, Tensor], drawn: dict[str, Tensor]) -> dict[str, float]:
    """Return the share of faces whose attribute reads as drawn; hair color only where hair is."""
    hair = drawn["hair_length"] != ATTRIBUTES["hair_length"].index("bald")
    shares = {}
    for name in ATTRIBUTES:
        same = (seen[name] == drawn[name]).double()
        counted = same[hair] if name == "hair_color" else same
        if len(counted):  # all of a few faces may be bald
            shares[name] = counted.mean().item()
    return shares


def _kept(seen: dict[str, Tensor], drawn: dict[str, Tensor], edited: str) -> dict[str, float]:
    gone = {edited, "hair_color"} if edited == "hair_length" else {edited}
    return {k: v for k, v in agreement(seen, drawn).items() if k not in gone}


def _identity(domain: Domain, before: Tensor, after: Tensor) -> float:
    if domain.identity is None:
        return float("nan")
    with torch.no_grad():
        a = domain.identity(before.to(after.device))
        b = domain.identity(after)
    return F.cosine_similarity(a, b).mean().item()
