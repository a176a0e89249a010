"""All that can be measured of an edit in a domain: `evaluate(domain, before, after, prompt)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..domains.reader import RightAnswers, Target
from ..shield import shielded
from .attributes import Labels, mean_over_attributes, measure_attributes
from .clip import clip_similarity
from .counterfactual import CounterfactualError, counterfactual_error
from .distributions import FeatureDistances, Reference
from .identity import identity_similarity
from .lpips import lpips_distance
from .pairs import check_pairs
from .saturation import saturation

if TYPE_CHECKING:
    from ..domains import Domain
    from ..models.lpips import LPIPS

PER_IMAGE = (
    "success", "kept", "identity", "clip_direction", "clip_absolute", "saturated", "lpips",
    "counterfactual_psnr", "counterfactual_distance", "counterfactual_error",
    "nothing_psnr", "nothing_distance", "nothing_error",
)  # fmt: skip
"""Figures that each image has, in the order of tables."""
HIGHER_IS_BETTER = {
    "success": True, "kept": True, "identity": True, "clip_direction": True, "clip_absolute": True,
    "saturated": False, "lpips": False, "counterfactual_psnr": True,
    "counterfactual_distance": False, "counterfactual_error": False,
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class EditMetrics:
    """What was measured of one edit of N images; what the domain has no means for is None.

    All figures of images are float64 [N] on the CPU, in the order of the images, so that they can
    be resampled (`bootstrap_interval`) and compared with those of another editor on the same images
    (`paired_difference`).

    Args:
        prompt, source_text: target and source of the CLIP figures.
        target: the attribute that the prompt is about, and the values that count as success.
        success: bool, whether the target is read after the edit; see `AttributeOutcome`.
        had: bool, whether it was there before; give images that lack it.
        kept_by_attribute: of each other attribute 1 where it reads as before, else 0, NaN where it
            cannot be asked. kept: their mean.
        kept_against: "labels" that were given or "readings" of the images before.
        identity: cosine similarity of identity vectors, 1 is the same subject.
        clip_direction, clip_absolute: see `ClipSimilarity`; clip_before: absolute, before the edit.
        saturated: by how much the share of values that are 0 or 255 when saved went up.
        lpips: LPIPS between before and after, where its weights were given.
        counterfactual_psnr, counterfactual_distance, counterfactual_error: against the right
            answer, see `CounterfactualError`; the distance is by the network `distance_by`.
        counterfactual_by_attribute: the error of each attribute.
        nothing_psnr, nothing_distance, nothing_error: the same of doing nothing, for reference.
        distances: FID and KID to reference images, and by which network.
    """

    prompt: str
    source_text: str
    count: int
    saturated: Tensor
    target: Target | None = None
    success: Tensor | None = None
    had: Tensor | None = None
    kept: Tensor | None = None
    kept_by_attribute: dict[str, Tensor] | None = None
    kept_against: str | None = None
    identity: Tensor | None = None
    clip_direction: Tensor | None = None
    clip_absolute: Tensor | None = None
    clip_before: Tensor | None = None
    lpips: Tensor | None = None
    counterfactual_psnr: Tensor | None = None
    counterfactual_distance: Tensor | None = None
    counterfactual_error: Tensor | None = None
    counterfactual_by_attribute: dict[str, Tensor] | None = None
    nothing_psnr: Tensor | None = None
    nothing_distance: Tensor | None = None
    nothing_error: Tensor | None = None
    distance_by: str | None = None
    distances: FeatureDistances | None = None

    def per_image(self) -> dict[str, Tensor]:
        """The figures of `PER_IMAGE` that there are: [N] each."""
        found = {name: getattr(self, name) for name in PER_IMAGE}
        return {name: values for name, values in found.items() if values is not None}

    def means(self) -> dict[str, float]:
        """Means over the images of the figures that there are; NaN is left out."""
        return {name: float(v.double().nanmean()) for name, v in self.per_image().items()}

    def kept_worst(self) -> tuple[str, float] | None:
        """The attribute that fewest images keep, and their share."""
        if self.kept_by_attribute is None:
            return None
        shares = {name: float(v.nanmean()) for name, v in self.kept_by_attribute.items()}
        known = {name: share for name, share in shares.items() if share == share}  # not NaN
        return min(known.items(), key=lambda item: item[1]) if known else None

    def __repr__(self) -> str:
        shown = [f"{name}={mean:.3f}" for name, mean in self.means().items()]
        if self.distances is not None:
            shown.append(str(self.distances))
        return f"EditMetrics({self.prompt!r}, {self.count} images: {', '.join(shown)})"

    def to_json(self) -> dict[str, Any]:
        """All fields; numbers keep all their digits, NaN is null."""
        content = {one.name: _to_json(getattr(self, one.name)) for one in fields(self)}
        if self.distances is not None:
            content["distances"] = self.distances.to_json()
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> EditMetrics:
        """The metrics that `to_json` wrote."""
        found = {name: _from_json(value) for name, value in content.items()}
        if content["target"] is not None:
            attribute, values = content["target"]
            found["target"] = (attribute, tuple(values))
        if content["distances"] is not None:
            found["distances"] = FeatureDistances.from_json(content["distances"])
        return cls(**found)


@shielded(grad=False)
def evaluate(
    domain: Domain,
    before: Tensor,
    after: Tensor,
    prompt: str,
    *,
    target: Target | None = None,
    source_text: str | None = None,
    labels: Labels | None = None,
    answers: RightAnswers | None = None,
    reference: Reference | None = None,
    lpips: LPIPS | None = None,
) -> EditMetrics:
    """Measure what an edit by any editor did, by all that the domain has to measure with.

    Args:
        before, after: [N, 3, R, R] in [-1, 1], of the domain's resolution, the same images in the
            same order. They should lack the target before.
        prompt: what the images should show after.
        target: (attribute, values) that count as success; None: read off the prompt by the domain's
            attribute reader, if it has one, or that of `answers`.
        source_text: what the images show before; None: `domain.source_text`.
        labels: {attribute: int64 [N]} of `before`, if known; None: those of `answers`, or read off
            the images.
        answers: of the same images, by `right_answers`; gives the counterfactual figures.
        reference: images that the edited ones should look like as a set, by `Reference.of`.
        lpips: by `load_lpips`.

    Raises:
        ValueError: images that do not pair up or are outside of [-1, 1], of another number than
            `labels` or `answers`, too few for FID or KID (it says how many are needed), a target
            that the domain does not read, or `labels` or `answers` for a domain without a
            classifier.
    """
    before, after = check_pairs(before, after)
    if answers is not None:
        _check_answers(answers, before, target)
        target, labels = answers.target, labels or answers.labels
    if target is None and domain.reader is not None:
        target = domain.reader.target_in(prompt)
    found: dict[str, Any] = {}
    if domain.classifier is not None or labels is not None or target is not None:
        outcome = measure_attributes(domain, before, after, target, labels=labels)
        found |= {"target": target, "success": outcome.success, "had": outcome.had}
        found |= {"kept_by_attribute": outcome.kept}
        if outcome.kept:  # a classifier may read the target alone
            found |= {"kept": mean_over_attributes(outcome.kept)}
            found |= {"kept_against": "readings" if labels is None else "labels"}
    source_text = source_text or domain.source_text
    if domain.clip is not None:
        seen = clip_similarity(
            domain.clip, before, after, source_text, prompt, device=domain.device
        )
        found |= {"clip_direction": seen.direction, "clip_absolute": seen.absolute}
        found |= {"clip_before": seen.before}
    if domain.identity is not None:
        found["identity"] = identity_similarity(
            domain.identity, before, after, device=domain.device
        )
    if answers is not None:
        found |= _named("counterfactual", counterfactual_error(domain, after, answers))
        nothing = _named("nothing", counterfactual_error(domain, before, answers))
        found |= {name: value for name, value in nothing.items() if name in PER_IMAGE}
    if lpips is not None:
        found["lpips"] = lpips_distance(lpips, before, after)
    if reference is not None:
        found["distances"] = reference.distances(after)
    return EditMetrics(
        prompt=prompt,
        source_text=source_text,
        count=len(before),
        saturated=saturation(before, after),
        **found,
    )


def _check_answers(answers: RightAnswers, before: Tensor, target: Target | None) -> None:
    if target is not None and target != answers.target:
        raise ValueError(f"the right answers are for the target {answers.target}, not {target}")
    if answers.images.shape != before.shape:
        raise ValueError(
            f"the right answers are of {list(answers.images.shape)} images, before and after are "
            f"{list(before.shape)}"
        )
    # As they were, or as an 8-bit file keeps them.
    difference = (answers.images.cpu() - before.cpu()).abs().amax((1, 2, 3))
    strangers = (difference > 2 / 255).nonzero()[:, 0].tolist()
    if strangers:
        raise ValueError(
            f"the right answers are those of other images: {len(strangers)} of {len(before)} "
            f"differ, the first is number {strangers[0]}; give answers.images as before"
        )


def _named(prefix: str, error: CounterfactualError) -> dict[str, Any]:
    return {
        f"{prefix}_psnr": error.psnr,
        f"{prefix}_distance": error.distance,
        f"{prefix}_error": error.error,
        f"{prefix}_by_attribute": error.by_attribute,
        "distance_by": error.distance_by,
    }


def _to_json(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [_to_json(one) for one in value.tolist()]
    if isinstance(value, dict):
        return {key: _to_json(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return [_to_json(one) for one in value]
    return None if value != value else value  # NaN


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        kinds = {type(one) for one in value}
        if kinds == {bool}:
            return torch.tensor(value)
        if kinds <= {float, int, type(None)}:
            numbers = [torch.nan if one is None else one for one in value]
            return torch.tensor(numbers, dtype=torch.float64)
    if isinstance(value, dict):
        return {key: _from_json(one) for key, one in value.items()}
    return value
