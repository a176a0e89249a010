"""Networks whose features tell sets of images apart, each with the name that tables show.

A distance of features is one of a certain network: that of Inception is comparable with published
figures, that of a domain's own network only with others by the same network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..checkpoints.inception import load_inception
from ..device import check_device
from ..files import PathLike
from ..shield import shielded
from .pairs import BATCH, check_images, in_batches

if TYPE_CHECKING:
    from ..domains import Domain

KINDS = ("classifier", "clip")


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A network from images to feature vectors.

    Args:
        name: for tables, such as "faces64 classifier".
        vectors: images [B, 3, H, W] in [-1, 1] → [B, D].
        device: where the network is.
    """

    name: str
    vectors: Callable[[Tensor], Tensor]
    device: str = "cpu"

    @shielded(grad=False)
    def __call__(self, images: Tensor, batch_size: int = BATCH) -> Tensor:
        """Return the features [N, D], float64 on the CPU, of images [N, 3, H, W] in [-1, 1].

        Raises:
            ValueError: images of another shape or range, see `check_images`.
        """
        images = check_images("images", images)
        return in_batches(self.vectors, images, self.device, batch_size)


def domain_features(domain: Domain, kind: str | None = None) -> FeatureNetwork:
    """Return the domain's own feature network.

    Args:
        kind: "classifier": what its attribute classifier computes before its last layer; "clip":
            the image vectors of its CLIP. None: the classifier's, or CLIP's where there is none.

    Raises:
        ValueError: an unknown kind, or the domain has no such network.
    """
    if kind not in (None, *KINDS):
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind != "clip" and domain.classifier is not None:
        return FeatureNetwork(
            f"{domain.name} classifier", domain.classifier.pooled, str(domain.device)
        )
    if kind != "classifier" and domain.clip is not None:
        return FeatureNetwork(f"{domain.name} CLIP", domain.clip.encode_images, str(domain.device))
    lacks = "neither a classifier nor a CLIP" if kind is None else f"no {kind}"
    raise ValueError(
        f"the domain {domain.name} has {lacks} to compare sets of images with; give Inception's "
        "weights to inception_features, or name one with load_domain(…, clip=FOLDER)"
    )


def inception_features(path: PathLike, *, device: str = "cpu") -> FeatureNetwork:
    """Return the network that published figures of FID and KID are by, from your own file of it.

    Args:
        path: pt_inception-2015-12-05-6726825d.pth, see `load_inception`, whose errors are these.
    """
    network = load_inception(path).to(check_device(device))
    return FeatureNetwork(network.name, network, device)
