"""LPIPS from the two files that it comes in: torchvision's convolutions, and the learned weights.

vgg16-397923af.pth or alexnet-owt-7be5be79.pth (features.N.weight, classifier.N.weight, …), with
vgg.pth or alex.pth of LPIPS v0.1 (linN.model.1.weight).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..files import PathLike
from ..models.lpips import LPIPS
from ..models.save import build_exactly
from ..shield import shielded
from .content import below, states_in
from .formats.read import Checkpoint, read_checkpoint
from .inspect import summarize

FEATURES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}
WEIGHTS = {"vgg": "vgg.pth", "alex": "alex.pth"}
WEIGHTS_FROM = "https://github.com/richzhang/PerceptualSimilarity (lpips/weights/v0.1)"
FEATURES_FROM = "https://download.pytorch.org/models"

_FIRST_KERNEL = {3: "vgg", 11: "alex"}
"""Side of the first convolution, which tells the networks apart."""
_CLASSIFIER = re.compile(r"classifier\.\d+\.(weight|bias)")
"""What torchvision's files have besides, to tell the classes of ImageNet."""


@shielded(grad=False)
def load_lpips(features: PathLike, weights: PathLike) -> LPIPS:
    """Load LPIPS (version 0.1, linear) from files of your own; nothing is downloaded.

    Args:
        features: torchvision's VGG-16 or AlexNet, such as alexnet-owt-7be5be79.pth.
        weights: how much each channel counts, such as alex.pth of the LPIPS repository.

    Returns:
        The network on the CPU, float32, eval mode, frozen.

    Raises:
        FileNotFoundError: a file is missing; says where it is published.
        ValueError: a file holds something else, the two belong to different networks, or their
            tensors are not exactly those of it: every missing, unexpected and misshapen one is
            named.
    """
    convolutions = _read(features, "features.", "the convolutions of VGG-16 or AlexNet")
    linear = _read(weights, "lin", "the weights of LPIPS")
    source = f"{features} and {weights}"
    first = convolutions.get("features.0.weight")
    kernel = None if first is None or first.ndim != 4 else int(first.shape[-1])
    network = _FIRST_KERNEL.get(kernel or 0)
    if network is None:
        raise ValueError(
            f"{features}: expected torchvision's VGG-16 or AlexNet, whose first convolution is of "
            f"3 or 11 pixels; features.0.weight is "
            f"{'missing' if first is None else list(first.shape)}"
        )
    kept = {k: v for k, v in convolutions.items() if not _CLASSIFIER.fullmatch(k)}
    built = build_exactly(LPIPS, {"network": network}, {**kept, **linear}, source)
    return built.eval().requires_grad_(False)


def _read(path: PathLike, prefix: str, what: str) -> Mapping[str, Tensor]:
    try:
        checkpoint = read_checkpoint(path)
    except FileNotFoundError as error:
        named = FEATURES if prefix == "features." else WEIGHTS
        place = FEATURES_FROM if prefix == "features." else WEIGHTS_FROM
        raise FileNotFoundError(
            f"{path} does not exist; LPIPS needs {what}: {' or '.join(named.values())}, published "
            f"at {place}"
        ) from error
    for state in states_in(checkpoint.content):
        tensors = below(state, "")
        if any(key.startswith(prefix) for key in tensors):
            return tensors
    raise _another(checkpoint, what)


def _another(checkpoint: Checkpoint, what: str) -> ValueError:
    return ValueError(f"{checkpoint.path} is {summarize(checkpoint)}; expected {what}")
