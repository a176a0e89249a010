"""What the baselines share that edit by a domain's own diffusion model."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_count, check_number
from ..memory import rows_at_once
from ..shield import shielded
from .baseline import Baseline
from .image_noise import ImageNoise
from .inputs import check_images, image_size

if TYPE_CHECKING:
    from ..domains import Domain
    from ..teacher.prior import DiffusionPrior
    from ..teacher.text import PromptEmbeds

LEVELS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SCALES = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0)
"""Noise levels and guidance scales that are tried, see `Baseline.GRID`."""

_WHOLE_BATCH = 256  # pixels a side, up to which the VAE takes as many images as the U-Net


class TeacherBaseline(Baseline):
    """An editor that works on the latents of `domain.prior`, and needs no training.

    Prompts are encoded once. Images are resized to what the diffusion model sees, and back.

    Args:
        batch_size: images at once, which changes no result but by rounding; None: what memory
            allows, at most 32.

    What settings of several of these editors are, where one does not say otherwise:
        steps: of a whole denoising from noise, of which those are taken that a level or a share to
            skip leaves.
        level: of noise, 0…1: 0 keeps all but what the VAE loses, 1 is noise alone.
        skip: the share of the steps, 0…1, that is left out at the noisy end: more keeps more.
        guidance_scale: of the prompt, 0 or more; at 1 a step takes one row of the U-Net, else two.
        source_prompt: what images show before the edit; None: the domain's source text.

    Raises:
        ValueError: a setting out of range, or a source prompt that cannot be encoded.
    """

    def __init__(self, domain: Domain, *, batch_size: int | None = None) -> None:
        super().__init__(domain)
        self.prior: DiffusionPrior = domain.prior
        self.size = image_size(domain)
        self.batch_size = (
            max(1, rows_at_once(self.prior, self.size) // 2)
            if batch_size is None
            else check_count("batch_size", batch_size)
        )
        self._embeds: dict[str, PromptEmbeds] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What the constructor was given, or has by default, that results depend on."""
        names = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in names if name not in ("domain", "batch_size")}

    def source_or_default(self, source_prompt: str | None) -> str:
        """Return the source prompt, or that of the domain; it can be encoded."""
        source = self.domain.source_text if source_prompt is None else source_prompt
        self.encoded(source)
        return source

    def prepare(self, prompt: str) -> None:
        """Encode a prompt.

        Raises:
            ValueError: it is no text, or an empty one.
        """
        self.encoded(prompt)

    def encoded(self, prompt: str) -> PromptEmbeds:
        """Return the embeddings of a prompt, encoded when first asked for."""
        if not isinstance(prompt, str):
            raise ValueError(f"a prompt is a text, got {type(prompt).__name__}; edit one at a time")
        if prompt not in self._embeds:
            self._embeds[prompt] = self.prior.encode_prompt(prompt)
        return self._embeds[prompt]

    @shielded(grad=False)
    def edit(self, images: Tensor, prompt: str, *, seed: int = 0) -> Tensor:
        """Edit images, see `Baseline.edit`."""
        checked, embeds = check_images(images, self.size), self.encoded(prompt)
        if not len(checked):
            return checked
        edited = []
        for some in checked.split(self.batch_size):
            edited.append(self._decode(self._edited(some, embeds, ImageNoise(some, seed))))
        return torch.cat(edited).to(images.device)

    @abstractmethod
    def _edited(self, images: Tensor, embeds: PromptEmbeds, noise: ImageNoise) -> Tensor:
        """Return the latents [B, C, h, w] of edited images.

        Args:
            images: [B, 3, H, W] in [-1, 1], which go through the networks at once.
            embeds: of one prompt.
        """

    def _encode(self, images: Tensor) -> Tensor:
        """Encode images to the VAE's latents [B, C, h, w]."""
        at_once = self.batch_size if self.prior.resolution <= _WHOLE_BATCH else 1
        return torch.cat([self.prior.encode(some) for some in images.split(at_once)])

    def _decode(self, z: Tensor) -> Tensor:
        """Decode latents to float32 images of the domain's size in [-1, 1]."""
        at_once = self.batch_size if self.prior.resolution <= _WHOLE_BATCH else 1
        images = torch.cat([self.prior.decode(some).float() for some in z.split(at_once)])
        if tuple(images.shape[2:]) != self.size:
            images = F.interpolate(
                images, self.size, mode="bicubic", align_corners=False, antialias=True
            )
        return images.clamp(-1, 1)


def ddim_scheduler(prior: DiffusionPrior, steps: int, inverse: bool = False) -> Any:
    """Return diffusers' scheduler of DDIM (Song et al. 2021) or of its inversion, for predictions
    of the noise as `prior.predict_noise` makes them; its `timesteps` are set."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    kind = DDIMInverseScheduler if inverse else DDIMScheduler
    known = inspect.signature(kind).parameters  # the inverse knows fewer, and reports the others
    config = {name: value for name, value in prior.scheduler.config.items() if name in known}
    made = kind(**{**config, "prediction_type": "epsilon", "timestep_spacing": "leading"})
    made.set_timesteps(steps)
    return made


def last_timesteps(prior: DiffusionPrior, scheduler: Any, level: float) -> list[int]:
    """Return the last `level` (0…1) of a scheduler's timesteps, those that start at that level.

    Raises:
        ValueError: the first of them shows nothing of an image, of a teacher with zero terminal
            SNR.
    """
    timesteps: list[int] = scheduler.timesteps.tolist()
    taken = timesteps[len(timesteps) - round(level * len(timesteps)) :]
    prior.schedule.check_signal(taken)
    return taken


def check_settings(prior: DiffusionPrior, steps: int, **settings: float) -> int:
    """Return the number of steps; check it and the others, which are scales or shares by name.

    Raises:
        ValueError: more steps than the teacher has, a share (level, skip, threshold) outside 0…1,
            or a guidance scale that is no number ≥ 0.
    """
    count = check_count("steps", steps)
    if count > prior.num_train_timesteps:
        raise ValueError(f"steps must be 1 to {prior.num_train_timesteps}, got {steps}")
    for name, value in settings.items():
        check_number(name, value)
        if name in ("level", "skip", "threshold") and value > 1:
            raise ValueError(f"{name} must be 0 to 1, got {value:g}")
    return count
