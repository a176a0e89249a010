"""How good an edit is, in figures: per image, as a set, with intervals and paired tests.

    evaluate             everything at once, of any editor: `edit_metrics`
    attributes           success and others kept, by the domain's classifier
    clip, identity       direction and similarity; the same subject
    counterfactual       against the right answer, where images are drawn
    feature_distance     in the manner of LPIPS, by the domain's network; lpips: with its weights
    distributions        FID and KID, by the networks of `features`
    bootstrap, jackknife confidence intervals, of images and of whole sets
    paired               is one editor better on the same images?

Everything takes images [N, 3, H, W] in [-1, 1] and returns float64 on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _deprecated
from ..checkpoints.lpips import load_lpips as load_lpips
from .attributes import (
    AttributeOutcome as AttributeOutcome,
    measure_attributes as measure_attributes,
    read_attributes as read_attributes,
)
from .bootstrap import (
    bootstrap_interval as bootstrap_interval,
    hierarchical_interval as hierarchical_interval,
)
from .clip import ClipSimilarity as ClipSimilarity, clip_similarity as clip_similarity
from .counterfactual import (
    CounterfactualError as CounterfactualError,
    counterfactual_error as counterfactual_error,
    right_answers as right_answers,
)
from .distributions import (
    FeatureDistances as FeatureDistances,
    KernelDistance as KernelDistance,
    Reference as Reference,
    frechet_distance as frechet_distance,
    kernel_distance as kernel_distance,
)
from .edit_metrics import EditMetrics as EditMetrics, evaluate as evaluate
from .feature_distance import (
    FeatureDistance as FeatureDistance,
    domain_distance as domain_distance,
)
from .features import (
    FeatureNetwork as FeatureNetwork,
    domain_features as domain_features,
    inception_features as inception_features,
)
from .identity import identity_similarity as identity_similarity
from .interval import Interval as Interval, share_interval as share_interval
from .jackknife import jackknife_interval as jackknife_interval
from .lpips import lpips_distance as lpips_distance
from .paired import (
    PairedDifference as PairedDifference,
    holm as holm,
    paired_difference as paired_difference,
    sign_flip_test as sign_flip_test,
)

if not TYPE_CHECKING:
    _MEASURE = "sdd_fast.domains.faces64.measure"
    __getattr__ = _deprecated.moved(
        __name__,
        EditQuality=_MEASURE,
        agreement=_MEASURE,
        faces_without=_MEASURE,
        measure_edit=_MEASURE,
        psnr="sdd_fast.images",
    )
