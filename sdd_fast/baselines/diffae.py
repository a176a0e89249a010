"""DiffAE (Preechakul et al. 2022), small: a semantic code, and DDIM conditioned on it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import draws
from ..checks import check_number
from ..files import PathLike, settled
from ..memory import rendering_batch
from ..models import ConvEmbedding
from ..training.data import CaptionedImages
from ..training.part import PartTrainer, Recipe
from .teacher_baseline import check_settings, ddim_scheduler
from .trained import TrainedBaseline, copy_for_training

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from ..domains import Domain
    from ..teacher.text import PromptEmbeds
    from .image_noise import ImageNoise

ENCODER = "encoder.safetensors"
RECIPE = Recipe(steps=4000, batch_size=32, lr=5e-4, warmup=100, ema=0.995, bf16=False)

_TOKENS = 4  # of the semantic code, each as wide as one of a text
_SEEN = 64  # pixels a side that the semantic encoder sees, at most
_EXAMPLES = 512  # images of the domain that a direction is found in
_RIDGE = 0.1  # of the classifier that finds it, in units of the code's variance


class DiffAE(TrainedBaseline):
    """A diffusion autoencoder that moves the semantic code of an image along a direction.

    Unlike the authors' it denoises the latents of the domain's VAE, its U-Net began as the teacher,
    which reads the code in place of a text, and the direction needs no labels: it separates those
    images of the domain's generator that its CLIP finds most and least like the prompt.

    Args:
        path: folder of `train_baseline("diffae", …)`.
        steps: of DDIM from the image to noise and as many back, one row of the U-Net each.
        strength: of the edit, in standard deviations of each element of the code.

    Raises:
        ValueError: a setting out of range, or a domain without a CLIP. The rest as for
            `TrainedBaseline`.
    """

    name = "DiffAE (small)"
    paper = "Preechakul et al. 2022"
    key = "diffae"
    optimizes = ("clip",)
    GRID: ClassVar[dict[str, tuple[Any, ...]]] = {
        "strength": (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
    }

    def __init__(
        self,
        domain: Domain,
        path: PathLike,
        *,
        steps: int = 50,
        strength: float = 6.0,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(domain, path, batch_size=batch_size)
        self.steps = check_settings(self.prior, steps)
        check_number("strength", strength)
        if domain.clip is None:
            raise ValueError(f"{self.name} needs a CLIP, which the domain {domain.name} lacks")
        self.strength = strength
        encoder = ConvEmbedding.load(settled(path) / ENCODER)
        self._encoder = encoder.to(self.prior.device).requires_grad_(False).eval()
        self._changes: dict[str, Tensor] = {}

    def prepare(self, prompt: str) -> None:
        """Find the direction of a prompt, see `TeacherBaseline.prepare`."""
        super().prepare(prompt)
        if prompt not in self._changes:
            self._changes[prompt] = self._change(prompt)

    def _edited(self, images: Tensor, embeds: PromptEmbeds, noise: ImageNoise) -> Tensor:
        (prompt,) = embeds.prompts
        self.prepare(prompt)
        code = semantic_code(self._encoder, images.to(self.prior.device))
        z = self._through(self._encode(images), code, inverse=True)
        changed = code + self.strength * self._changes[prompt]
        return self._through(z, changed)

    def _through(self, z: Tensor, code: Tensor, inverse: bool = False) -> Tensor:
        """DDIM from latents [B, C, h, w] to noise, or back, conditioned on codes [B, D]."""
        scheduler = ddim_scheduler(self.prior, self.steps, inverse)
        timesteps: list[int] = scheduler.timesteps.tolist()
        self.prior.schedule.check_signal(timesteps)
        for t in timesteps:
            output = self.output(z, t, code.unflatten(1, (_TOKENS, -1)))
            at = self.prior.timesteps_tensor(t, len(z))
            predicted = self.prior.schedule.noise_prediction(output, z, at)
            z = scheduler.step(predicted, t, z).prev_sample
        return z

    @torch.no_grad()
    def _change(self, prompt: str) -> Tensor:
        """Return the direction [D] in units of the code: a linear discriminant of the images that
        are most and least like the prompt."""
        domain, codes, likeness = self.domain, [], []
        clip = domain.clip
        assert clip is not None
        texts = clip.encode_texts([prompt, domain.source_text])
        for w_plus in domain.w_plus[:_EXAMPLES].split(rendering_batch(domain.generator)):
            images = domain.generator.synthesis(w_plus).clamp(-1, 1)
            codes.append(semantic_code(self._encoder, images).double())
            likeness.append(clip.encode_images(images) @ (texts[0] - texts[1]))
        code, order = torch.cat(codes), torch.cat(likeness).argsort()
        deviation = code.std(0).clamp(min=1e-6)
        unit = (code - code.mean(0)) / deviation
        third = max(1, len(order) // 3)
        apart = unit[order[-third:]].mean(0) - unit[order[:third]].mean(0)
        spread = unit.T @ unit / len(unit) + _RIDGE * torch.eye(unit.shape[1]).to(unit)
        direction = torch.linalg.solve(spread, apart)
        whole = F.normalize(direction, dim=0) * math.sqrt(len(direction))
        return (whole * deviation).float()


def semantic_code(encoder: ConvEmbedding, images: Tensor) -> Tensor:
    """Return the codes [B, D] of images [B, 3, H, W] in [-1, 1], about 1 in each element."""
    side = (encoder.resolution, encoder.resolution)
    vectors: Tensor = encoder(F.interpolate(images.float(), side, mode="area"))
    return vectors * math.sqrt(vectors.shape[1])


class _Autoencoder(nn.Module):
    def __init__(self, unet: UNet2DConditionModel, encoder: ConvEmbedding) -> None:
        super().__init__()
        self.unet, self.encoder = unet, encoder


def train_diffae(
    domain: Domain, data: CaptionedImages, trainer: PartTrainer, recipe: Recipe = RECIPE
) -> tuple[UNet2DConditionModel, ConvEmbedding]:
    """Train a U-Net that began as the teacher's to denoise an image, told its semantic code.

    Args:
        data: what the teacher was trained on, or images like it; captions are not read.
    """
    prior = domain.prior
    side = min(_SEEN, 2 ** int(math.log2(domain.resolution)))
    unet = copy_for_training(prior)
    with draws.private(recipe.seed):
        encoder = ConvEmbedding(_TOKENS * int(unet.config.cross_attention_dim), side)
    both = _Autoencoder(unet, encoder).to(prior.device)
    schedule = prior.schedule

    def loss(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        images = data.images(data.batch(recipe.batch_size, rng), prior.device)
        n = len(images)
        code = semantic_code(both.encoder, images).unflatten(1, (_TOKENS, -1))
        with torch.no_grad():
            z = prior.encode(images)
        noise = torch.randn(z.shape, generator=rng).to(z)
        u = (torch.arange(n) + torch.rand(n, generator=rng)) / n
        t = (u * len(schedule)).long().to(z.device)
        z_t = schedule.add_noise(z, noise, t)
        output = both.unet(z_t, t, encoder_hidden_states=code).sample
        return (schedule.noise_prediction(output, z_t, t) - noise).square().mean(), {}

    trained = trainer.train(DiffAE.key, both, loss, recipe, save_every=100)
    return trained.unet, trained.encoder
