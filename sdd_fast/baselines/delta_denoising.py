"""Our own mapper, distilled under the Delta Denoising Score in place of score distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from ..distillation.config import DistillConfig
from ..distillation.distill import distill
from ..gradients.config import GuidanceConfig
from ..selection.hqs import check_timesteps
from .through_latents import ManipulatorBaseline

if TYPE_CHECKING:
    from ..domains import Domain

_ALL = tuple(range(50, 951, 50))


class DeltaDenoising(ManipulatorBaseline):
    """Distill the default mapper with `DistillConfig(gradient="dds")`, at all timesteps.

    The source prompt is the domain's source text. For other settings see `LatentBaseline`.

    Args:
        prior_weight: see `DistillConfig`.
        guidance_scale: g of both predictions; None: balanced for each prompt as our own editor's,
            to the prompt's `Domain.guidance_rms` if it has one.
        timesteps: those that are drawn from.

    Source: Hertz et al. 2023, "Delta Denoising Score".
    """

    guided_by_clip = False
    optimizes: ClassVar[tuple[str, ...]] = ("identity",)
    name: ClassVar[str] = "Delta Denoising Score"
    paper: ClassVar[str] = "Hertz et al. 2023"
    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {
        "guidance_scale": (7.5, 30.0, None), "timesteps": (_ALL, tuple(range(400, 901, 50))),
        "prior_weight": (0.0, 6.0),
    }  # fmt: skip

    def __init__(
        self,
        domain: Domain,
        *,
        steps: int = 250,
        batch_size: int = 4,
        lr: float = 0.1,
        guidance_scale: float | None = 30.0,
        timesteps: Sequence[int] = _ALL,
        l2_weight: float = 0.06,
        identity_weight: float = 0.1,
        prior_weight: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(domain)
        self.timesteps = tuple(check_timesteps(domain.prior, timesteps))
        guidance = None if guidance_scale is None else GuidanceConfig(guidance_scale)
        self.config = DistillConfig(
            gradient="dds", source_prompt=domain.source_text, guidance=guidance,
            steps=steps, batch_size=batch_size, lr=lr, l2_weight=l2_weight,
            identity_weight=identity_weight, prior_weight=prior_weight, seed=seed,
        )  # fmt: skip
        self.strength = self.config.lam

    def _find(self, prompt: str) -> nn.Module:
        domain = self.domain
        config = replace(self.config, guidance_rms=domain.guidance_rms.get(prompt))
        result = distill(
            domain.prior, domain.generator, domain.w_plus, prompt, self.timesteps,
            identity=domain.identity, config=config, progress=False,
            levels=domain.levels.get(prompt), w_std=domain.w_std,
        )  # fmt: skip
        return result.mapper
