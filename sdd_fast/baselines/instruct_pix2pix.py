"""InstructPix2Pix (Brooks et al. 2023): a U-Net that sees the image, trained on pairs of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..files import PathLike
from ..training.part import PartTrainer, Recipe
from .teacher_baseline import check_settings, ddim_scheduler
from .trained import TrainedBaseline, copy_for_training

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from ..domains import Domain
    from ..teacher.text import PromptEmbeds
    from .image_noise import ImageNoise

Pairs = Callable[[int, int, torch.Generator], tuple[Tensor, Tensor, list[str]]]
"""(count, resolution, generator) → images before and after an edit, and what they show after."""

RECIPE = Recipe(steps=4000, batch_size=32, lr=5e-4, warmup=100, ema=0.995, bf16=False)
_DROPPED = 0.05  # of the batch: the text, the image, and both


class InstructPix2Pix(TrainedBaseline):
    """InstructPix2Pix, supervised: it was shown right answers for the attributes that success
    is measured by, which only rendered images have.

    Args:
        path: folder of `train_baseline("instruct-pix2pix", …)`.
        steps: of DDIM, three rows of the U-Net each.
        guidance_scale: of the prompt. image_guidance_scale: of the image.

    Raises:
        ValueError: a setting out of range. The rest as for `TrainedBaseline`.
    """

    name = "InstructPix2Pix (supervised)"
    paper = "Brooks et al. 2023"
    key = "instruct-pix2pix"
    supervised = True
    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {
        "guidance_scale": (1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0),
        "image_guidance_scale": (1.0, 1.25, 1.5, 2.0),
    }  # fmt: skip

    def __init__(
        self,
        domain: Domain,
        path: PathLike,
        *,
        steps: int = 50,
        guidance_scale: float = 1.5,
        image_guidance_scale: float = 1.5,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(domain, path, batch_size=batch_size)
        self.steps = check_settings(
            self.prior, steps, guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
        )  # fmt: skip
        self.guidance_scale, self.image_guidance_scale = guidance_scale, image_guidance_scale

    def _edited(self, images: Tensor, embeds: PromptEmbeds, noise: ImageNoise) -> Tensor:
        scheduler = ddim_scheduler(self.prior, self.steps)
        z = self._encode(images)
        cond, uncond = embeds.expand(len(z))
        text = torch.cat([cond, uncond, uncond])
        seen = _seen(self.prior.vae, z)
        seen = torch.cat([seen, seen, torch.zeros_like(seen)])
        z_t = noise.draw(z.shape[1:]).to(z)
        for t in scheduler.timesteps.tolist():
            output = self.output(torch.cat([torch.cat([z_t] * 3), seen], 1), t, text)
            of_both, of_image, of_none = output.chunk(3)
            output = of_none + self.guidance_scale * (of_both - of_image)
            output = output + self.image_guidance_scale * (of_image - of_none)
            at = self.prior.timesteps_tensor(t, len(z_t))
            predicted = self.prior.schedule.noise_prediction(output, z_t, at)
            z_t = scheduler.step(predicted, t, z_t).prev_sample
        return z_t


def train_instruct_pix2pix(
    domain: Domain, pairs: Pairs, trainer: PartTrainer, recipe: Recipe = RECIPE
) -> UNet2DConditionModel:
    """Train a U-Net that began as the teacher's to make the second image of a pair of the first."""
    prior = domain.prior
    unet = _with_an_image_beside(copy_for_training(prior)).to(prior.device)
    schedule = prior.schedule

    def loss(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        before, after, captions = pairs(recipe.batch_size, domain.resolution, rng)
        n = len(captions)
        dropped = torch.rand(n, generator=rng)
        no_text, no_image = dropped < 2 * _DROPPED, (dropped > _DROPPED) & (dropped < 3 * _DROPPED)
        with torch.no_grad():
            embeds = prior.encode_prompt(captions)
            cond, uncond = embeds.expand(n)
            text = torch.where(no_text.to(cond.device)[:, None, None], uncond, cond)
            seen = _seen(prior.vae, prior.encode(before))
            seen = torch.where(no_image.to(seen.device)[:, None, None, None], 0.0, seen)
            z = prior.encode(after)
        noise = torch.randn(z.shape, generator=rng).to(z)
        u = (torch.arange(n) + torch.rand(n, generator=rng)) / n
        t = (u * len(schedule)).long().to(z.device)
        z_t = schedule.add_noise(z, noise, t)
        output = unet(torch.cat([z_t, seen], 1), t, encoder_hidden_states=text.float()).sample
        error = schedule.noise_prediction(output, z_t, t) - noise
        return error.square().mean(), {}

    return trainer.train(InstructPix2Pix.key, unet, loss, recipe, save_every=100)


def _seen(vae: AutoencoderKL, z: Tensor) -> Tensor:
    """What the U-Net sees of an image: its latent without the VAE's factor, as the paper's."""
    return z / float(vae.config.scaling_factor)


def _with_an_image_beside(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Give a U-Net as many channels again, which it does not look at yet."""
    from diffusers import UNet2DConditionModel

    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    channels = int(config["in_channels"])
    with torch.device("meta"):
        made = UNet2DConditionModel(**{**config, "in_channels": 2 * channels})
    state = unet.state_dict()
    first = state["conv_in.weight"]
    state["conv_in.weight"] = torch.cat([first, torch.zeros_like(first)], 1)
    made.load_state_dict(state, assign=True)
    return made.requires_grad_(True)
