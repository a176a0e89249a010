"""A few-step student of the domain's teacher: a latent consistency model (Luo et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..checks import check_number
from ..files import PathLike
from ..training.data import CaptionedImages
from ..training.part import PartTrainer, Recipe
from .teacher_baseline import LEVELS, check_settings
from .trained import TrainedBaseline, copy_for_training

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from ..domains import Domain
    from ..teacher.prior import DiffusionPrior
    from ..teacher.text import PromptEmbeds
    from .image_noise import ImageNoise

TEACHER_STEPS = 50
"""DDIM steps of the teacher that the student learns to leap over."""

# float32: the loss is a difference of two nearly equal images, and bfloat16 would be most of it.
RECIPE = Recipe(steps=1000, batch_size=32, lr=3e-4, warmup=50, ema=0.99, bf16=False)
_HUBER = 0.001  # where its loss turns from square to absolute, for each element of a latent


class FewStep(TrainedBaseline):
    """SDEdit by a student in 4 steps of one row of the U-Net each, the guidance trained in.

    Args:
        path: folder of `train_baseline("few-step", …)`.
        steps: that are taken, whatever the level; at most `TEACHER_STEPS` · level.
        level: α, 0…1: where between the image and noise alone it starts.

    Raises:
        ValueError: a setting out of range, or more steps than the level has. The rest as for
            `TrainedBaseline`.
    """

    name = "Few-step student"
    paper = "Luo et al. 2023"
    key = "few-step"
    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {"steps": (1, 2, 4, 8), "level": LEVELS}

    def __init__(
        self,
        domain: Domain,
        path: PathLike,
        *,
        steps: int = 4,
        level: float = 0.8,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(domain, path, batch_size=batch_size)
        self.steps = check_settings(self.prior, steps, level=level)
        self.level = level
        if steps > int(TEACHER_STEPS * level):
            raise ValueError(
                f"level {level:g} has {int(TEACHER_STEPS * level)} steps of the teacher, fewer "
                f"than steps={steps}; give fewer steps or a higher level"
            )

    def _edited(self, images: Tensor, embeds: PromptEmbeds, noise: ImageNoise) -> Tensor:
        scheduler = new_scheduler(self.prior)
        scheduler.set_timesteps(self.steps, strength=self.level)
        timesteps: list[int] = scheduler.timesteps.tolist()
        self.prior.schedule.check_signal(timesteps)
        z = self._encode(images)
        text, _ = embeds.expand(len(z))
        drawn = noise.draw(z.shape[1:]).to(z)
        z_t = drawn if self.level == 1 else self.prior.add_noise(z, drawn, timesteps[0])
        generators = noise.generators()
        for t in timesteps:
            output = self.output(z_t, t, text)
            z_t = scheduler.step(output, t, z_t, generator=generators).prev_sample
        return z_t


def new_scheduler(prior: DiffusionPrior) -> Any:
    """Return the LCMScheduler of diffusers with the noise schedule of a teacher."""
    from diffusers import LCMScheduler

    return LCMScheduler.from_config(
        prior.scheduler.config, original_inference_steps=TEACHER_STEPS, clip_sample=False
    )


def train_few_step(
    domain: Domain,
    data: CaptionedImages,
    trainer: PartTrainer,
    guidance_scale: float = 7.5,
    recipe: Recipe = RECIPE,
) -> UNet2DConditionModel:
    """Train a student to say at each of `TEACHER_STEPS` timesteps what it says one guided step of
    DDIM later (consistency distillation); the target is the student itself, as Song and Dhariwal
    (2024) found best.

    Args:
        data: what the teacher was trained on, or images like it.
        guidance_scale: of the teacher.

    Raises:
        ValueError: a guidance scale that is no number ≥ 0.
    """
    prior = domain.prior
    check_number("guidance_scale", guidance_scale)
    student = copy_for_training(prior).to(prior.device)
    consistent = _Consistency(prior)

    def loss(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        index = data.batch(recipe.batch_size, rng)
        captions = data.captions(index, int(torch.randint(2**31, (1,), generator=rng)))
        u = (torch.arange(len(index)) + torch.rand(len(index), generator=rng)) / len(index)
        at = (u * TEACHER_STEPS).long()  # from every stretch of the timesteps alike
        with torch.no_grad():
            embeds = prior.encode_prompt(captions)
            z = prior.encode(data.images(index, prior.device))
            noise = torch.randn(z.shape, generator=rng).to(z)
            t, later = consistent.timesteps[at + 1], consistent.timesteps[at]
            z_t = prior.add_noise(z, noise, t)
            predicted = prior.predict_noise(z_t, t, embeds, guidance_scale)
            z_later = consistent.ddim(z_t, predicted, t, later)
            target = consistent(student, z_later, later, embeds.cond)
        error = consistent(student, z_t, t, embeds.cond) - target
        value = ((error.square() + _HUBER**2).sqrt() - _HUBER).mean()
        return value, {"rms": error.detach().square().mean().sqrt()}

    return trainer.train(FewStep.key, student, loss, recipe, save_every=100)


class _Consistency:
    """Turns what a U-Net says at (z_t, t) into what it takes for the image behind z_t."""

    def __init__(self, prior: DiffusionPrior) -> None:
        self.schedule = prior.schedule
        total = prior.num_train_timesteps
        # 0, at which z_t is the answer, and the timesteps of LCMScheduler: k − 1, 2k − 1, …
        grid = torch.arange(1, TEACHER_STEPS + 1) * (total // TEACHER_STEPS) - 1
        self.timesteps = torch.cat([torch.zeros(1, dtype=torch.long), grid]).to(prior.device)
        scale = new_scheduler(prior).config.timestep_scaling
        scaled = (torch.arange(total, device=prior.device) * scale).double()
        self._skip = (0.25 / (scaled.square() + 0.25)).float()  # σ_data = ½, as LCMScheduler's
        self._out = (scaled / (scaled.square() + 0.25).sqrt()).float()

    def __call__(self, unet: UNet2DConditionModel, z_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        output = unet(z_t, t, encoder_hidden_states=text.float()).sample
        noise = self.schedule.noise_prediction(output, z_t, t)
        clean = (z_t - self.schedule.sigma(t) * noise) / self.schedule.alpha(t)
        return self._skip[t].view(-1, 1, 1, 1) * z_t + self._out[t].view(-1, 1, 1, 1) * clean

    def ddim(self, z_t: Tensor, noise: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """One step of DDIM (η = 0) from t to `later`, each sample's own."""
        clean = (z_t - self.schedule.sigma(t) * noise) / self.schedule.alpha(t)
        return self.schedule.add_noise(clean, noise, later)
