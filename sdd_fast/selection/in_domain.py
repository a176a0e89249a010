"""The HQS curve of a prompt in a domain: on its held-out latents, or on images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .._deprecated import renamed_arguments
from ..files import PathLike
from ..gradients.config import GuidanceConfig
from ..memory import selection_batch
from ..progress import Listener
from .choose import Selection
from .curve import HQSCurve
from .hqs import hqs

if TYPE_CHECKING:
    from ..domains import Domain


def images_at_once(
    domain: Domain,
    selection: Selection,
    config: GuidanceConfig | None = None,
    images: Tensor | None = None,
) -> int:
    """Return how many images `compute_curve` takes at once, given the same."""
    if selection.batch_size is not None:
        return selection.batch_size
    height, width = domain.generator.image_size if images is None else images.shape[-2:]
    jacobian = (config or GuidanceConfig()).jacobian
    return selection_batch(domain.prior, height, width, jacobian)


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
    """Compute the HQS curve of a prompt in a domain.

    Args:
        config: of the guidance; default: that of `hqs`.
        images: [N, 3, R, R] in [-1, 1] to compute it on; default: `selection.images` held-out
            latents of the domain.
        partial: keeps what is evaluated until the curve is complete, see `hqs`.
    """
    selection = selection or Selection()
    return hqs(
        domain.prior,
        domain.held_out[: selection.images] if images is None else images,
        prompt,
        selection.candidates,
        generator=domain.generator if images is None else None,
        config=config,
        gradient_map=selection.gradient_map,
        normalize=selection.normalize,
        noise_draws=selection.noise_draws,
        batch_size=images_at_once(domain, selection, config, images),
        seed=selection.seed,
        progress=progress,
        partial=partial,
    )
