"""Edited images as a set: FID and KID of all prompts together, from features that units keep.

Prompts share photographs: two edits of one are not two independent images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..metrics.distributions import frechet_distance, kernel_distance_of_all
from ..metrics.features import FeatureNetwork, domain_features
from ..metrics.interval import Interval
from ..metrics.jackknife import groups_of, jackknife_interval
from .case import Case
from .store import Outcome, Unit
from .subject import Subject, subject_of

if TYPE_CHECKING:
    from ..domains import Domain

_DIGITS = 5  # of a feature: FID has three
_GROUPS = 10  # of the photographs, each of which is left out once for an interval
_FEWEST = 4  # photographs of a set that there is a KID of


def network_of(case: Case) -> FeatureNetwork | None:
    """Return Inception if it was given, else the domain's own network; None if there is none."""
    domain = case.domain
    if case.judges.inception is not None:
        return case.judges.inception
    if domain.classifier is None and domain.clip is None:
        return None
    return domain_features(domain)


def features_of(case: Case, images: Tensor) -> list[list[float]] | None:
    """Return the features of images, as units keep them."""
    network = network_of(case)
    if network is None:
        return None
    return [[float(f"{x:.{_DIGITS}g}") for x in row] for row in network(images).tolist()]


def references(case: Case, prompt: str) -> Unit:
    """Return the unit of a prompt's images before an edit, and of right answers that are drawn.

    Its values: "reference", `Plan.reference_images` to compare edited images with as a set, and
    "edited", those that every editor is given. Of each the features "before", and "photographs",
    see `photographs_of`; of those that are edited also the features of the right answers, "right",
    of several the first.
    """
    plan = case.plan
    count = max(plan.reference_images, plan.images)

    def run() -> Outcome:
        edited = subject_of(case.domain, prompt, plan.images)
        reference = _reference_of(case.domain, prompt, count, edited)
        told = {"reference": _told(case, reference), "edited": _told(case, edited.before)}
        if edited.answers is not None:
            told["edited"]["right"] = features_of(case, edited.answers.answers[0])
        return Outcome(told)

    depends = {
        "references": prompt, "images": plan.images, "reference_images": count,
        **case.judges.to_json(),
    }  # fmt: skip
    name = f"edits/references, prompt {case.prompts.index(prompt)}".replace(" ", "-")
    return case.unit(name, depends, run, turn=10 + case.prompts.index(prompt))


def _reference_of(domain: Domain, prompt: str, count: int, edited: Subject) -> Tensor:
    """Return `count` images that lack the target; of a domain that has not as many, fewer."""
    if domain.reader is None:
        # Those that are edited, and more: rendered in other batches, they would be others by a bit.
        more = subject_of(domain, prompt, min(count, len(domain.held_out))).before
        return torch.cat([edited.before, more[len(edited.before) :]])
    while count > len(edited.before):
        try:
            return subject_of(domain, prompt, count).before
        except ValueError:  # of photographs there are so many
            count //= 2
    return edited.before


def _told(case: Case, before: Tensor) -> dict[str, Any]:
    return {"before": features_of(case, before), "photographs": photographs_of(before)}


def photographs_of(images: Tensor) -> list[str]:
    """Return what tells each image [N, 3, R, R] from others, as units keep it: several prompts may
    have the same one."""
    return [
        hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=8).hexdigest()
        for image in images.cpu()
    ]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of all prompts together.

    Args:
        features: [N, D], float64.
        photographs: [N], the one that each image is or is an edit of, see `photographs_of`.
    """

    features: Tensor
    photographs: list[str]

    @classmethod
    def of(cls, parts: Sequence[Mapping[str, Any] | None], key: str) -> ImageSet | None:
        """Join the features `key` that units keep of each prompt; None if one has none."""
        there = [one for one in parts if one is not None and one.get(key) is not None]
        if not there or len(there) < len(parts):
            return None
        return cls(
            torch.tensor([row for one in there for row in one[key]], dtype=torch.float64),
            [name for one in there for name in one["photographs"]],
        )

    @property
    def different(self) -> int:
        """How many of the images are different: an image that repeats tells nothing more."""
        return len(self.features.unique(dim=0))

    def different_left(self) -> int:
        """Return how many different images there are at least without a group of photographs; 0 if
        there are too few groups."""
        if len(set(self.photographs)) < _GROUPS:
            return 0
        numbers = self.features.unique(dim=0, return_inverse=True)[1]
        groups = groups_of(self.photographs, _GROUPS)
        return min(
            len(numbers[torch.cat([*groups[:i], *groups[i + 1 :]])].unique())
            for i in range(_GROUPS)
        )


Distances = dict[str, Interval | float | None]


def distances(case: Case, prompts: Mapping[str, Mapping[str, Any]]) -> Distances:
    """Return FID and KID of an editor's images of all prompts together.

    Args:
        prompts: prompt → values of the editor's unit.

    Returns:
        "fid" and "kid" to the reference images, "fid_right" to the right answers of the images that
        were edited: to those of other images, right edits of 50 images a prompt in faces64 have an
        FID of 26 already, in which editors drown. None where there are too few
        different images, no features or no torchmetrics. They have intervals, by
        `jackknife_interval`, where there are enough images still without a group of them.
    """
    return _distances(case, prompts, ImageSet.of(list(prompts.values()), "features"))


def distances_unedited(case: Case, prompts: Iterable[str], kind: str) -> Distances:
    """Return the same of the images that editors are given ("before"), or of their right answers
    ("right"), which have no distance to themselves."""
    asked = list(prompts)
    found = _distances(case, asked, ImageSet.of(_kept(case, asked, "edited"), kind))
    return found | {"fid_right": None} if kind == "right" else found


def _kept(case: Case, prompts: Iterable[str], which: str) -> list[Mapping[str, Any] | None]:
    found = [case.store.find(references(case, prompt)) for prompt in prompts]
    return [None if one is None else one[which] for one in found]


def _distances(case: Case, prompts: Iterable[str], images: ImageSet | None) -> Distances:
    asked = list(prompts)
    reference = ImageSet.of(_kept(case, asked, "reference"), "before")
    answers = ImageSet.of(_kept(case, asked, "edited"), "right")
    if images is None or find_spec("torchmetrics") is None:
        return {"fid": None, "kid": None, "fid_right": None}
    return {
        "fid": None if reference is None else _fid(images, reference),
        "kid": None if reference is None else _kid(images, reference),
        "fid_right": None if answers is None else _fid(images, answers),
    }


def _fid(images: ImageSet, reference: ImageSet) -> Interval | float | None:
    """Return the FID of two sets; None if one has too few different images."""

    def fid(some: Tensor) -> float:
        return frechet_distance(some, reference.features)

    if min(images.different, reference.different) <= images.features.shape[1]:
        return None
    if images.different_left() <= images.features.shape[1]:
        return fid(images.features)
    return jackknife_interval(images.features, fid, groups=_GROUPS, members=images.photographs)


def _kid(images: ImageSet, reference: ImageSet) -> Interval | float | None:
    """Return the KID of two sets; None if one has too few photographs."""

    def kid(index: Tensor) -> float:
        return kernel_distance_of_all(
            images.features[index],
            reference.features,
            members=[images.photographs[i] for i in index.tolist()],
            reference_members=reference.photographs,
        )

    if min(len(set(one.photographs)) for one in (images, reference)) < _FEWEST:
        return None
    every = torch.arange(len(images.features))
    if len(set(images.photographs)) < _GROUPS:
        return kid(every)
    return jackknife_interval(every, kid, groups=_GROUPS, members=images.photographs)


def about_sets(case: Case, editors: Iterable[Mapping[str, Mapping[str, Any]]]) -> str | None:
    """Return what FID and KID of a table are by, and what they lack where there are none.

    Args:
        editors: of each, prompt → values of its unit.
    """
    network = network_of(case)
    if network is None:
        return None
    there = [one for one in _kept(case, case.prompts, "reference") if one is not None]
    edited = [one for one in _kept(case, case.prompts, "edited") if one is not None]
    told = (
        f"FID and KID by the features of the {network.name}, of all prompts together, to images "
        f"before an edit as in the paper{_count(there, edited)}. Nearness to these is no quality, "
        "and is never bold: doing nothing is nearest, and every right edit moves away. KID is over "
        "all pairs of images but those of one photograph, and unbiased. Intervals leave out groups "
        "of photographs, each with all its edits (jackknife), and tell nothing of other prompts."
    )
    if any("right" in one for one in edited):
        told += " FID to right answers is to those of the same images."
    if case.judges.inception is None:
        told += " They cannot be compared with those by Inception."
    if find_spec("torchmetrics") is None:
        return f"{told} They need torchmetrics: pip install 'sdd_fast[metrics]'."
    sets = {
        "an editor": [ImageSet.of(list(its.values()), "features") for its in editors],
        "no edit": [ImageSet.of(edited, "before")],
        "right answers": [ImageSet.of(edited, "right")],
        "the images compared with": [ImageSet.of(there, "before")],
    }
    return told + _lacks(sets)


def _count(references: Sequence[Mapping[str, Any]], edited: Sequence[Mapping[str, Any]]) -> str:
    """Say how many images there are to compare with, and how many of them are edited, too."""
    images = ImageSet.of(references, "before")
    if images is None:
        return ""
    of_each = " to ".join(map(str, sorted({len(one["before"]) for one in references})))
    given = {name for one in edited for name in one["photographs"]}
    shared = len(given & set(images.photographs))
    return (
        f" ({of_each} of each prompt that lack its target, {images.different} different ones; of "
        f"the {len(given)} that are edited {shared} are among them)"
    )


def _lacks(sets: Mapping[str, Sequence[ImageSet | None]]) -> str:
    """Say of which sets there are too few different images for FID."""
    few: dict[str, int] = {}
    needed = 0
    for what, its in sets.items():
        for one in its:
            if one is not None and one.different <= one.features.shape[1]:
                few[what] = min(one.different, few.get(what, one.different))
                needed = one.features.shape[1] + 1
    if not few:
        return ""
    return (
        f" FID needs more different images than there are features, {needed} at least of all "
        f"prompts together; there are {', '.join(f'{n} of {what}' for what, n in few.items())}."
    )
