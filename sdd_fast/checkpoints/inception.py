"""Inception for FID, from the file of pytorch-fid and torch-fidelity.

pt_inception-2015-12-05-6726825d.pth, which torch-fidelity calls weights-inception-2015-12-05-…

NVIDIA's inception-2015-12-05.pt is a TorchScript program with the same weights: it would have to
run to give features, and nothing that a file holds is executed here. It is refused.
"""

from __future__ import annotations

from ..files import PathLike
from ..models.inception import Inception
from ..models.save import build_exactly
from ..shield import shielded
from .content import below, states_in
from .formats.read import read_checkpoint, scan
from .inspect import summarize
from .irse import with_counters

FILE = "pt_inception-2015-12-05-6726825d.pth"
PUBLISHED_AT = "https://github.com/mseitzer/pytorch-fid/releases"


@shielded(grad=False)
def load_inception(path: PathLike) -> Inception:
    """Load the network of FID from a file of your own; nothing is downloaded or executed.

    Args:
        path: pt_inception-2015-12-05-6726825d.pth, by whatever name.

    Returns:
        The network on the CPU, float32, eval mode, frozen.

    Raises:
        FileNotFoundError: there is no such file; says where it is published.
        ValueError: it is a TorchScript program, holds something else, or tensors that are not
            exactly those of the network: every missing, unexpected and misshapen one is named.
    """
    expected = f"{FILE}, published at {PUBLISHED_AT}"
    try:
        if scan(path).format == "torchscript":
            raise ValueError(
                f"{path} is a TorchScript program, such as NVIDIA's inception-2015-12-05.pt: it "
                f"would have to run, and files are not run here. The same weights are in {expected}"
            )
        checkpoint = read_checkpoint(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist; expected {expected}") from error
    for state in states_in(checkpoint.content):
        tensors = below(state, "")
        if "Mixed_5b.branch1x1.conv.weight" in tensors:
            built = build_exactly(Inception, {}, with_counters(tensors), str(path))
            return built.eval().requires_grad_(False)
    raise ValueError(f"{path} is {summarize(checkpoint)}; expected {expected}")
