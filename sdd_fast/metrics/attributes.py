"""Whether an edit reached its target and left everything else, as a domain's classifier reads it.

The classifier takes no part in the training of an edit, so that it is an independent witness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..domains.reader import Target
from ..models.convnet import ConvClassifier
from ..shield import shielded
from .pairs import check_pairs

if TYPE_CHECKING:
    from ..domains import Domain

Labels = Mapping[str, Tensor]
"""Attribute → number of its value, int64 [N]."""


@dataclass(frozen=True, eq=False)
class AttributeOutcome:
    """What an edit did to the attributes of images.

    Args:
        target: the attribute that the edit is about, and the values that count as success; None:
            not known, all attributes count as others.
        success: bool [N], whether the target is read after the edit; None without a target.
        had: bool [N], whether it was there before. Success means little for images that had it.
        kept: of every other attribute, [N] float64: 1 where it is as before, else 0; NaN where it
            cannot be asked, such as the color of hair that is not there.
    """

    target: Target | None
    success: Tensor | None
    had: Tensor | None
    kept: dict[str, Tensor]

    @property
    def kept_mean(self) -> Tensor:
        """[N]: the share of the other attributes that an image keeps."""
        return mean_over_attributes(self.kept)


@shielded(grad=False)
def read_attributes(domain: Domain, images: Tensor, batch_size: int = 128) -> dict[str, Tensor]:
    """Read the attribute labels {name: int64 [N]} off `images` with the domain's classifier.

    Raises:
        ValueError: the domain has no classifier.
    """
    classifier = _classifier(domain)
    parts = images.clamp(-1, 1).split(batch_size)
    rows = [classifier(part.to(domain.device)) for part in parts]
    return {k: torch.cat([row[k].argmax(1) for row in rows]).cpu() for k in rows[0]}


@shielded(grad=False)
def measure_attributes(
    domain: Domain,
    before: Tensor,
    after: Tensor,
    target: Target | None,
    *,
    labels: Labels | None = None,
) -> AttributeOutcome:
    """Read what an edit did to the attributes of images.

    Args:
        before, after: [N, 3, R, R] in [-1, 1].
        target: such as ("hair_color", ("white",)). In a domain that has no names of values (see
            `AttributeReader.ATTRIBUTES`), they are the numbers that the classifier gives them.
        labels: of `before`, if they are known; else they are read off it, too.

    Raises:
        ValueError: the domain has no classifier, images do not pair up, an attribute or value that
            it does not read, or labels of other images.
    """
    before, after = check_pairs(before, after)
    wanted = None if target is None else value_numbers(domain, target)
    seen = read_attributes(domain, after)
    known = read_attributes(domain, before) if labels is None else _checked(labels, seen)
    edited = None if target is None else target[0]
    success = had = None
    if target is not None and wanted is not None:
        success, had = (torch.isin(read[target[0]], wanted) for read in (seen, known))
    kept = {
        name: _where((seen[name] == known[name]), mask)
        for name, mask in asked(domain, known, edited).items()
    }
    return AttributeOutcome(target, success, had, kept)


def asked(domain: Domain, labels: Labels, edited: str | None) -> dict[str, Tensor]:
    """Return of which images each attribute but the edited one can be asked: bool [N]."""
    reader = domain.reader
    if reader is not None and hasattr(reader, "asked"):
        found: dict[str, Tensor] = reader.asked(labels, edited)
        return found
    return {
        name: torch.ones_like(values, dtype=torch.bool)
        for name, values in labels.items()
        if name != edited
    }


def value_numbers(domain: Domain, target: Target) -> Tensor:
    """Return the classifier's numbers of a target's values, int64.

    Raises:
        ValueError: an attribute or value that the domain does not read.
    """
    attribute, values = target
    known: Mapping[str, Sequence[Any]]
    if domain.reader is not None:
        known = domain.reader.ATTRIBUTES
    else:
        known = {name: range(count) for name, count in _classifier(domain).heads.items()}
    if attribute not in known:
        raise ValueError(
            f"domain {domain.name} does not read {attribute!r}; it reads {', '.join(known)}"
        )
    unknown = [value for value in values if value not in known[attribute]]
    if unknown:
        there = ", ".join(map(str, known[attribute]))
        raise ValueError(f"unknown {attribute} {unknown[0]!r}; its values are {there}")
    numbers = [known[attribute].index(value) for value in values]
    if not numbers:
        raise ValueError(f"the target {attribute!r} names no value that counts as success")
    return torch.tensor(numbers)


def _classifier(domain: Domain) -> ConvClassifier:
    if domain.classifier is None:
        raise ValueError(
            f"domain {domain.name} has no attribute classifier to measure with; it is trained with "
            "a domain of labeled images, or named with load_domain(…, classifier=FILE)"
        )
    return domain.classifier


def mean_over_attributes(values: Mapping[str, Tensor]) -> Tensor:
    """Return the mean [N] over attributes of values [N], leaving out NaN."""
    return torch.stack(list(values.values())).nanmean(0)


def differing(seen: Labels, right: Labels, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return of each attribute whether it differs: [N] float64, 1, 0 or NaN where not asked."""
    return {name: _where(seen[name] != right[name], mask) for name, mask in masks.items()}


def _where(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values.double(), torch.nan)


def _checked(labels: Labels, seen: Labels) -> dict[str, Tensor]:
    count = len(next(iter(seen.values())))
    missing = [name for name in seen if name not in labels]
    if missing:
        raise ValueError(
            f"labels must name every attribute that the classifier reads; missing: "
            f"{', '.join(missing)}"
        )
    found = {name: torch.as_tensor(labels[name]).cpu() for name in seen}
    wrong = [name for name, values in found.items() if values.shape != (count,)]
    if wrong:
        raise ValueError(
            f"labels must be [{count}], one an image; {wrong[0]} is {list(found[wrong[0]].shape)}"
        )
    return found
