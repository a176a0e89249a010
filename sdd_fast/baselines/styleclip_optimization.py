"""StyleCLIP's latent optimization: some steps along CLIP's gradient for each image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..distillation.config import DistillConfig
from .clip_loss import ClipLoss, minimize
from .through_latents import LatentBaseline

if TYPE_CHECKING:
    from ..domains import Domain


class StyleClipOptimization(LatentBaseline[ClipLoss]):
    """Optimize the latent of each image by StyleCLIP's loss; images share the passes, not more.

    For other settings see `LatentBaseline`.

    Args:
        steps, lr: of the optimizer; the learning rate counts standard deviations of W+ and rises
            and falls as in `distill`.
    """

    name: ClassVar[str] = "StyleCLIP optimization"
    paper: ClassVar[str] = "Patashnik et al. 2021"
    most_at_once: ClassVar[int] = 16  # each has a graph through generator and CLIP
    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {
        "steps": (12, 25, 50, 100), "lr": (0.025, 0.05, 0.1, 0.2, 0.4),
        "l2_weight": (0.03, 0.1, 0.3, 1.0, 3.0), "identity_weight": (0.0, 0.03, 0.1, 0.3, 1.0),
    }  # fmt: skip

    def __init__(
        self,
        domain: Domain,
        *,
        steps: int = 25,
        lr: float = 0.1,
        l2_weight: float = 1.0,
        identity_weight: float = 0.3,
    ) -> None:
        super().__init__(domain)
        self.config = DistillConfig(
            steps=steps, lr=lr, l2_weight=l2_weight, identity_weight=identity_weight
        )

    def _find(self, prompt: str) -> ClipLoss:
        weights = self.config.l2_weight, self.config.identity_weight
        return ClipLoss.of_domain(self.domain, self.name, prompt, *weights)

    def _apply(self, w_plus: Tensor, found: ClipLoss) -> Tensor:
        generator, moved = self.domain.generator, _Moved(w_plus, self.domain.w_std)
        before = found.before(lambda: generator.synthesis(w_plus))

        def of_step(step: int) -> tuple[Tensor, dict[str, Tensor]]:
            losses, measured = found(generator.synthesis(moved()), moved.by, before)
            return losses.sum(), measured  # not the mean: an image's gradient is its own

        minimize(moved, of_step, self.domain, self.config, self.name)
        with torch.no_grad():
            return generator.synthesis(moved())


class _Moved(nn.Module):
    """Latents [B, num_layers, w_dim] and their change, in standard deviations, which is trained."""

    def __init__(self, w_plus: Tensor, w_std: Tensor) -> None:
        super().__init__()
        self.w_plus, self.w_std = w_plus, w_std
        self.by = nn.Parameter(torch.zeros_like(w_plus))

    def forward(self) -> Tensor:
        return self.w_plus + self.by * self.w_std
