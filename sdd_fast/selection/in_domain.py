"""HQS curves of prompts in a domain: on its held-out latents, or on images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from .._deprecated import renamed_arguments
from ..files import PathLike
from ..gradients.config import GuidanceConfig
from ..memory import selection_sizes
from ..out_of_memory import Sizes
from ..progress import Listener
from ..teacher.text import PromptEmbeds, split_prompts
from .choose import Selection
from .curve import HQSCurve
from .hqs import hqs

if TYPE_CHECKING:
    from ..domains import Domain


def sizes(
    domain: Domain,
    selection: Selection,
    config: GuidanceConfig | None = None,
    images: Tensor | None = None,
    embeds: PromptEmbeds | None = None,
) -> Sizes:
    """Return how much `compute_curves` takes at once, given the same; `embeds`: of any prompt."""
    if selection.batch_size is not None:
        return Sizes(selection.batch_size, 2 * selection.batch_size)
    height, width = domain.generator.image_size if images is None else images.shape[-2:]
    return selection_sizes(
        domain.prior,
        (height, width),
        jacobian=(config or GuidanceConfig()).jacobian,
        gradient_at=selection.gradient_at,
        memory_budget=selection.memory_budget,
        memory_gb=selection.memory_gb,
        embeds=embeds,
        generator=domain.generator if images is None else None,
    )


def held_out_of(domain: Domain, count: int) -> Tensor:  # [M, num_layers, w_dim]
    """Return the first `count` held-out latents of a domain.

    Warns:
        UserWarning: it has fewer.
    """
    held_out = domain.held_out[:count]
    if len(held_out) < count:
        warnings.warn(
            f"{count} images are requested, the domain {domain.name!r} has {len(held_out)} "
            "held-out latents: these are used",
            stacklevel=1,
        )
    return held_out


def compute_curves(
    domain: Domain,
    prompts: Sequence[str],
    selection: Selection | None = None,
    config: GuidanceConfig | Sequence[GuidanceConfig] | None = None,
    *,
    images: Tensor | None = None,
    progress: bool | Listener = True,
    partial: Sequence[PathLike] | None = None,
) -> list[HQSCurve]:
    """Compute the HQS curves of prompts in a domain, which share most of the work.

    Args:
        config: of the guidance, one for all or one for each prompt; default: that of `hqs`.
        images: [N, 3, R, R] in [-1, 1] to compute them on; default: `selection.images` held-out
            latents of the domain.
        partial: of each prompt the file that keeps what is evaluated, see `hqs`.

    Warns:
        UserWarning: the domain has fewer held-out latents than requested.
    """
    selection = selection or Selection()
    embeds = split_prompts(domain.prior.encode_prompt(prompts))
    first = config if config is None or isinstance(config, GuidanceConfig) else config[0]
    return hqs(
        domain.prior,
        held_out_of(domain, selection.images) if images is None else images,
        embeds,
        selection.candidates,
        generator=domain.generator if images is None else None,
        config=config,
        gradient_map=selection.gradient_map,
        gradient_at=selection.gradient_at,
        normalize=selection.normalize,
        noise_draws=selection.noise_draws,
        batch_size=sizes(domain, selection, first, images, embeds[0]),
        seed=selection.seed,
        search=selection.search,
        progress=progress,
        partial=partial,
    )


@renamed_arguments(pictures="images")
def compute_curve(
    domain: Domain,
    prompt: str,
    selection: Selection | None = None,
    config: GuidanceConfig | None = None,
    *,
    images: Tensor | None = None,
    progress: bool | Listener = True,
    partial: PathLike | None = None,
) -> HQSCurve:
    """Compute the HQS curve of one prompt in a domain; see `compute_curves`."""
    (curve,) = compute_curves(
        domain, [prompt], selection, config, images=images, progress=progress,
        partial=None if partial is None else [partial],
    )  # fmt: skip
    return curve
