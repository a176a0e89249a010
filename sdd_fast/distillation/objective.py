"""What distillation minimises: the configuration, the draws of a step, and its loss (Eq. 7).

ŵ = w + λ·M_φ(w),  ŷ = G(ŵ),  z = s·E(resize(ŷ))
r = w(t)·(ε̂(z_t, t, γ) − ε),  d = J_Eᵀ r                 the teacher's gradient at ŷ
loss = ⟨d, ŷ⟩ + regularisers,  d held constant            so that ∇_ŷ ⟨d, ŷ⟩ = d

Beyond the paper, r has a second part, μ·(ε̂(z_t', t', γ = 1) − ε) at small t': the teacher as a
judge of pictures. At the selected timesteps it hardly sees the picture behind the noise, so a
strong pull leaves halos and burnt colours that only small timesteps can see and undo.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import draws
from ..gradients.guidance import GuidanceConfig, residual
from ..manipulator import manipulate
from ..teacher.prior import DiffusionPrior, PromptEmbeds

Embedding = Callable[[Tensor], Tensor]

_PRIOR_FROM = 0.2  # share of the steps before the teacher judges pictures as well
_UNGUIDED = GuidanceConfig(guidance_scale=1.0, weighting="uniform")
_CACHE_BYTES = 256 * 2**20  # before-images are kept on the device if all of them take less


@dataclass(frozen=True)
class DistillConfig:
    """How a mapper is trained. The defaults reach a finished edit in under two hundred steps.

    Args:
        steps: optimiser steps. batch_size: latents per step.
        lr, weight_decay, betas: of AdamW. The learning rate is large because the mapper's layers
            have an lr multiplier of 0.01.
        warmup, decay: share of the steps over which lr rises from 0 at the start, and falls to 0
            at the end, linearly.
        lam: λ in ŵ = w + λ·M(w); part of the saved mapper.
        l2_weight: of mean(((ŵ − w) / scale)²), with the mapper's `scale`, so that the change is
            counted in standard deviations of W+. A mapper without scale counts raw W+ units.
        identity_weight: of mean(1 − cos(R(ŷ), R(y))); counts only if `identity` is given.
        range_weight: of mean(max(|ŷ| − 1, 0)²), against over-saturation.
        keep_weight: of mean(m·|ŷ − y|) with m near 1 where the teacher's gradient is small
            compared to its mean over the image, and 0 where it is twice that mean: holds on to
            what the prompt is not about, such as the background.
        reduction: of the guidance term: "mean" over latent entries and the batch, which makes the
            weights above independent of resolution and batch size; "sum" as in the authors' code.
        prior_weight: μ, of the teacher's unguided residual at timesteps drawn evenly from
            `prior_timesteps` (first and last), in the unit of the guidance. Makes pictures that the
            teacher finds natural. Starts after a fifth of the steps, when there is an edit.
        guidance: see `GuidanceConfig`; None: the default one, with the guidance scale at which
            every prompt pulls equally hard, see `balanced_guidance_scale`.
        pull: how hard that is; None: `guidance.PULL`.
        seed: fixes the initial mapper and, together with the step number, every draw.
        log_every: steps between history entries, which are means over them. The only steps at
            which the host waits for the device.
        monitor_every, checkpoint_every: steps between measurements and between checkpoints.
    """

    steps: int = 300
    batch_size: int = 8
    lr: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: float = 0.05
    decay: float = 0.3
    lam: float = 1.0
    l2_weight: float = 0.06
    identity_weight: float = 0.1
    range_weight: float = 20.0
    keep_weight: float = 2.0
    reduction: str = "mean"
    prior_weight: float = 6.0
    prior_timesteps: tuple[int, int] = (100, 400)
    guidance: GuidanceConfig | None = None
    pull: float | None = None
    seed: int = 0
    log_every: int = 10
    monitor_every: int = 50
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "monitor_every", "checkpoint_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        for name in ("lr", "lam"):
            if not getattr(self, name) > 0 or math.isinf(getattr(self, name)):
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)!r}")
        weights = (
            "weight_decay", "l2_weight", "identity_weight", "range_weight", "keep_weight",
            "prior_weight",
        )  # fmt: skip
        for name in weights:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)!r}")
        for name in ("warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} is a share of the steps, 0…1, got {getattr(self, name)!r}"
                )
        if self.pull is not None and not 0 < self.pull < math.inf:
            raise ValueError(f"pull must be a positive number or None, got {self.pull!r}")
        first, last = self.prior_timesteps
        if not 0 <= first <= last:
            raise ValueError(
                "prior_timesteps are the first and the last timestep of a range, got "
                f"{self.prior_timesteps!r}"
            )
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f'reduction must be "mean" or "sum", got {self.reduction!r}')

    @classmethod
    def paper(cls, **changes: Any) -> DistillConfig:
        """The authors' settings; `changes` replace some of them.

        They go with a mapper like theirs: `LevelsMapper(num_layers, w_dim, levels,
        zero_init=False)`, which has no scale, so that L2 counts raw W+ units.
        """
        authors = cls(
            steps=4000, batch_size=2, lr=5e-3, weight_decay=2e-3, betas=(0.9, 0.999), warmup=0.0,
            decay=0.0, lam=0.1, l2_weight=10.0, identity_weight=1.0, range_weight=0.0,
            keep_weight=0.0, reduction="sum", prior_weight=0.0,
            guidance=GuidanceConfig(guidance_scale=100.0), seed=1010, log_every=50,
            monitor_every=500, checkpoint_every=500,
        )  # fmt: skip
        return replace(authors, **changes)

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0 … steps − 1."""
        up = (step + 1) / max(1.0, self.warmup * self.steps)
        down = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.lr * min(1.0, up, down)


def draw(
    config: DistillConfig,
    step: int,
    count: int,
    timesteps: Tensor,
    latent_shape: tuple[int, int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """What step number `step` (from 0) trains on; a function of (seed, step) alone.

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
    """int64 [B]: where the teacher judges the pictures of this step."""
    first, last = config.prior_timesteps
    return torch.randint(
        first, last + 1, (config.batch_size,), generator=draws.stream(config.seed, f"prior {step}")
    )


def num_batches(config: DistillConfig, count: int) -> int:
    return -(-count // config.batch_size)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """CPU → device. From pageable memory the host would wait for the device's queue to empty."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Before:
    """What the regularisers need to know of a batch's unedited images."""

    images: Tensor | None
    embedding: Tensor | None


class Objective:
    """The loss of Alg. 1 as a function of the step number."""

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
        """A scalar with the gradient of step `step`, and its parts for the history.

        Its value means nothing: the guidance term is linear, with d as its constant slope.
        """
        config = self.config
        index, t, noise = draw(config, step, len(self.w_plus), self.timesteps, self._latent_shape)
        t, noise = _send(t, self.prior.device), _send(noise, self.prior.device)
        w = self.w_plus[_send(index, self.w_plus.device)]  # [B, L, D], or images [B, 3, R, R]
        images, change = self._edited(w)
        before = self._before(step, w)

        leaf = images.detach().requires_grad_()
        z = self.prior.encode(leaf)
        r = residual(self.prior, z, self.embeds, t, noise, self.guidance)  # [B, C, h, w]
        if config.prior_weight > 0 and step >= _PRIOR_FROM * config.steps:
            small = _send(draw_prior_timesteps(config, step), self.prior.device)
            judged = residual(self.prior, z, self.embeds, small, noise, _UNGUIDED)
            r = r + config.prior_weight * judged
        (d,) = torch.autograd.grad(z, leaf, r)
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
        """Edited images, and what the mapper changed in the units that L2 counts."""
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
        """Unedited images and their embedding: of each batch only once, since batches recur."""
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
            affordable = images[0].nbytes * len(self.w_plus) <= _CACHE_BYTES
            self._cache[batch] = known if affordable else Before(None, embedding)
        return known


def irrelevance(d: Tensor) -> Tensor:
    """Where the teacher does not care: [B, 1, H, W], from 1 (not at all) to 0.

    The saliency is |d| averaged over channels, smoothed over a sixteenth of the image, divided by
    its mean, and averaged with that of the whole batch, because one noise draw is noisy.
    """
    window = max(1, d.shape[-1] // 16) | 1
    saliency = F.avg_pool2d(d.abs().mean(1, keepdim=True), window, 1, window // 2)
    saliency = saliency / saliency.mean((2, 3), keepdim=True).clamp(min=1e-30)
    saliency = (saliency + saliency.mean(0)) / 2
    return (1 - saliency / 2).clamp(min=0)
