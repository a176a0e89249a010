"""DDIB (Su et al. 2023): find the noise of an image by DDIM, make another image of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from .teacher_baseline import (
    LEVELS,
    SCALES,
    TeacherBaseline,
    check_settings,
    ddim_scheduler,
    last_timesteps,
)

if TYPE_CHECKING:
    from ..domains import Domain
    from ..teacher.text import PromptEmbeds
    from .image_noise import ImageNoise


class DDIB(TeacherBaseline):
    """Dual diffusion implicit bridges: DDIM inversion with the source prompt, guided DDIM with the
    target. Nothing is drawn, so the seed changes nothing.

    The paper inverts to level 1. The inversion takes one row of the U-Net a step. For settings see
    `TeacherBaseline`.
    """

    name = "DDIB"
    paper = "Su et al. 2023"
    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {"level": LEVELS, "guidance_scale": SCALES}

    def __init__(
        self,
        domain: Domain,
        *,
        steps: int = 50,
        level: float = 1.0,
        guidance_scale: float = 1.5,
        source_prompt: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(domain, batch_size=batch_size)
        self.steps = check_settings(self.prior, steps, level=level, guidance_scale=guidance_scale)
        self.level, self.guidance_scale = level, guidance_scale
        self.source_prompt = self.source_or_default(source_prompt)

    def _edited(self, images: Tensor, embeds: PromptEmbeds, noise: ImageNoise) -> Tensor:
        z = self._encode(images)
        there = ddim_scheduler(self.prior, self.steps, inverse=True)
        back = ddim_scheduler(self.prior, self.steps)
        timesteps = last_timesteps(self.prior, back, self.level)
        source = self.encoded(self.source_prompt)
        for t in reversed(timesteps):
            predicted = self.prior.predict_noise(z, t, source, 1.0)
            z = there.step(predicted, t, z).prev_sample
        for t in timesteps:
            predicted = self.prior.predict_noise(z, t, embeds, self.guidance_scale)
            z = back.step(predicted, t, z).prev_sample
        return z
