"""StyleCLIP's loss, and how whatever changes latents is trained by it.

    (1 − cos(I(ŷ), T(γ))) + λ_L2 · mean Δ² + λ_ID · (1 − cos(R(ŷ), R(y)))

y and ŷ are the image before and after, Δ is the change of its latent in standard deviations, I and
T are CLIP's towers, R is the identity network. Source: Patashnik et al. 2021, Eq. 1 and 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_number
from ..distillation.config import DistillConfig
from ..distillation.monitor import ImageTextEncoder
from ..manipulator import float32_layers, frozen
from ..shield import shielded
from ..training_loop import train
from ..training_setup import Schedule
from ..training_state import begin

if TYPE_CHECKING:
    from ..domains import Domain

Losses = Callable[[int], tuple[Tensor, dict[str, Tensor]]]
"""Step from 0 → scalar loss, and scalars to log."""


def clip_of(domain: Domain, name: str) -> ImageTextEncoder:
    """Return the domain's CLIP.

    Raises:
        ValueError: it has none.
    """
    if domain.clip is None:
        raise ValueError(
            f"{name} is guided by a CLIP, which the domain {domain.name} lacks; name a folder of "
            "one: load_domain(…, clip=…)"
        )
    return domain.clip


@dataclass(frozen=True)
class ClipLoss:
    """The loss of each of some edited images.

    Args:
        text: [1, D] unit vector of the prompt.
        identity: images → embeddings; None leaves the term out.
    """

    clip: ImageTextEncoder
    text: Tensor
    identity: Callable[[Tensor], Tensor] | None
    l2_weight: float
    identity_weight: float

    def __post_init__(self) -> None:
        for name in ("l2_weight", "identity_weight"):
            check_number(name, getattr(self, name))

    @classmethod
    def of_domain(
        cls, domain: Domain, name: str, prompt: str, l2_weight: float, identity_weight: float
    ) -> ClipLoss:
        """Make the loss of a prompt, with the judges of a domain; `name` is the baseline's."""
        clip = clip_of(domain, name)
        text = F.normalize(clip.encode_texts([prompt]), dim=1)
        identity = domain.identity if identity_weight > 0 else None
        return cls(clip, text, identity, l2_weight, identity_weight)

    def __call__(
        self, images: Tensor, change: Tensor, before: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses [B] and the means of their parts.

        Args:
            images: [B, 3, R, R], edited; CLIP sees them clamped to [-1, 1], as it has seen images.
            change: [B or 1, …] in standard deviations of the latents.
            before: [B, E] embeddings of the unedited images; None if there is no identity network.
        """
        seen = F.normalize(self.clip.encode_images(images.clamp(-1, 1)), dim=1)
        clip = 1 - seen @ self.text[0].to(seen)
        l2 = change.square().flatten(1).mean(1)
        losses = clip + self.l2_weight * l2
        measured = {"clip": clip.mean().detach(), "l2": l2.mean().detach()}
        if self.identity is not None and before is not None:
            identity = 1 - F.cosine_similarity(self.identity(images), before)
            losses = losses + self.identity_weight * identity
            measured["identity_loss"] = identity.mean().detach()
        return losses, measured

    @torch.no_grad()
    def before(self, render: Callable[[], Tensor]) -> Tensor | None:
        """Return embeddings of the unedited images, which are rendered where they are needed."""
        return None if self.identity is None else self.identity(render())


@shielded()
def minimize(
    module: nn.Module, losses: Losses, domain: Domain, config: DistillConfig, name: str
) -> None:
    """Train `module` in place by the one training loop, with optimizer and schedule of `distill`.

    Raises:
        FloatingPointError: a loss or gradient is NaN or infinite.
    """
    state = begin(module, betas=config.betas, weight_decay=config.weight_decay)
    schedule = Schedule(config.steps, config.lr_at, log_every=config.steps)
    advice = f"Try a lower lr ({config.lr:g} now)"
    with frozen(domain.generator, domain.identity), float32_layers(domain.generator):
        train(state, losses, schedule, name, advice=advice, progress=False)
    module.eval().requires_grad_(False)
