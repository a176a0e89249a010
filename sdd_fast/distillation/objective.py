"""What distillation minimizes: the draws of a step, and its loss (Eq. 7).

ŵ = w + λ·M_φ(w),  ŷ = G(ŵ),  z = s·E(resize(ŷ))
r = w(t)·(ε̂(z_t, t, γ) − ε),  d = J_Eᵀ r                 the teacher's gradient at ŷ
loss = ⟨d, ŷ⟩ + regularizers,  d held constant            so that ∇_ŷ ⟨d, ŷ⟩ = d

With `DistillConfig.gradient` "dds", r is the delta to the unedited image instead (`gradients.dds`).

Beyond the paper, r has a second part, μ·(ε̂(z_t', t', γ = 1) − ε) at small t': the teacher as a
judge of images. At the selected timesteps it hardly sees the image behind the noise, so strong
guidance leaves halos and saturated colors that only small timesteps can see and undo.

Several prompts share the latents and noise of a step, and what is known of unedited images; their
edited images go through mappers, generator, VAE and U-Net as one batch of P·B, those of the first
prompt first. Every prompt has a loss of its own, of which no other prompt is a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..captured import recorder
from ..gradients.config import GuidanceConfig
from ..gradients.dds import delta_residual
from ..gradients.image_gradient import EncodedImages
from ..gradients.overflow import explain_network, explain_overflow
from ..gradients.sds import residual, residuals
from ..manipulator import manipulate
from ..memory import fits_cache, training_sizes
from ..out_of_memory import Sizes, smaller_after
from ..teacher.prior import DiffusionPrior
from ..teacher.text import PromptEmbeds, join_prompts
from ..training_setup import Part
from .again import GeneratorAgain, piece_by_piece
from .batches import draw as draw, draw_prior_timesteps as draw_prior_timesteps, num_batches
from .config import DistillConfig
from .stacked import stacked

Embedding = Callable[[Tensor], Tensor]

_PRIOR_FROM = 0.2  # share of the steps before the teacher judges images as well
_UNGUIDED = GuidanceConfig(guidance_scale=1.0, weighting="uniform")


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy from CPU to device. From pageable memory the host would wait for its queue to empty."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Before:
    """What a step needs to know of a batch's unedited images."""

    images: Tensor | None = None
    embedding: Tensor | None = None
    latents: Tensor | None = None


class Inputs(NamedTuple):
    """In what one step differs from another, on the devices where it is needed."""

    w: Tensor  # [B, L, D], or images [B, 3, R, R]
    t: Tensor  # [P·B]
    noise: Tensor  # [P·B, C, h, w]
    small: Tensor | None  # [P·B], where the teacher judges
    before: Tensor | None  # [B, 3, R, R], unedited images
    embedding: Tensor | None  # [B, D] of these
    original: Tensor | None  # [P·B, C, h, w], latents of these


@dataclass(frozen=True)
class Learner:
    """A mapper and what it is to learn.

    Args:
        timesteps: int64 [|S|].
    """

    mapper: nn.Module
    embeds: PromptEmbeds
    timesteps: Tensor
    guidance: GuidanceConfig


@dataclass(frozen=True)
class _Together:
    """Learners whose images make one batch: P of them, with B images each."""

    prompts: int
    mapper: nn.Module  # takes P·B latents
    scale: Tensor | float  # unit in which L2 counts; of several [P·B, L, D]
    embeds: PromptEmbeds  # of one prompt, or of P·B
    guidance: GuidanceConfig
    guidance_scales: Tensor | None  # [P·B], in place of that one's; None of one prompt


class Objective:
    """The loss of Alg. 1 as a function of the step, for one prompt or several.

    Args:
        learners: their guidance differs in its scale alone.
        sizes: how much goes through the networks at once; changes results by rounding only.
    """

    def __init__(
        self,
        prior: DiffusionPrior,
        generator: Any,
        w_plus: Tensor,
        learners: Sequence[Learner],
        identity: Embedding | None,
        config: DistillConfig,
        sizes: Sizes | None = None,
    ) -> None:
        self.prior, self.generator, self.learners = prior, generator, learners
        self.w_plus, self.config = w_plus, config
        self.identity = identity if config.identity_weight > 0 else None
        size = (w_plus.shape[-2], w_plus.shape[-1]) if generator is None else generator.image_size
        source = config.source_prompt
        self._source = prior.encode_prompt(source) if source else None
        self._latent_shape = prior.latent_shape_for(*size)
        self.sizes = sizes or training_sizes(
            prior, generator, size, config.batch_size, len(learners)
        )
        self._cache: dict[int, Before] = {}
        self._together = lru_cache(maxsize=len(learners))(self._put_together)
        self._captured = recorder(prior, config.cuda_graph, bool(config.compile))

    def parts(self, step: int, of: Sequence[int]) -> Iterator[Part]:
        """Add the gradients of step `step` for the learners `of`, as many at once as fit."""
        batches, at_once = self.config.accumulate, self.sizes.prompts
        if self._captured and (batches > 1 or len(of) > at_once):
            self._captured.give_up("its gradients are added up, of several batches or prompts")
        if self._captured and self.sizes.again:
            self._captured.give_up("parts of it are computed again, to save memory")
        for batch in range(step * batches, (step + 1) * batches):
            for start in range(0, len(of), at_once):
                some = tuple(of[start : start + at_once])
                if self._captured is None:
                    yield Part(some, self._add_gradients(*self.loss(batch, some)))
                    continue
                inputs = self.inputs(batch, some)
                kind = some, inputs.small is None
                learn = partial(self._learn, self._together(some))
                weights = [p for i in some for p in self.learners[i].mapper.parameters()]
                yield Part(some, self._captured(kind, learn, inputs, weights))

    def _learn(self, together: _Together, inputs: Inputs) -> dict[str, Tensor]:
        return self._add_gradients(*self._losses(together, inputs))

    def _add_gradients(self, losses: Tensor, measured: dict[str, Tensor]) -> dict[str, Tensor]:
        (losses.sum() / self.config.accumulate).backward()
        return measured

    def take_less(self, error: Exception) -> None:
        """Take smaller sizes after memory ran out; raise any other error, or if there are none."""
        self.sizes = smaller_after(error, self.sizes, "a step of the training")
        self._cache.clear()  # made in larger pieces
        if self._captured:
            self._captured.forget()

    def loss(self, batch: int, of: tuple[int, ...] = (0,)) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses [P] of learners with the gradient of a batch, and their parts.

        The values mean nothing: the guidance term is linear, with d as its constant slope.

        Args:
            batch: from 0; with `config.accumulate` 1 the number of the step.
        """
        return self._losses(self._together(of), self.inputs(batch, of))

    def inputs(self, batch: int, of: tuple[int, ...]) -> Inputs:
        """Draw a batch, and look up or compute what is known of its unedited images."""
        config = self.config
        index, t, noise = self._draw(batch, of)
        w = self.w_plus[_send(index, self.w_plus.device)]
        before, small, original = self._before(batch, w), None, None
        if before.latents is not None:
            original = before.latents.repeat(len(of), 1, 1, 1)
        if config.prior_weight > 0 and batch >= _PRIOR_FROM * config.steps * config.accumulate:
            small = _send(draw_prior_timesteps(config, batch), self.prior.device).repeat(len(of))
        return Inputs(w, t, noise, small, before.images, before.embedding, original)

    def _losses(self, together: _Together, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses [P] and their parts; nothing in it waits for the device.

        All that differs from one step to another is in the inputs, so that it can be recorded.
        """
        config, prompts = self.config, together.prompts
        images, change = self._edited(together, inputs.w)  # [P·B, 3, R, R], [P·B, …]
        d, r = self._gradient(together, images, inputs)

        def each(x: Tensor) -> Tensor:  # [P·B, …] -> [P, B, …]
            return x.unflatten(0, (prompts, -1))

        def mean(x: Tensor) -> Tensor:  # [P, B, …] -> [P]
            return x.flatten(1).mean(1)

        scale = config.batch_size * r[0].numel() if config.reduction == "mean" else 1
        losses = each(d * images).flatten(1).sum(1) / scale
        measured = {"residual": mean(each(r).square()).sqrt()}
        terms = {"l2": (config.l2_weight, lambda: mean(each(change).square()))}
        if inputs.embedding is not None and self.identity is not None:
            identity, reference = self.identity, inputs.embedding
            if "generator" in self.sizes.again:
                identity = piece_by_piece(identity, self.sizes.images)
            terms["identity_loss"] = (
                config.identity_weight,
                lambda: 1 - F.cosine_similarity(each(identity(images)), reference, dim=-1).mean(1),
            )
        terms["range"] = (
            config.range_weight,
            lambda: mean(each(F.relu(images.abs() - 1).square())),
        )
        if inputs.before is not None:
            unchanged = (each(images) - inputs.before).abs()
            terms["keep"] = (
                config.keep_weight,
                lambda: mean(each(irrelevance(d, prompts)) * unchanged),
            )
        for name, (weight, value) in terms.items():
            if weight > 0:
                term = value()
                losses = losses + weight * term
                measured[name] = term.detach()
        return losses, measured

    def explain(self, learner: int, step: int) -> str:
        """Say where a value of a step stopped being finite, see `explain_overflow`.

        Where it has reached the mapper already, the unedited images are looked at.
        """
        batches, of = self.config.accumulate, (learner,)
        its = self.learners[learner]
        for batch in range(step * batches, (step + 1) * batches):
            index, t, noise = self._draw(batch, of)
            w = self.w_plus[index.to(self.w_plus.device)]
            with torch.no_grad():
                images, _ = self._edited(self._together(of), w)
                if not bool(images.isfinite().all()):
                    images = w if self.generator is None else self.generator.synthesis(w)
            told = explain_overflow(self.prior, images, its.embeds, t, noise, its.guidance)
            if not told and isinstance(self.identity, nn.Module):
                told = explain_network("identity", self.identity, images)
            if told:
                return told
        return ""

    def _draw(self, batch: int, of: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return indices [B], and on the teacher's device timesteps [P·B] and noise [P·B, …]."""
        drawn = [
            draw(
                self.config, batch, len(self.w_plus), self.learners[i].timesteps, self._latent_shape
            )
            for i in of
        ]
        index, noise = drawn[0][0], torch.cat([noise for _, _, noise in drawn])
        t = torch.cat([t for _, t, _ in drawn])
        return index, _send(t, self.prior.device), _send(noise, self.prior.device)

    def _put_together(self, of: tuple[int, ...]) -> _Together:
        some, count = [self.learners[i] for i in of], self.config.batch_size
        mapper = stacked([learner.mapper for learner in some])
        if len(some) == 1:
            unit = getattr(mapper, "scale", 1.0)
            return _Together(1, mapper, unit, some[0].embeds, some[0].guidance, None)
        like = self.w_plus[:1]
        scales = [torch.as_tensor(getattr(learner.mapper, "scale", 1.0)) for learner in some]
        g = torch.tensor([learner.guidance.guidance_scale for learner in some])
        return _Together(
            len(some),
            mapper,
            torch.cat([scale.to(like).expand_as(like) for scale in scales]).repeat_interleave(
                count, 0
            ),
            join_prompts([learner.embeds for learner in some], count),
            some[0].guidance,
            g.to(self.prior.device, self.prior.compute_dtype).repeat_interleave(count),
        )

    def _gradient(
        self,
        together: _Together,
        images: Tensor,  # [P·B, 3, R, R]
        inputs: Inputs,
    ) -> tuple[Tensor, Tensor]:
        """Return d [P·B, 3, R, R] and r [P·B, C, h, w], of as many images at once as fit."""
        again, gradients, found = "encoder" in self.sizes.again, [], []
        for start in range(0, len(images), self.sizes.images):
            some = slice(start, start + self.sizes.images)
            encoded = EncodedImages(self.prior, images[some], again)
            found.append(self._residual(together, encoded.latents, inputs, start))
            gradients.append(encoded.gradient(found[-1]))
        return _joined(gradients), _joined(found)

    def _residual(
        self,
        together: _Together,
        z: Tensor,  # [b, C, h, w], of the images from number `first` on
        inputs: Inputs,
        first: int,
    ) -> Tensor:
        """Return r [b, C, h, w], in as many calls of the U-Net as its memory asks for."""
        t, noise, small, guidance = inputs.t, inputs.noise, inputs.small, together.guidance
        scales, found, rows = together.guidance_scales, [], self.sizes.rows
        for part in z.split(max(1, rows // 3)):
            some = slice(first, first + len(part))
            first += len(part)
            given = self.prior, part, together.embeds.rows(some)
            asked: list[tuple[Tensor, GuidanceConfig, Tensor | None]] = [
                (t[some], guidance, None if scales is None else scales[some])
            ]
            if small is not None:
                asked.append((small[some], _UNGUIDED, None))
            if self._source is not None and inputs.original is not None:
                given_both = self.prior, part, inputs.original[some], given[2], self._source
                r = delta_residual(*given_both, t[some], noise[some], guidance, asked[0][2])
                judged = [residual(*given, at, noise[some], how, g) for at, how, g in asked[1:]]
            elif len(asked) > 1 and guidance.jacobian == "skip" and rows >= 3:
                r, *judged = residuals(*given, asked, noise[some])
            else:
                r, *judged = (residual(*given, at, noise[some], how, g) for at, how, g in asked)
            found.append(r + self.config.prior_weight * judged[0] if judged else r)
        return _joined(found)

    def _edited(self, together: _Together, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return edited images, and what the mappers changed in the units that L2 counts."""
        if together.prompts > 1:
            w = w.repeat(together.prompts, *[1] * (w.ndim - 1))
        if self.generator is None:
            images = together.mapper(w)
            return images, images - w
        generator = self.generator
        if "generator" in self.sizes.again:
            generator = GeneratorAgain(generator, self.sizes.images)
        result = manipulate(generator, w, [(together.mapper, self.config.lam)])
        if result.delta is not None:
            return result.images, result.delta / together.scale
        assert result.style_deltas is not None
        return result.images, torch.cat(result.style_deltas, 1)

    @torch.no_grad()
    def _before(self, step: int, w: Tensor) -> Before:
        """Return unedited images and their embedding, made only once since batches recur.

        Kept by batch, not by latent: what is kept was then computed in the same batch as in a
        training that is resumed, to the same bits.
        """
        keep = self.config.keep_weight > 0
        if self.identity is None and not keep and self._source is None:
            return Before()
        batch = step % num_batches(self.config, len(self.w_plus))
        known = self._cache.get(batch)
        if known is None or (keep and known.images is None):
            known, images = known or Before(), w
            embedding, latents = known.embedding, known.latents
            pieces = [*w.split(self.sizes.images)]
            if self.generator is not None:
                pieces = [self.generator.synthesis(some) for some in pieces]
                images = _joined(pieces)
            if self.identity is not None and embedding is None:
                embedding = _joined([self.identity(some) for some in pieces])
            if self._source is not None and latents is None:
                latents = _joined([self.prior.encode(some) for some in pieces])
            known = Before(images if keep else None, embedding, latents)
            affordable = fits_cache(images[0], len(self.w_plus))
            self._cache[batch] = known if affordable else replace(known, images=None)
        return known


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def irrelevance(d: Tensor, prompts: int = 1) -> Tensor:
    """Return where the teacher does not care: [P·B, 1, H, W], from 1 (not at all) to 0.

    The saliency is |d| averaged over channels, smoothed over a sixteenth of the image, divided by
    its mean, and averaged with that of the prompt's whole batch, because one noise draw is noisy.

    Args:
        d: [P·B, 3, H, W], of `prompts` P.
    """
    window = max(1, d.shape[-1] // 16) | 1
    saliency = F.avg_pool2d(d.abs().mean(1, keepdim=True), window, 1, window // 2)
    saliency = saliency / saliency.mean((2, 3), keepdim=True).clamp(min=1e-30)
    each = saliency.unflatten(0, (prompts, -1))
    saliency = ((each + each.mean(1, keepdim=True)) / 2).flatten(0, 1)
    return (1 - saliency / 2).clamp(min=0)
