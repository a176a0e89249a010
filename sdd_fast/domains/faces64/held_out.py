"""Faces that no network was trained on, to show and to measure edits on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import draws
from ..reader import RightAnswers, Target
from .attributes import ATTRIBUTES
from .renderer import Faces, render, sample_faces

if TYPE_CHECKING:
    from .. import Domain

SHOWN_SEED = 30_001  # neither training nor measuring draws faces from it
MEASURE_SEED = 20_000  # of the faces that edits are measured on; far from the seeds of training
_TRIED = 64  # faces drawn for each that is wanted


def held_out_faces(count: int, lacking: Sequence[Target] = (), seed: int = SHOWN_SEED) -> Faces:
    """Return the first `count` random faces that have none of the targets: not hand-picked.

    Raises:
        ValueError: hardly any face lacks all of them.
    """
    drawn = sample_faces(_TRIED * count, draws.generator(seed))
    found = without(drawn, lacking, count)
    if len(found) < count:
        raise ValueError(
            f"only {len(found)} of {len(drawn)} rendered faces lack all of {list(lacking)}"
        )
    return found


def without(faces: Faces, lacking: Sequence[Target], count: int) -> Faces:
    """Return the first `count` of the faces that have none of the targets; fewer if there are.

    A bald head counts as lacking hair of any color only if no target is about hair.
    """
    keep = torch.ones(len(faces), dtype=torch.bool)
    for attribute, values in lacking:
        wanted = torch.tensor([ATTRIBUTES[attribute].index(value) for value in values])
        keep &= ~torch.isin(faces.labels[attribute], wanted)
        if attribute == "hair_color":
            keep &= faces.labels["hair_length"] != ATTRIBUTES["hair_length"].index("bald")
    return pick(faces, keep.nonzero()[:count, 0].tolist())


def pick(faces: Faces, index: Sequence[int]) -> Faces:
    """Return some of the faces."""
    rows = torch.tensor(list(index), dtype=torch.long)
    return Faces(
        {name: values[rows] for name, values in faces.labels.items()},
        {name: values[rows] for name, values in faces.geometry.items()},
    )


def sample_images(domain: Domain, count: int, lacking: Sequence[Target] = ()) -> Tensor:
    """Draw held-out faces that have none of the targets, see `AttributeReader`."""
    return render(held_out_faces(count, lacking), domain.resolution)


def faces_without(
    attribute: str, values: tuple[str, ...], n: int, seed: int = MEASURE_SEED
) -> Faces:
    """Return `n` random faces that lack the target; bald heads have no hair color to edit."""
    drawn = sample_faces(8 * n, draws.generator(seed))
    return without(drawn, [(attribute, values)], n)


def right_answers(
    count: int, resolution: int, target: Target, *, seed: int | None = None
) -> RightAnswers:
    """Draw faces that lack the target, and the same faces with it, see `DrawingReader`."""
    attribute, values = target
    faces = faces_without(attribute, values, count, MEASURE_SEED if seed is None else seed)
    if len(faces) < count:
        raise ValueError(
            f"only {len(faces)} of {8 * count} rendered faces lack {attribute} "
            f"{' or '.join(values)}, {count} were wanted; the target names nearly every value"
        )
    edited = [faces.with_labels(**{attribute: value}) for value in values]
    return RightAnswers(
        target,
        images=render(faces, resolution),
        labels=faces.labels,
        answers=tuple(render(one, resolution) for one in edited),
        answer_labels=tuple(one.labels for one in edited),
    )
