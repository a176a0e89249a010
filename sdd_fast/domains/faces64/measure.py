"""Measure, in figures a person can check, what an edit does to rendered faces it has never seen."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..._deprecated import renamed_arguments
from ...images import psnr as psnr
from ...metrics.attributes import differing, read_attributes as read_attributes
from ...shield import shielded
from .. import Domain
from ..evaluate import measure_on, shares_of
from ..reader import EditQuality as EditQuality
from .attributes import asked
from .edits import EDITS
from .held_out import MEASURE_SEED, faces_without as faces_without
from .renderer import render


@renamed_arguments(faces="images")
@shielded(grad=False)
def measure_edit(
    domain: Domain,
    mapper: nn.Module,
    lam: float,
    prompt: str,
    *,
    target: tuple[str, tuple[str, ...]] | None = None,
    strength: float = 1.0,
    images: int = 256,
    seed: int = MEASURE_SEED,
) -> EditQuality:
    """Encode held-out faces that lack the target, edit them and read the attributes off.

    Args:
        prompt: one of `EDITS`, or any text together with `target` = (attribute, values).

    Raises:
        ValueError: the prompt is not one whose target is known and none is given, or the domain
            has no classifier or no encoder.
    """
    if target is None and prompt not in EDITS:
        raise ValueError(
            f"what counts as success of {prompt!r} is not known; give target=(attribute, values) "
            f"or one of the prompts {', '.join(map(repr, EDITS))}"
        )
    attribute, values = target if target is not None else EDITS[prompt]
    people = faces_without(attribute, values, images, seed)
    before = render(people, domain.resolution)
    return measure_on(
        domain, mapper, lam, prompt, before, people.labels, (attribute, values), strength
    )


def agreement(seen: Mapping[str, Tensor], drawn: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of faces whose attribute reads as drawn; hair color only where hair is."""
    differs = differing(seen, drawn, asked(drawn))
    return shares_of({name: 1 - values for name, values in differs.items()})
