"""The mapper that `distill` makes where none is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from torch import Tensor

from .. import draws
from ..models.mapper import LEVELS, LevelsMapper, level_range


class DefaultMapper(TypedDict, total=False):
    """The mapper that `distill` makes.

    Args:
        levels: those of its levels; None: all that the generator has.
        w_std: [num_layers or 1, w_dim] standard deviation of W+ over the domain; default: that of
            the training latents.
    """

    levels: Sequence[str] | None
    w_std: Tensor | None


def check_names(default_mapper: Mapping[str, Any]) -> None:
    """Raise TypeError for arguments that `distill` does not have."""
    unknown = default_mapper.keys() - DefaultMapper.__annotations__.keys()
    if unknown:
        raise TypeError(f"distill() has no argument {', '.join(map(repr, sorted(unknown)))}")


def new_mapper(
    generator: Any,
    w_plus: Tensor,
    seed: int,
    levels: Sequence[str] | None = None,
    w_std: Tensor | None = None,
) -> LevelsMapper:
    """Make the mapper that starts as no change, the same for the same seed.

    Args:
        generator: a `LatentGenerator`. w_plus: [N, num_layers, w_dim], the training latents.
        levels, w_std: see `DefaultMapper`.

    Raises:
        ValueError: one latent and no `w_std`.
    """
    if w_std is None:
        if len(w_plus) < 2:
            raise ValueError(
                "the standard deviation of W+ cannot be told from one latent; give w_std, or a "
                "mapper"
            )
        w_std = w_plus.std(dim=0)
        # Of few latents the deviation per channel is a rough guess: use that of the layer.
        if len(w_plus) < 64:
            w_std = w_std.square().mean(1, keepdim=True).sqrt().expand_as(w_std)
    if levels is None:
        bounds = {level: level_range(level, generator.num_layers) for level in LEVELS}
        levels = [level for level, (start, end) in bounds.items() if start < end]
    with draws.private(seed):
        mapper = LevelsMapper(
            generator.num_layers,
            generator.w_dim,
            levels,
            scale=w_std.clamp(min=1e-4).cpu(),
            output_activation=False,  # both signs of a change then train equally fast
        )
    return mapper.to(w_plus.device, w_plus.dtype)
