"""Refining W+ latents: gradient steps from the encoder's guess towards the image.

Each image's loss depends on its own latent alone, and Adam works element by element: what else is
in the batch changes nothing but rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import draws
from .._deprecated import renamed_fields
from ..checks import check_count, check_number
from ..manipulator import float32_layers

SMALLEST = 16  # pixels: the coarsest scale at which images are compared


@renamed_fields(pull="l2_weight")
@dataclass(frozen=True)
class Refinement:
    """How latents are refined.

    Args:
        steps: of Adam; 0 leaves the encoder's latents as they are.
        lr: its largest learning rate, in standard deviations of w.
        l2_weight: of the mean squared distance from the encoder's latent, in standard deviations of
            w: what keeps the latent where edits work.
        identity: weight of 1 − cosine between the identities, where there is a network for it.

    The learning rate rises linearly over the first 5 % of the steps and falls as a cosine over the
    last 25 % (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN",
    appendix D).
    """

    steps: int = 0
    lr: float = 0.05
    l2_weight: float = 0.001
    identity: float = 0.02

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", check_count("steps", self.steps, least=0))
        check_number("lr", self.lr, positive=True)
        check_number("l2_weight", self.l2_weight)
        check_number("identity", self.identity)

    def lr_at(self, step: int) -> float:
        done = (step + 1) / self.steps
        ramp = min(1.0, done / 0.05, 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - done) / 0.25)))
        return self.lr * max(ramp, 0.01)  # the last step counts as well


@torch.no_grad()
def w_std(generator: Any, samples: int = 4096) -> Tensor:
    """Return the standard deviation [w_dim] of w over `samples` z and classes, always the same."""
    w: Tensor = generator.random_w(samples, draws.generator(0))
    return w.float().std(0).clamp(min=1e-4)


def content(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the middle [..., height, width] of images."""
    top, left = ((images.shape[i] - size[i]) // 2 for i in (-2, -1))
    return images[..., top : top + size[0], left : left + size[1]]


def multiscale_error(images: Tensor, targets: Tensor) -> Tensor:
    """Return the squared error [B] per image, mean over its size, half of it, a quarter, … ≥ 16."""
    errors = [(images - targets).square().mean((1, 2, 3))]
    while min(images.shape[-2:]) >= 2 * SMALLEST:
        images, targets = F.avg_pool2d(images, 2), F.avg_pool2d(targets, 2)
        errors.append((images - targets).square().mean((1, 2, 3)))
    return torch.stack(errors).mean(0)


def refine(
    generator: Any,
    start: Tensor,
    targets: Tensor,
    std: Tensor,
    settings: Refinement,
    identity: nn.Module | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return latents whose images are closer to `targets` than those of `start`, or `start`.

    Of all steps the one of least loss counts, for each image by itself.

    Args:
        generator: a `StyleGAN2`; its weights are left alone.
        start: [B, num_layers, w_dim], the encoder's latents.
        targets: [B, 3, h, w] in [-1, 1], compared with the middle of the generator's images.
        std: [w_dim], the unit of `lr` and `l2_weight`; see `w_std`.
        identity: images of the generator's size → vectors; used if targets have that size.
        after_step: called after every step, for a progress bar.

    Raises:
        FloatingPointError: the loss became NaN or infinite.
    """
    size = (int(targets.shape[-2]), int(targets.shape[-1]))
    whole = size == generator.image_size
    judge = identity if settings.identity > 0 and whole else None
    with torch.no_grad():
        persons = targets if judge is None else judge(targets)

    def loss_of(moved: Tensor) -> Tensor:  # [B]
        images = generator.synthesis(start + moved * std)
        loss = multiscale_error(content(images, size), targets)
        loss = loss + settings.l2_weight * moved.square().mean((1, 2))
        if judge is not None:
            loss = loss + settings.identity * (1 - F.cosine_similarity(judge(images), persons))
        return loss

    moved = torch.zeros_like(start, requires_grad=True)  # in standard deviations
    best, least = torch.zeros_like(start), torch.full_like(start[:, 0, 0], torch.inf)
    optimizer = torch.optim.Adam([moved], lr=settings.lr, betas=(0.9, 0.99))
    with float32_layers(generator):
        for step in range(settings.steps + 1):
            last = step == settings.steps
            with torch.set_grad_enabled(not last):
                loss = loss_of(moved)
            better = loss.detach() < least
            least = torch.where(better, loss.detach(), least)
            best = torch.where(better[:, None, None], moved.detach(), best)
            if last:
                break
            for group in optimizer.param_groups:
                group["lr"] = settings.lr_at(step)
            (moved.grad,) = torch.autograd.grad(loss.sum(), [moved])
            optimizer.step()
            after_step()
    if not bool(torch.isfinite(moved).all()):
        raise FloatingPointError(
            "the refinement became NaN or infinite: check that generator and images are finite, "
            f"then try a lower lr ({settings.lr:g} now)"
        )
    return (start + best * std).detach()
