"""How well a teacher agrees with itself in float32: the gate that other dtypes and kernels pass.

Guidance multiplies the rounding of two predictions by its scale, and the encoder's adds to that. So
with the same images, noise and prompt, three things are compared: the gradient at the image for the
same residual (the VAE alone), for the residual of each mode at g = 100, and the timestep of largest
HQS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..gradients.config import GuidanceConfig
from ..gradients.image_gradient import EncodedImages
from ..gradients.sds import residual
from ..ops.softmax_entropy_l1 import softmax_entropy_l1
from ..progress import Listener, Task
from ..shield import shielded
from ..teacher.attention import set_attention
from ..teacher.precision import keep_gate_result
from ..teacher.prior import DiffusionPrior
from ..teacher.vae_encoder import check_range
from .curve import HQSCurve
from .hqs import check_timesteps, image_noise, usual_timesteps

LEAST_VAE, LEAST_UNET = 0.999, 0.99
"""Mean cosine of the gradient to that of float32: through the VAE alone, and of the whole."""

LEAST_IMAGES = 4
"""What an answer needs to be kept for "auto", beside as many timesteps as `hqs` has by default."""

_GUIDANCE = GuidanceConfig(guidance_scale=100.0)


@dataclass(frozen=True)
class Agreement:
    """How well one mode agrees with float32.

    Args:
        vae: cosine of the gradient for the same residual, mean over images and timesteps.
        unet: of the gradient for each mode's own residual. *_lowest: of one image and timestep.
        timestep, expected: the timestep of largest HQS, in this mode and in float32; None where
            gradients are not finite.
        problem: why the mode cannot run; "" if it can.
        kept: whether images and timesteps were enough to decide for "auto".
    """

    dtype: str
    attention: str
    vae: float = 0.0
    vae_lowest: float = 0.0
    unet: float = 0.0
    unet_lowest: float = 0.0
    timestep: int | None = None
    expected: int | None = None
    problem: str = ""
    kept: bool = True

    @property
    def failure(self) -> str:
        """Where gradients or choice are not those of float32 within the gate's bounds; or ""."""
        if self.problem:
            return f"it cannot run: {self.problem}"
        cosines = ((self.vae, LEAST_VAE, "VAE alone"), (self.unet, LEAST_UNET, "whole"))
        # Written so that NaN fails. Enough digits that no figure reads like its bound.
        told = [
            f"cosine of the {part} {cosine:.6g}, at least {least:g} is needed"
            for cosine, least, part in cosines
            if not cosine >= least
        ]
        if self.timestep != self.expected:
            told.append(f"timestep {self.timestep}, float32 chooses {self.expected}")
        return "; ".join(told)

    @property
    def passed(self) -> bool:
        """Whether gradients and choice are those of float32, within the bounds of the gate."""
        return not self.failure


@dataclass(frozen=True)
class _Evaluation:
    residuals: list[Tensor]  # of each (image, timestep): [1, C, h, w]
    gradients: list[Tensor]  # likewise: [1, 3, H, W] on the CPU
    same_residuals: list[Tensor]  # gradients for the residuals of float32
    largest: int | None  # the timestep of largest HQS; None: a gradient is not finite


@shielded()
def measure_agreement(
    load: Callable[[str], DiffusionPrior],
    images: Tensor,
    prompt: str,
    modes: Mapping[str, Sequence[str]],
    timesteps: Sequence[int] | None = None,
    *,
    seed: int = 0,
    progress: bool | Listener = True,
) -> list[Agreement]:
    """Compare modes of a teacher with float32, and keep the answers for "auto".

    They are kept if they are of `LEAST_IMAGES` and of as many timesteps as `hqs` has by default.

    Args:
        load: makes the teacher in the dtype of a name; one is held at a time.
        images: [N, 3, H, W] in [-1, 1]. modes: dtype → attention backends.
        timesteps: default: those of `hqs`.

    Returns:
        One for each mode, in the order given.

    Raises:
        ValueError: images far beyond [-1, 1], timesteps out of range or without signal, or a
            prompt that says nothing.
    """
    check_range(float(images.abs().max()))
    prior = load("float32")
    timesteps = check_timesteps(prior, timesteps)
    full = len(images) >= LEAST_IMAGES and len(timesteps) >= len(usual_timesteps(prior))
    runs = 1 + sum(map(len, modes.values()))
    found = []
    with Task("gate", runs * len(images) * len(timesteps), progress, unit="gradients") as task:
        expected = _evaluate(prior, images, prompt, timesteps, seed, None, task)
        for dtype, backends in modes.items():
            del prior
            prior = load(dtype)
            for attention in backends:
                one = _compare(prior, attention, images, prompt, timesteps, seed, expected, task)
                if full and not one.problem:
                    keep_gate_result(prior, prior.device, prior.dtype, attention, one.failure)
                found.append(replace(one, kept=full))
    return found


def _compare(
    prior: DiffusionPrior,
    attention: str,
    images: Tensor,  # [N, 3, H, W]
    prompt: str,
    timesteps: Sequence[int],
    seed: int,
    expected: _Evaluation,
    task: Task,
) -> Agreement:
    dtype = str(prior.dtype).removeprefix("torch.")
    networks: dict[str, Any] = {"unet": prior.unet, "vae": prior.vae}
    try:
        set_attention(networks, attention, prior.text_encoder.config.max_position_embeddings)
    except ValueError as error:
        return Agreement(dtype, attention, problem=str(error))
    got = _evaluate(prior, images, prompt, timesteps, seed, expected.residuals, task)
    vae = _cosines(got.same_residuals, expected.gradients)
    unet = _cosines(got.gradients, expected.gradients)
    return Agreement(
        dtype,
        attention,
        vae=float(vae.mean()),
        vae_lowest=float(vae.min()),
        unet=float(unet.mean()),
        unet_lowest=float(unet.min()),
        timestep=got.largest,
        expected=expected.largest,
    )


def _evaluate(
    prior: DiffusionPrior,
    images: Tensor,  # [N, 3, H, W]
    prompt: str,
    timesteps: Sequence[int],
    seed: int,
    residuals: list[Tensor] | None,
    task: Task,
) -> _Evaluation:
    """Compute gradients and curve image by image, and the gradients of given residuals."""
    embeds = prior.encode_prompt(prompt)
    shape = prior.latent_shape_for(*images.shape[2:])
    every_r: list[Tensor] = []
    every_d: list[Tensor] = []
    of_same: list[Tensor] = []
    statistics = []
    for i, image in enumerate(images):
        encoded = EncodedImages(prior, image[None].to(prior.device, prior.compute_dtype))
        noise = image_noise(prior, seed, i, 1, _GUIDANCE, shape)
        for t in timesteps:
            r = residual(prior, encoded.latents, embeds, t, noise, _GUIDANCE)
            d = encoded.gradient(r, last=False)
            if residuals is not None:
                same = residuals[len(every_r)].to(r)
                of_same.append(encoded.gradient(same, last=False).cpu())
            one = softmax_entropy_l1(d.flatten(1))
            statistics.append(torch.stack([one.entropy, one.deficit, one.l1]).cpu())
            every_r.append(r.cpu())
            every_d.append(d.cpu())
            task.advance()
    table = torch.cat(statistics, 1).unflatten(1, (len(images), -1))  # [3, N, T]
    largest = HQSCurve(tuple(timesteps), *table).largest() if bool(table.isfinite().all()) else None
    return _Evaluation(every_r, every_d, of_same, largest)


def _cosines(some: list[Tensor], others: list[Tensor]) -> Tensor:
    """Compute the cosine of each pair in float64; NaN where one of them is not finite."""
    pairs = [
        (a.double().flatten(), b.double().flatten()) for a, b in zip(some, others, strict=True)
    ]
    return torch.stack([a @ b / (a.norm() * b.norm()) for a, b in pairs])
