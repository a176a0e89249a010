"""StyleMC: one direction in StyleSpace, found in seconds on small images of random latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..checks import check_number
from ..distillation.batches import draw_latents
from ..distillation.config import DistillConfig
from .clip_loss import ClipLoss, minimize
from .style_shift import StyleShift, style_scales
from .through_latents import ManipulatorBaseline

if TYPE_CHECKING:
    from ..domains import Domain


class StyleMC(ManipulatorBaseline):
    """Optimize a direction of styles, the same for all images, by StyleCLIP's loss.

    The images that it sees stop at a lower resolution of the generator, whose later layers the
    direction leaves alone.

    For other settings see `LatentBaseline`.

    Args:
        lr: counts standard deviations of the style channels.
        resolution: of the images that the direction is found on, a power of two up to the
            domain's; None: the domain's.
        strength: the factor on the direction that edits.

    Source: Kocasari et al. 2022, "StyleMC".
    """

    name: ClassVar[str] = "StyleMC"
    paper: ClassVar[str] = "Kocasari et al. 2022"
    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {
        "steps": (30, 60, 120, 240), "lr": (0.03, 0.1, 0.3, 1.0),
        "l2_weight": (0.01, 0.03, 0.1, 0.3, 1.0), "resolution": (32, None),
        "strength": (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8),
    }  # fmt: skip

    def __init__(
        self,
        domain: Domain,
        *,
        steps: int = 120,
        batch_size: int = 8,
        lr: float = 0.1,
        l2_weight: float = 0.3,
        identity_weight: float = 0.1,
        resolution: int | None = None,
        strength: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(domain)
        check_number("strength", strength, positive=True)
        self.config = DistillConfig(
            steps=steps, batch_size=batch_size, lr=lr, l2_weight=l2_weight,
            identity_weight=identity_weight, seed=seed,
        )  # fmt: skip
        self.resolution, self.strength = resolution or domain.generator.resolution, strength

    def _find(self, prompt: str) -> StyleShift:
        domain, config, data = self.domain, self.config, self.domain.w_plus
        shift = StyleShift(style_scales(domain))
        weights = config.l2_weight, config.identity_weight
        loss = ClipLoss.of_domain(domain, self.name, prompt, *weights)

        def of_step(step: int) -> tuple[Tensor, dict[str, Tensor]]:
            w = data[draw_latents(config, step, len(data)).to(data.device)]
            styles = domain.generator.style_vectors(w)
            before = loss.before(lambda: self._small(styles))
            changed = [style + by for style, by in zip(styles, shift(styles), strict=True)]
            losses, measured = loss(self._small(changed), shift.direction[None], before)
            return losses.mean(), measured

        minimize(shift, of_step, domain, config, f"{self.name}, {prompt}")
        return shift

    def _small(self, styles: list[Tensor]) -> Tensor:
        """Render at the low resolution, and enlarge to what CLIP and identity network take."""
        generator = self.domain.generator
        images = generator.synthesis_from_styles(styles, resolution=self.resolution)
        if images.shape[2:] == generator.image_size:
            return images
        return F.interpolate(images, generator.image_size, mode="bilinear", align_corners=False)
