"""How different two sets of images are as sets: FID and KID, by the features of any network.

FID: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", Eq. 6. KID: Bińkowski et
al. 2018, "Demystifying MMD GANs", the unbiased estimate with their cubic kernel. Both are computed
by torchmetrics, in float64.

FID is biased: of few images it is too large, by an amount that depends on the network and on the
images. Compare only figures of the same number of images, or take KID.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from .. import draws
from ..checks import check_count
from ..shield import shielded
from .features import FeatureNetwork
from .interval import Interval
from .jackknife import GROUPS, jackknife_interval

KINDS = ("fid", "kid")
SUBSET_SIZE = 100
"""Images in each subset of KID. Published figures have 1000; a table of edits has fewer images."""
SUBSETS = 100


@dataclass(frozen=True)
class KernelDistance:
    """KID.

    Args:
        value: mean over subsets of the squared maximum mean discrepancy. It is unbiased, and may be
            below 0 for sets that are alike.
        spread: standard deviation over the subsets.
    """

    value: float
    spread: float


@dataclass(frozen=True)
class FeatureDistances:
    """Distances of edited images, as a set, to reference images.

    Args:
        features: name of the network; figures by another one are not comparable.
        dimensions: of its features. count, reference_count: of the images.
        fid, kid: None where they were not asked for. Their intervals, by `jackknife_interval`, tell
            how much they depend on which images were edited; the reference stays the same, and
            FID's bias of few images stays in.
        kid_subset_size: images in each subset.
    """

    features: str
    dimensions: int
    count: int
    reference_count: int
    fid: float | None = None
    kid: float | None = None
    fid_interval: Interval | None = None
    kid_interval: Interval | None = None
    kid_subset_size: int | None = None

    def __str__(self) -> str:
        shown = [
            f"{name}={value:.4g}"
            for name, value in (("fid", self.fid), ("kid", self.kid))
            if value is not None
        ]
        return f"{', '.join(shown)} ({self.features})"

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FeatureDistances:
        """The distances that `to_json` wrote."""
        intervals = {
            name: Interval.from_json(content[name])
            for name in ("fid_interval", "kid_interval")
            if content[name] is not None
        }
        return cls(**{**content, **intervals})


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference images, of which the features are computed once; made by `Reference.of`."""

    network: FeatureNetwork
    features: Tensor  # [M, D], float64
    kinds: tuple[str, ...]
    subset_size: int
    seed: int
    groups: int

    @classmethod
    @shielded(grad=False)
    def of(
        cls,
        network: FeatureNetwork,
        images: Tensor,
        *,
        kinds: Sequence[str] = KINDS,
        subset_size: int = SUBSET_SIZE,
        seed: int = 0,
        groups: int = GROUPS,
    ) -> Reference:
        """Compute the features of reference images.

        Args:
            network: such as `domain_features(domain)` or `inception_features(path)`.
            images: [M, 3, H, W] in [-1, 1]: what edited images should look like as a set.
            kinds: "fid", "kid" or both.
            subset_size: of KID. seed: of its subsets.
            groups: of the intervals; 0: none are computed, as for Inception's 2048 features on a
                CPU, where each FID takes a minute.

        Raises:
            ValueError: too few images (it says how many are needed), or an unknown kind.
            ModuleNotFoundError: torchmetrics is not installed.
        """
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise ValueError(f"kinds must name some of {', '.join(KINDS)}, got {list(kinds)}")
        check_count("subset_size", subset_size, 2)
        check_count("groups", groups, 0)
        _torchmetrics("fid")
        found = cls(network, network(images), tuple(kinds), subset_size, seed, groups)
        found.check(len(images), "reference images")
        return found

    def check(self, count: int, what: str) -> None:
        """Raise ValueError if so many images are too few."""
        if "fid" in self.kinds:
            _check_enough_for_fid(count, self.features.shape[1], what, self.network.name)
        if "kid" in self.kinds:
            _check_enough_for_kid(count, self.subset_size, what)

    @shielded(grad=False)
    def distances(self, images: Tensor) -> FeatureDistances:
        """Compare images [N, 3, H, W] in [-1, 1], as a set, with the reference.

        Raises:
            ValueError: too few images (it says how many are needed), or of another shape or range.
        """
        self.check(len(images), "images")
        features = self.network(images)
        fid = self._measured("fid", features)
        kid = self._measured("kid", features)
        return FeatureDistances(
            features=self.network.name,
            dimensions=self.features.shape[1],
            count=len(images),
            reference_count=len(self.features),
            fid=fid[0],
            kid=kid[0],
            fid_interval=fid[1],
            kid_interval=kid[1],
            kid_subset_size=self.subset_size if "kid" in self.kinds else None,
        )

    def _measured(self, kind: str, features: Tensor) -> tuple[float | None, Interval | None]:
        if kind not in self.kinds:
            return None, None

        def distance(some: Tensor) -> float:
            if kind == "fid":
                return frechet_distance(some, self.features, name=self.network.name)
            size = self.subset_size
            return kernel_distance(some, self.features, subset_size=size, seed=self.seed).value

        # Without a group there must be enough images still.
        needed = self.features.shape[1] + 1 if kind == "fid" else self.subset_size
        groups = min(self.groups, len(features))
        if groups < 2 or len(features) - math.ceil(len(features) / groups) < needed:
            return distance(features), None
        found = jackknife_interval(features, distance, groups=groups, seed=self.seed)
        return found.estimate, found


@shielded(grad=False)
def frechet_distance(features: Tensor, reference: Tensor, *, name: str = "this network") -> float:
    """Return the Fréchet distance of two Gaussians that have the features' means and covariances.

    Args:
        features, reference: [N, D] and [M, D] of two sets of images.
        name: of the network, for errors.

    Raises:
        ValueError: fewer than D + 1 images, whose covariance says nothing of some directions, or
            features of two kinds.
        ModuleNotFoundError: torchmetrics is not installed.
    """
    a, b = _checked(features, reference)
    for values, what in ((a, "images"), (b, "reference images")):
        _check_enough_for_fid(len(values), values.shape[1], what, name)
    metric = _torchmetrics("fid").FrechetInceptionDistance(feature=_AsGiven(a.shape[1]))
    metric.update(b, real=True)
    metric.update(a, real=False)
    # Of equal sets, rounding leaves it a little below 0.
    return max(0.0, float(metric.compute()))


@shielded(grad=False)
def kernel_distance(
    features: Tensor,
    reference: Tensor,
    *,
    subset_size: int = SUBSET_SIZE,
    subsets: int = SUBSETS,
    seed: int = 0,
) -> KernelDistance:
    """Return the kernel distance of two sets, k(x, y) = (x·y / D + 1)³, over random subsets.

    Args:
        features, reference: [N, D] and [M, D] of two sets of images.
        subset_size: images of each set in each of `subsets` subsets.

    Raises:
        ValueError: fewer images than `subset_size`, or features of two kinds.
        ModuleNotFoundError: torchmetrics is not installed.
    """
    a, b = _checked(features, reference)
    check_count("subset_size", subset_size, 2)
    check_count("subsets", subsets)
    for values, what in ((a, "images"), (b, "reference images")):
        _check_enough_for_kid(len(values), subset_size, what)
    module = _torchmetrics("kid")
    with warnings.catch_warnings(), draws.private(seed):
        warnings.filterwarnings("ignore", message=".*will save all extracted features")
        metric = module.KernelInceptionDistance(
            feature=_AsGiven(a.shape[1]), subsets=subsets, subset_size=subset_size
        )
        metric.update(b, real=True)
        metric.update(a, real=False)
        value, spread = metric.compute()
    return KernelDistance(float(value), float(spread))


@shielded(grad=False)
def kernel_distance_of_all(
    features: Tensor,
    reference: Tensor,
    *,
    members: Sequence[Hashable] | None = None,
    reference_members: Sequence[Hashable] | None = None,
) -> float:
    """Return the kernel distance over all pairs of images: no subsets, nothing drawn.

    The unbiased estimate of Bińkowski et al. 2018, Eq. 4, with k(x, y) = (x·y / D + 1)³; published
    figures are means of it over random subsets, see `kernel_distance`.

    It is of pairs that are independent of each other. Two edits of one photograph are not, nor is
    an edit of a photograph that is in the reference as well: name the photographs, and such pairs
    are left out of each of the three means.

    Args:
        features, reference: [N, D] and [M, D] of two sets of images.
        members, reference_members: [N] and [M] of which photograph each image is one of several.
            None: each image stands for itself.

    Raises:
        ValueError: images of fewer than 2 photographs, features of two kinds, or another number of
            members than images.
    """
    a, b = _checked(features, reference)
    known: dict[Hashable, int] = {}
    of_a = _numbered(members, len(a), "images", known)
    of_b = _numbered(reference_members, len(b), "reference images", known)

    def mean(x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
        kernel = (x @ y.T / x.shape[1] + 1) ** 3
        same = of_x[:, None] == of_y  # an image with itself is no pair, either
        return kernel.masked_fill_(same, 0.0).sum() / (same.numel() - same.sum())

    return float(mean(a, a, of_a, of_a) + mean(b, b, of_b, of_b) - 2 * mean(a, b, of_a, of_b))


def _numbered(
    members: Sequence[Hashable] | None, count: int, what: str, known: dict[Hashable, int]
) -> Tensor:
    """Return int64 [count], the same number for the same member; `known` has those of before."""
    given = [object() for _ in range(count)] if members is None else members
    if len(given) != count:
        raise ValueError(f"expected a member for each of {count} {what}, got {len(given)}")
    if len(set(given)) < 2:
        raise ValueError(f"KID needs at least 2 {what} of different members, got {len(set(given))}")
    return torch.tensor([known.setdefault(member, len(known)) for member in given])


class _AsGiven(nn.Module):
    """In the place of torchmetrics' network: what it is given are features already."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.num_features = dimensions

    def forward(self, features: Tensor) -> Tensor:
        return features


def _checked(features: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    a, b = (torch.as_tensor(values).detach().cpu().double() for values in (features, reference))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            "expected features [N, D] and [M, D] of the same network, got "
            f"{list(a.shape)} and {list(b.shape)}"
        )
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("expected finite features, got NaN or infinity")
    return a, b


def _check_enough_for_fid(count: int, dimensions: int, what: str, name: str) -> None:
    if count <= dimensions:
        raise ValueError(
            f"FID by {name} has {dimensions} features, and needs at least {dimensions + 1} images "
            f"to estimate their covariance; got {count} {what}. Give more, take KID, which needs "
            "fewer, or a network of fewer features"
        )


def _check_enough_for_kid(count: int, subset_size: int, what: str) -> None:
    if count < subset_size:
        raise ValueError(
            f"KID in subsets of {subset_size} images needs at least {subset_size}; got {count} "
            f"{what}. Give more, or a smaller subset_size"
        )


def _torchmetrics(module: str) -> Any:
    try:
        return import_module(f"torchmetrics.image.{module}")
    except ImportError as error:
        raise ModuleNotFoundError(
            "FID and KID are computed by torchmetrics: pip install 'sdd_fast[metrics]'"
        ) from error
