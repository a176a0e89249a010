"""The teacher's gradient for images × timesteps × prompts, and its statistics (Eq. 8–10).

An image is generated, resized and encoded once, whatever the number of timesteps and prompts. All
prompts share its noise and the branch of the U-Net without a prompt: P prompts take P + 1 rows for
each (image, timestep, draw) instead of 2 P. Rows of many of these go through one call of the U-Net.
Each gradient then costs one backward pass through the VAE encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .. import draws
from ..gradients.config import GuidanceConfig
from ..gradients.image_gradient import EncodedImages
from ..gradients.overflow import explain_overflow
from ..gradients.sds import residual, residual_of_prediction
from ..ops.softmax_entropy_l1 import GradientMap, softmax_entropy_l1
from ..out_of_memory import Sizes, smaller_after
from ..teacher.prior import DiffusionPrior
from ..teacher.text import PromptEmbeds

GradientAt = Literal["image", "latent"]
Pair = tuple[int, int]
"""Index of a prompt, index of a timestep."""


@dataclass(frozen=True)
class Statistics:
    """What is computed of each image, timestep and prompt: see `hqs`."""

    gradient_map: GradientMap = "signed"
    gradient_at: GradientAt = "image"
    noise_draws: int = 1
    seed: int = 0


@dataclass(frozen=True)
class _Batch:
    """Some images, ready for any timestep and prompt."""

    images: range
    z: Tensor  # [b, C, h, w]
    noise: Tensor  # [b, draws, C, h, w]
    encoded: EncodedImages | None  # None: the gradient is taken at the latents
    halved: bool  # `encoded` are the images at half their size, see `Evaluator._encode`


class Evaluator:
    """Computes statistics of the teacher's gradient; what was encoded last is kept for more.

    Args:
        images: [N, 3, H, W] in [-1, 1], or W+ latents [N, num_layers, w_dim] with a generator.
        prompts: P, each the embeddings of one prompt. configs: one each, that differ in
            `guidance_scale` at most. timesteps: T.
        sizes: how much goes through the networks at once; changes results by rounding only.
        advance: told of the gradients computed, as they are.
    """

    def __init__(
        self,
        prior: DiffusionPrior,
        images: Tensor,
        generator: Any,
        prompts: Sequence[PromptEmbeds],
        configs: Sequence[GuidanceConfig],
        timesteps: Sequence[int],
        statistics: Statistics,
        sizes: Sizes,
        advance: Callable[[int], None],
    ) -> None:
        self.prior, self.images, self.generator = prior, images, generator
        self.prompts, self.configs, self.timesteps = prompts, configs, list(timesteps)
        self.how, self.sizes, self._advance = statistics, sizes, advance
        self._texts = _Texts(prompts, configs)
        self._batch: _Batch | None = None

    def batches(self, images: range | None = None) -> list[range]:
        """Split images, all of them by default, into those that are encoded together."""
        images, step = images or range(len(self.images)), self.sizes.images
        return [images[first : first + step] for first in range(0, len(images), step)]

    def take_less(self, error: Exception) -> None:
        """Take smaller sizes after memory ran out; raise any other error, or if there are none."""
        self._batch = None
        self.sizes = smaller_after(error, self.sizes, "the selection")

    def evaluate(self, images: range, wanted: Tensor) -> Iterator[tuple[list[Pair], Tensor]]:
        """Yield entropy, L1 and deficit, averaged over draws, of some pairs after others.

        The host waits for the device once for each yield.

        Args:
            images: one of `batches()`.
            wanted: [P, T] bool, on the CPU.

        Yields:
            Pairs of prompt and timestep, and [3, pairs, images] float64 on the CPU.
        """
        if self._batch is None or self._batch.images != images:
            self._batch = None  # its memory is needed
            self._batch = self._encode(images)
        batch = self._batch
        for pairs in self._groups(wanted, len(images) * self.how.noise_draws):
            full = self.configs[0].jacobian == "full"
            r = (self._residuals_full if full else self._residuals)(batch, pairs)
            yield pairs, self._statistics(batch, r).cpu()

    def explain(self, prompt: int, timestep: int, image: int) -> str:
        """Say where a gradient stopped being finite, see `explain_overflow`; arguments: indices."""
        y, config = _render(self.images[image : image + 1], self.generator), self.configs[prompt]
        shape = self.prior.latent_shape_for(*y.shape[2:])
        noise = image_noise(self.prior, self.how.seed, image, self.how.noise_draws, config, shape)
        t, text = self.timesteps[timestep], self.prompts[prompt]
        told = (explain_overflow(self.prior, y, text, t, draw[None], config) for draw in noise)
        return next(filter(None, told), "")

    def _groups(self, wanted: Tensor, rows_each: int) -> list[list[Pair]]:
        """Split what is wanted into as many timesteps as fill one call of the U-Net, or more."""
        groups: list[list[Pair]] = []
        room = 0
        for j in wanted.any(0).nonzero().flatten().tolist():
            prompts = wanted[:, j].nonzero().flatten().tolist()
            rows = rows_each * len(self._texts.of(prompts))
            if rows > room:
                groups.append([])
                room = self.sizes.rows
            room -= rows
            groups[-1] += [(p, j) for p in prompts]
        return groups

    def _encode(self, images: range) -> _Batch:
        y = _render(self.images[images.start : images.stop], self.generator)
        y = y.to(self.prior.device, self.prior.compute_dtype)
        height, width = y.shape[2:]
        shape = self.prior.latent_shape_for(height, width)
        seed, count = self.how.seed, self.how.noise_draws
        noise = torch.stack(
            [image_noise(self.prior, seed, i, count, self.configs[0], shape) for i in images]
        ).to(self.prior.device, self.prior.compute_dtype)
        if self.how.gradient_at == "latent":
            with torch.no_grad():
                return _Batch(images, self.prior.encode(y), noise, None, False)
        seen = [side * self.prior.vae_scale_factor for side in shape[1:]]
        # Halving by averages of 2 × 2 pixels gives each of the four a quarter of the average's
        # gradient: nothing new, so that the statistics can be taken before (`_statistics`).
        halved = [height, width] == [2 * side for side in seen]
        y = self.prior.vae_encoder.resize(y) if halved else y
        encoded = EncodedImages(self.prior, y, "encoder" in self.sizes.again)
        return _Batch(images, encoded.latents, noise, encoded, halved)

    def _residuals(self, batch: _Batch, pairs: list[Pair]) -> Tensor:
        """Compute residuals [pairs, draws, b, C, h, w], in calls of at most `sizes.rows` rows."""
        prior, b, count = self.prior, len(batch.images), self.how.noise_draws
        # A cell is one timestep and draw, of all b images.
        cells = [(j, k) for j in sorted({j for _, j in pairs}) for k in range(count)]
        prompts = {j: [p for p, other in pairs if other == j] for j, _ in cells}
        blocks = [(cell, text) for cell in cells for text in self._texts.of(prompts[cell[0]])]
        place = {block: n for n, block in enumerate(blocks)}
        t = torch.tensor([self.timesteps[j] for j, _ in cells]).repeat_interleave(b)
        t = prior.timesteps_tensor(t, len(t))
        noise = batch.noise[:, [k for _, k in cells]].transpose(0, 1)  # [cells, b, C, h, w]
        z_t = prior.add_noise(
            batch.z.expand(len(cells), *batch.z.shape).flatten(0, 1), noise.flatten(0, 1), t
        )
        at = {cell: n for n, cell in enumerate(cells)}
        rows = _rows([at[cell] for cell, _ in blocks], b)
        texts = torch.tensor([text for _, text in blocks]).repeat_interleave(b)
        calls = -(-len(rows) // self.sizes.rows)
        output = torch.cat(
            [
                prior.unet_output(z_t[some], t[some], *self._texts.rows(text))
                for some, text in zip(
                    rows.to(z_t.device).tensor_split(calls),
                    texts.to(z_t.device).tensor_split(calls),
                    strict=True,
                )
            ]
        ).view(len(blocks), b, *z_t.shape[1:])
        asked = [(p, (j, k)) for p, j in pairs for k in range(count)]
        with_prompt = output[[place[cell, p] for p, cell in asked]]
        without = output[[place[cell, self._texts.without[p]] for p, cell in asked]]
        scale = [self.configs[p].guidance_scale for p, _ in asked]
        g = torch.tensor(scale, dtype=output.dtype).to(output.device).view(-1, 1, 1, 1, 1)
        guided = (without + g * (with_prompt - without)).flatten(0, 1)
        some = _rows([at[cell] for _, cell in asked], b).to(z_t.device)
        t, noise = t[some], noise.flatten(0, 1)[some]
        prediction = prior.schedule.noise_prediction(guided, z_t[some], t)
        r = residual_of_prediction(prior, prediction, t, noise, self.configs[0])
        return r.view(len(pairs), count, *batch.z.shape)

    def _residuals_full(self, batch: _Batch, pairs: list[Pair]) -> Tensor:
        """Compute residuals through the U-Net's Jacobian; here prompts share no rows."""
        b, count = len(batch.images), self.how.noise_draws
        found = []
        for p, j in pairs:
            z = batch.z.expand(count, *batch.z.shape).flatten(0, 1)
            noise = batch.noise.transpose(0, 1).flatten(0, 1)
            step = max(1, self.sizes.rows // 2)
            found += [
                residual(self.prior, some, self.prompts[p], self.timesteps[j], e, self.configs[p])
                for some, e in zip(z.split(step), noise.split(step), strict=True)
            ]
        return torch.cat(found).view(len(pairs), count, b, *batch.z.shape[1:])

    def _statistics(self, batch: _Batch, r: Tensor) -> Tensor:
        """Compute entropy, L1 and deficit [3, pairs, b] of residuals [pairs, draws, b, C, h, w].

        Of a batch that was halved, d of the images themselves is d' / 4, each entry four times. So
        H(d) = H(d' / 4) + log 4, N(d) = N(d') = 4 N(d' / 4), and the deficit log n − H is that of
        d' / 4. The same holds for means over channels.
        """
        result = []
        for r_of_pair in r:
            of_draws = []
            for cotangent in r_of_pair:
                d = cotangent
                if batch.encoded is not None:
                    d = batch.encoded.gradient(cotangent, last=False)
                of_draws.append(_entropy_l1(d / 4 if batch.halved else d, self.how.gradient_map))
                self._advance(len(d))
            result.append(torch.stack(of_draws).mean(0))
        found = torch.stack(result, dim=1)
        if batch.halved:
            more = torch.tensor([[[math.log(4)]], [[0]], [[0]]], dtype=found.dtype)
            found = found * torch.tensor([[[1]], [[4]], [[1]]], dtype=found.dtype).to(found.device)
            found = found + more.to(found.device)
        return found


class _Texts:
    """The distinct texts of prompts and of what they are guided away from, as rows of a U-Net.

    Attributes:
        without: for each prompt the text of its branch without it; itself where g = 1, which
            cancels that branch.
    """

    def __init__(self, prompts: Sequence[PromptEmbeds], configs: Sequence[GuidanceConfig]) -> None:
        texts, pooled = [e.cond for e in prompts], [e.pooled for e in prompts]
        self.without: list[int] = []
        for p, (embeds, config) in enumerate(zip(prompts, configs, strict=True)):
            one = embeds.uncond, embeds.uncond_pooled
            alike = [n for n in range(len(prompts), len(texts)) if _alike(one, texts[n], pooled[n])]
            if config.guidance_scale == 1:
                self.without.append(p)
                continue
            if not alike:
                texts.append(one[0])
                pooled.append(one[1])
            self.without.append(alike[0] if alike else len(texts) - 1)
        self._texts = torch.cat(texts)  # [P + U, S, D]
        vectors = [vector for vector in pooled if vector is not None]
        self._pooled = torch.cat(vectors) if vectors else None  # [P + U, E]

    def of(self, prompts: Sequence[int]) -> list[int]:
        """List the texts that these prompts need, each once."""
        return list(dict.fromkeys([*(self.without[p] for p in prompts), *prompts]))

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return embeddings [R, S, D], and [R, E] with SDXL, for texts int64 [R]."""
        return self._texts[index], None if self._pooled is None else self._pooled[index]


def _alike(one: tuple[Tensor, Tensor | None], text: Tensor, pooled: Tensor | None) -> bool:
    same = torch.equal(one[0], text)
    return same and (one[1] is None or pooled is None or torch.equal(one[1], pooled))


def _rows(cells: list[int], b: int) -> Tensor:
    """Return the rows of cells of b rows each, int64 [len(cells) · b]."""
    return (torch.tensor(cells)[:, None] * b + torch.arange(b)).flatten()


def image_noise(
    prior: DiffusionPrior,
    seed: int,
    index: int,
    noise_draws: int,
    config: GuidanceConfig,
    latent_shape: tuple[int, int, int] | None = None,
) -> Tensor:
    """Draw the noise [draws, C, h, w] of one image from (seed, index, draw) alone; on the CPU.

    `latent_shape` is (C, h, w) of images that are not square; default `prior.latent_shape`.
    """
    shape = latent_shape or prior.latent_shape
    if config.noise == "zero":
        return torch.zeros(noise_draws, *shape)
    return torch.stack([draws.noise(shape, seed, index, draw) for draw in range(noise_draws)])


def _entropy_l1(d: Tensor, gradient_map: GradientMap) -> Tensor:
    """Return entropy (Eq. 9), L1 (Eq. 10) and deficit [3, b] of gradients [b, C, H, W]."""
    if gradient_map == "signed":
        result, channels = softmax_entropy_l1(d.flatten(1)), 1
    else:
        # The L1 norm of the channel means, times the number of channels, is Σ|d|.
        result, channels = softmax_entropy_l1(d.flatten(2), "abs-mean"), d.shape[1]
    return torch.stack([result.entropy, channels * result.l1, result.deficit])


def _render(images: Tensor, generator: Any) -> Tensor:
    if generator is None:
        return images
    device = next(iter(generator.parameters())).device
    with torch.no_grad():
        return generator.synthesis(images.to(device))
