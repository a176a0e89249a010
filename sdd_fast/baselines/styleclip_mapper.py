"""StyleCLIP's mapper: the same network as ours, trained by CLIP in place of a diffusion model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from ..distillation.batches import draw_latents
from ..distillation.config import DistillConfig
from ..distillation.default_mapper import new_mapper
from ..manipulator import manipulate
from ..models.mapper import LevelsMapper
from .clip_loss import ClipLoss, minimize
from .through_latents import ManipulatorBaseline

if TYPE_CHECKING:
    from ..domains import Domain


class StyleClipMapper(ManipulatorBaseline):
    """Train `distill`'s default mapper on the domain's latents by StyleCLIP's loss.

    For settings see `LatentBaseline`.
    """

    name: ClassVar[str] = "StyleCLIP mapper"
    paper: ClassVar[str] = "Patashnik et al. 2021"
    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {
        "steps": (50, 100, 250, 500), "lr": (0.03, 0.1, 0.3), "l2_weight": (0.03, 0.1, 0.3, 1.0),
        "identity_weight": (0.0, 0.03, 0.1, 0.3),
    }  # fmt: skip

    def __init__(
        self,
        domain: Domain,
        *,
        steps: int = 100,
        batch_size: int = 4,
        lr: float = 0.1,
        l2_weight: float = 0.1,
        identity_weight: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(domain)
        self.config = DistillConfig(
            steps=steps, batch_size=batch_size, lr=lr, l2_weight=l2_weight,
            identity_weight=identity_weight, seed=seed,
        )  # fmt: skip
        self.strength = self.config.lam

    def _find(self, prompt: str) -> LevelsMapper:
        domain, config = self.domain, self.config
        generator, data = domain.generator, domain.w_plus
        mapper = new_mapper(
            generator, data, config.seed, domain.levels.get(prompt), w_std=domain.w_std
        )
        weights = config.l2_weight, config.identity_weight
        loss = ClipLoss.of_domain(domain, self.name, prompt, *weights)

        def of_step(step: int) -> tuple[Tensor, dict[str, Tensor]]:
            w = data[draw_latents(config, step, len(data)).to(data.device)]
            before = loss.before(lambda: generator.synthesis(w))
            edited = manipulate(generator, w, [(mapper, config.lam)])
            assert edited.delta is not None
            losses, measured = loss(edited.images, edited.delta / mapper.scale, before)
            return losses.mean(), measured

        minimize(mapper, of_step, domain, config, f"{self.name}, {prompt}")
        return mapper
