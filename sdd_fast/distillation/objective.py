"""What distillation minimizes: the draws of a step, and its loss (Eq. 7).

ŵ = w + λ·M_φ(w),  ŷ = G(ŵ),  z = s·E(resize(ŷ))
r = w(t)·(ε̂(z_t, t, γ) − ε),  d = J_Eᵀ r                 the teacher's gradient at ŷ
loss = ⟨d, ŷ⟩ + regularizers,  d held constant            so that ∇_ŷ ⟨d, ŷ⟩ = d

Beyond the paper, r has a second part, μ·(ε̂(z_t', t', γ = 1) − ε) at small t': the teacher as a
judge of images. At the selected timesteps it hardly sees the image behind the noise, so strong
guidance leaves halos and saturated colors that only small timesteps can see and undo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import draws
from ..gradients.config import GuidanceConfig
from ..gradients.image_gradient import EncodedImages
from ..gradients.sds import residual
from ..manipulator import manipulate
from ..memory import fits_cache
from ..teacher.prior import DiffusionPrior
from ..teacher.text import PromptEmbeds
from .config import DistillConfig

Embedding = Callable[[Tensor], Tensor]

_PRIOR_FROM = 0.2  # share of the steps before the teacher judges images as well
_UNGUIDED = GuidanceConfig(guidance_scale=1.0, weighting="uniform")


def draw(
    config: DistillConfig,
    step: int,
    count: int,
    timesteps: Tensor,
    latent_shape: tuple[int, int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw what step number `step` (from 0) trains on, a function of (seed, step) alone.

    That is why a resumed run equals an uninterrupted one. Drawn on the CPU, so that it does not
    depend on the device either.

    Args:
        count: number of training latents. timesteps: int64 [|S|]. latent_shape: (C, h, w).

    Returns:
        indices [B] of the latents (every epoch visits all of them, in the same batches); their
        timesteps [B], uniform over the set; noise [B, C, h, w], standard normal or zero.
    """
    order = torch.randperm(count, generator=draws.stream(config.seed, "order"))
    start = step % num_batches(config, count) * config.batch_size
    index = order[torch.arange(start, start + config.batch_size) % count]
    rng = draws.stream(config.seed, f"step {step}")
    t = timesteps[torch.randint(len(timesteps), (config.batch_size,), generator=rng)]
    noise = torch.randn(config.batch_size, *latent_shape, generator=rng)
    if config.guidance is not None and config.guidance.noise == "zero":
        noise.zero_()
    return index, t, noise


def draw_prior_timesteps(config: DistillConfig, step: int) -> Tensor:
    """Draw the timesteps [B], int64, at which the teacher judges the images of this step."""
    first, last = config.prior_timesteps
    return torch.randint(
        first, last + 1, (config.batch_size,), generator=draws.stream(config.seed, f"prior {step}")
    )


def num_batches(config: DistillConfig, count: int) -> int:
    """Return how many batches visit all of `count` latents."""
    return -(-count // config.batch_size)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy from CPU to device. From pageable memory the host would wait for its queue to empty."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Before:
    """What the regularizers need to know of a batch's unedited images."""

    images: Tensor | None
    embedding: Tensor | None


class Objective:
    """The loss of Alg. 1 as a function of the step."""

    def __init__(
        self,
        prior: DiffusionPrior,
        generator: Any,
        w_plus: Tensor,
        embeds: PromptEmbeds,
        timesteps: Tensor,
        mapper: nn.Module,
        identity: Embedding | None,
        config: DistillConfig,
    ) -> None:
        self.prior, self.generator, self.mapper = prior, generator, mapper
        self.w_plus, self.embeds, self.timesteps = w_plus, embeds, timesteps
        self.identity = identity if config.identity_weight > 0 else None
        self.config = config
        self.guidance = config.guidance or GuidanceConfig()
        image_size = w_plus.shape[-2:] if generator is None else generator.image_size
        self._latent_shape = prior.latent_shape_for(*image_size)
        self._cache: dict[int, Before] = {}

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a scalar with the gradient of step `step`, and its parts for the history.

        Its value means nothing: the guidance term is linear, with d as its constant slope.
        """
        config = self.config
        index, t, noise = draw(config, step, len(self.w_plus), self.timesteps, self._latent_shape)
        t, noise = _send(t, self.prior.device), _send(noise, self.prior.device)
        w = self.w_plus[_send(index, self.w_plus.device)]  # [B, L, D], or images [B, 3, R, R]
        images, change = self._edited(w)
        before = self._before(step, w)

        encoded = EncodedImages(self.prior, images)
        z = encoded.latents
        r = residual(self.prior, z, self.embeds, t, noise, self.guidance)  # [B, C, h, w]
        if config.prior_weight > 0 and step >= _PRIOR_FROM * config.steps:
            small = _send(draw_prior_timesteps(config, step), self.prior.device)
            judged = residual(self.prior, z, self.embeds, small, noise, _UNGUIDED)
            r = r + config.prior_weight * judged
        d = encoded.gradient(r)
        scale = len(r) * r[0].numel() if config.reduction == "mean" else 1
        loss = (d * images).sum() / scale
        measured = {"residual": r.square().mean().sqrt()}

        terms = {"l2": (config.l2_weight, lambda: change.square().mean())}
        if before.embedding is not None and self.identity is not None:
            identity, reference = self.identity, before.embedding
            terms["identity_loss"] = (
                config.identity_weight,
                lambda: 1 - F.cosine_similarity(identity(images), reference).mean(),
            )
        terms["range"] = (config.range_weight, lambda: F.relu(images.abs() - 1).square().mean())
        if before.images is not None:
            unchanged = (images - before.images).abs()
            terms["keep"] = (config.keep_weight, lambda: (irrelevance(d) * unchanged).mean())
        for name, (weight, value) in terms.items():
            if weight > 0:
                term = value()
                loss = loss + weight * term
                measured[name] = term.detach()
        return loss, measured

    def _edited(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return edited images, and what the mapper changed in the units that L2 counts."""
        if self.generator is None:
            images = self.mapper(w)
            return images, images - w
        result = manipulate(self.generator, w, [(self.mapper, self.config.lam)])
        if result.delta is not None:
            return result.images, result.delta / getattr(self.mapper, "scale", 1.0)
        assert result.style_deltas is not None
        return result.images, torch.cat(result.style_deltas, 1)

    @torch.no_grad()
    def _before(self, step: int, w: Tensor) -> Before:
        """Return unedited images and their embedding, made only once since batches recur."""
        keep = self.config.keep_weight > 0
        if self.identity is None and not keep:
            return Before(None, None)
        batch = step % num_batches(self.config, len(self.w_plus))
        known = self._cache.get(batch)
        if known is None or (keep and known.images is None):
            images = w if self.generator is None else self.generator.synthesis(w)
            embedding = known.embedding if known else None
            if self.identity is not None and embedding is None:
                embedding = self.identity(images)
            known = Before(images if keep else None, embedding)
            affordable = fits_cache(images[0], len(self.w_plus))
            self._cache[batch] = known if affordable else Before(None, embedding)
        return known


def irrelevance(d: Tensor) -> Tensor:
    """Return where the teacher does not care: [B, 1, H, W], from 1 (not at all) to 0.

    The saliency is |d| averaged over channels, smoothed over a sixteenth of the image, divided by
    its mean, and averaged with that of the whole batch, because one noise draw is noisy.
    """
    window = max(1, d.shape[-1] // 16) | 1
    saliency = F.avg_pool2d(d.abs().mean(1, keepdim=True), window, 1, window // 2)
    saliency = saliency / saliency.mean((2, 3), keepdim=True).clamp(min=1e-30)
    saliency = (saliency + saliency.mean(0)) / 2
    return (1 - saliency / 2).clamp(min=0)
