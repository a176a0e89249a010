"""Edited images as a set: FID and KID of all prompts together, from features that units keep."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..metrics.distributions import frechet_distance, kernel_distance_of_all
from ..metrics.features import FeatureNetwork, domain_features
from ..metrics.interval import Interval
from ..metrics.jackknife import groups_of, jackknife_interval
from .case import Case
from .store import Outcome, Unit
from .subject import subject_of

_DIGITS = 5  # of a feature: FID has three
_GROUPS = 10  # of the images, each of which is left out once for an interval


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
    """Return the unit of a prompt's reference images: "before", and where they are drawn "right".

    Of several right answers the first is taken.
    """
    plan = case.plan

    def run() -> Outcome:
        subject = subject_of(case.domain, prompt, plan.images)
        values: dict[str, Any] = {"before": features_of(case, subject.before)}
        if subject.answers is not None:
            values["right"] = features_of(case, subject.answers.answers[0])
        return Outcome(values)

    depends = {"references": prompt, "images": plan.images, **case.judges.to_json()}
    name = f"edits/references, prompt {case.prompts.index(prompt)}".replace(" ", "-")
    return case.unit(name, depends, run, turn=10 + case.prompts.index(prompt))


def photographs_of(images: Tensor) -> list[str]:
    """Return what tells each image [N, 3, R, R] from others, as units keep it: several prompts may
    have the same one."""
    return [
        hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=8).hexdigest()
        for image in images.cpu()
    ]


Distances = dict[str, Interval | float | None]


def distances(case: Case, prompts: Mapping[str, Mapping[str, Any]]) -> Distances:
    """Return FID and KID of an editor's images of all prompts together.

    Args:
        prompts: prompt → values of the editor's unit.

    Returns:
        "fid" and "kid" to the images before, "fid_right" to the right answers; None where there are
        too few images, features or torchmetrics. They have intervals, by `jackknife_interval`,
        where there are enough images still without a group of them.
    """
    found: Distances = {"fid": None, "kid": None, "fid_right": None}
    there = {prompt: case.store.find(references(case, prompt)) for prompt in prompts}
    after = _joined([values.get("features") for values in prompts.values()])
    if after is None:
        return found
    shown = [name for values in prompts.values() for name in values["photographs"]]
    for kind, suffix in (("before", ""), ("right", "_right")):
        reference = _joined([None if one is None else one.get(kind) for one in there.values()])
        if reference is None:
            continue
        try:
            if min(len(after), len(reference)) > after.shape[1]:
                found[f"fid{suffix}"] = _fid(after, reference, shown)
            if kind == "before" and len(after) >= 4:
                found["kid"] = _kid(after, reference, shown)
        except ModuleNotFoundError:  # torchmetrics is an extra
            return found
    return found


def _fid(after: Tensor, reference: Tensor, shown: Sequence[str]) -> Interval | float:
    def fid(some: Tensor) -> float:
        return frechet_distance(some, reference)

    if _least_left(shown) <= after.shape[1]:
        return fid(after)
    return jackknife_interval(after, fid, groups=_GROUPS, members=shown)


def _kid(after: Tensor, reference: Tensor, shown: Sequence[str]) -> Interval | float:
    def kid(some: Tensor) -> float:
        return kernel_distance_of_all(some, reference)

    if _least_left(shown) < 4:
        return kid(after)
    return jackknife_interval(after, kid, groups=_GROUPS, members=shown)


def _least_left(shown: Sequence[str]) -> int:
    """Return how many images there are at least without a group; 0: there are too few groups."""
    if len(set(shown)) < _GROUPS:
        return 0
    return len(shown) - max(map(len, groups_of(shown, _GROUPS)))


def about_sets(case: Case, editors: Iterable[Mapping[str, Mapping[str, Any]]]) -> str | None:
    """Return what FID and KID of a table are by, and what they lack where there are none.

    Args:
        editors: of each, prompt → values of its unit.
    """
    network = network_of(case)
    if network is None:
        return None
    told = (
        f"FID and KID by the features of the {network.name}, of all prompts together, to the "
        "images before the edit as in the paper: doing nothing is best, and has a KID below 0, "
        "since these are the same images. KID is over all pairs of images. Intervals leave out "
        "groups of photographs, each with all its edits (jackknife), and tell nothing of other "
        "prompts."
    )
    if case.judges.inception is None:
        told += " They cannot be compared with those by Inception."
    if find_spec("torchmetrics") is None:
        return f"{told} They need torchmetrics: pip install 'sdd_fast[metrics]'."
    sets = (_joined([one.get("features") for one in its.values()]) for its in editors)
    few = [
        features for features in sets if features is not None and len(features) <= features.shape[1]
    ]
    if few:
        told += (
            f" FID needs more images than there are features, {few[0].shape[1] + 1} at least of "
            f"all prompts together; an editor has {min(map(len, few))}."
        )
    return told


def _joined(parts: Sequence[Any]) -> Tensor | None:
    if not parts or any(part is None for part in parts):
        return None
    return torch.tensor([row for part in parts for row in part], dtype=torch.float64)
