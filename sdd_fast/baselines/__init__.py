"""Other editors of images by a prompt, to compare with: `load_baseline(name, domain).edit(…)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .baseline import Baseline as Baseline
from .ddib import DDIB
from .delta_denoising import DeltaDenoising
from .diffae import DiffAE
from .edit_friendly import EditFriendly
from .few_step import FewStep
from .instruct_pix2pix import InstructPix2Pix
from .ledits import LEdits
from .sdedit import SDEdit, SDEditBySolver
from .styleclip_direction import StyleClipDirection
from .styleclip_mapper import StyleClipMapper
from .styleclip_optimization import StyleClipOptimization
from .stylemc import StyleMC
from .trained import TrainedBaseline

if TYPE_CHECKING:
    from ..domains import Domain

BASELINES: dict[str, type[Baseline]] = {
    "sdedit": SDEdit,
    "sdedit-solver": SDEditBySolver,
    "ddib": DDIB,
    "edit-friendly": EditFriendly,
    "ledits": LEdits,
    "styleclip-mapper": StyleClipMapper,
    "styleclip-optimization": StyleClipOptimization,
    "styleclip-direction": StyleClipDirection,
    "stylemc": StyleMC,
    "delta-denoising": DeltaDenoising,
}
"""Name → class, in the order of tables; all make do with the parts of a domain."""

TRAINED: dict[str, type[TrainedBaseline]] = {
    made.key: made for made in (FewStep, DiffAE, InstructPix2Pix)
}
"""Likewise, of those that take the folder of a training, see `train.train_baseline`."""


def load_baseline(name: str, domain: Domain, **settings: Any) -> Baseline:
    """Make a baseline of a domain's parts.

    Args:
        name: one of `BASELINES` or `TRAINED`.
        settings: of its class, in place of those that were found best on validation images; for
            one of `TRAINED` also the `path` of its folder.

    Raises:
        ValueError: an unknown name, or the domain lacks a part that the baseline needs.
    """
    known: dict[str, type[Baseline]] = {**BASELINES, **TRAINED}
    if name not in known:
        raise ValueError(f"unknown baseline {name!r}; there are: {', '.join(known)}")
    return known[name](domain, **settings)
