"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024), the core of TurboEdit too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from .teacher_baseline import (
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


class EditFriendly(TeacherBaseline):
    """Edit-friendly DDPM inversion.

    An image is noised to every timestep on its own, z_t = √ᾱ_t z + √(1−ᾱ_t) ε_t with an independent
    ε_t for each, and what leads from one to the next beyond the mean μ_t that the model predicts is
    kept (σ_t z_t in the paper's Eq. 5, there with another z). Added to the means with the target
    prompt it makes the edited image, with the source prompt and its scale the image itself.

    Steps are those of DDIM with η = 1. For other settings see `TeacherBaseline`.

    Args:
        source_guidance_scale: of the source prompt.
    """

    name = "Edit-friendly DDPM inversion"
    paper = "Huberman-Spiegelglas et al. 2024"
    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {
        "skip": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5), "guidance_scale": SCALES,
    }  # fmt: skip

    def __init__(
        self,
        domain: Domain,
        *,
        steps: int = 50,
        skip: float = 0.0,
        guidance_scale: float = 1.0,
        source_guidance_scale: float = 1.0,
        source_prompt: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(domain, batch_size=batch_size)
        self.steps = check_settings(
            self.prior, steps, skip=skip, guidance_scale=guidance_scale,
            source_guidance_scale=source_guidance_scale,
        )  # fmt: skip
        self.skip, self.guidance_scale = skip, guidance_scale
        self.source_guidance_scale = source_guidance_scale
        self.source_prompt = self.source_or_default(source_prompt)

    def _edited(self, images: Tensor, embeds: PromptEmbeds, noise: ImageNoise) -> Tensor:
        z = self._encode(images)
        scheduler = ddim_scheduler(self.prior, self.steps)
        timesteps = last_timesteps(self.prior, scheduler, 1 - self.skip)
        if not timesteps:
            return z
        source = self.encoded(self.source_prompt)

        def noised(t: int) -> Tensor:
            return self.prior.add_noise(z, noise.draw(z.shape[1:], t), t)

        known = edited = noised(timesteps[0])
        for i, t in enumerate(timesteps):
            follows = noised(timesteps[i + 1]) if i + 1 < len(timesteps) else z
            beyond = follows - self._mean(scheduler, known, t, source, self.source_guidance_scale)
            edited = self._mean(scheduler, edited, t, embeds, self.guidance_scale) + beyond
            known = follows
        return edited

    def _mean(
        self, scheduler: Any, z_t: Tensor, t: int, embeds: PromptEmbeds, guidance_scale: float
    ) -> Tensor:
        """Return μ_t, the mean of what follows z_t [B, C, h, w] in a DDPM."""
        predicted = self.prior.predict_noise(z_t, t, embeds, guidance_scale)
        none = torch.zeros_like(z_t)
        mean: Tensor = scheduler.step(predicted, t, z_t, eta=1.0, variance_noise=none).prev_sample
        return mean
