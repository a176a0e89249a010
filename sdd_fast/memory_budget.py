"""What fits a memory budget, by what one image and one row of the U-Net are measured to take.

The budget is for all that lies in the memory of the device at one time: weights, what graphs keep,
and what comes and goes. The first of these that fits is taken, each with as many images and rows at
once as fit, 1 and 4 at least:

1. graphs are kept, as without a budget;
2. what the generator's graph keeps is computed again in the backward pass, image by image;
3. so is most of what the VAE encoder's graph keeps;

and at last with fewer rows. Results differ by rounding only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .checks import check_memory_budget
from .manipulator import float32_layers, frozen
from .memory_counter import Cost, bytes_of, measure, tensors_of
from .out_of_memory import Sizes
from .teacher.fast_encoder import encode_mean

if TYPE_CHECKING:
    from .teacher.prior import DiffusionPrior
    from .teacher.text import PromptEmbeds

_SHARE = 0.9  # of a budget: an allocator rounds up, and cannot use every gap
IMAGE_BYTES = 96  # for each pixel of an image: itself, its edit, their gradients, one layer
CACHE_BYTES = 2**28  # by results that are kept from one step to another
_COPIES = 5  # of a mapper: weights, gradient, AdamW's two, a moving average

Budget = int | float | str


class BudgetTooSmall(ValueError):
    """A memory budget is less than what work takes; `least` bytes are enough."""

    def __init__(self, message: str, least: float) -> None:
        super().__init__(message)
        self.least = least


def selection_within(
    budget: Budget,
    start: Sizes,
    prior: DiffusionPrior,
    size: tuple[int, int],
    embeds: PromptEmbeds | None,
    *,
    generator: Any = None,
    jacobian: str = "skip",
    gradient_at: str = "image",
) -> Sizes:
    """Return the largest sizes up to `start` with which `hqs` stays within a budget.

    Args:
        budget: a number of bytes, or such as "22GiB".
        size: of an image, (height, width). embeds: of any prompt.
        generator: what renders the images; None: nothing does.

    Raises:
        BudgetTooSmall: nothing does.
        ValueError: the device has less than the budget.
    """
    device = prior.device
    check_device_memory(budget, device)
    encoders = {again: _encoder(prior, size, again, gradient_at) for again in (False, True)}
    row = row_cost(prior, size, embeds, graph=jacobian == "full").peak
    rendered = 0.0 if generator is None else _rendered(generator, None).peak
    weights, image = _resident(device, prior, generator), IMAGE_BYTES * math.prod(size)

    def needed(sizes: Sizes) -> float:
        encoder = encoders["encoder" in sizes.again]
        at_once = max(
            sizes.images * rendered,
            sizes.images * encoder.kept + sizes.rows * row,
            sizes.images * encoder.peak,
        )
        return weights + sizes.images * image + at_once

    return _largest(budget, start, needed, weights, "selection", prior)


def training_within(
    budget: Budget,
    start: Sizes,
    prior: DiffusionPrior,
    generator: Any,
    size: tuple[int, int],
    embeds: PromptEmbeds | None,
    *,
    batch_size: int,
    identity: Any = None,
    mappers: Sequence[nn.Module] = (),
    jacobian: str = "skip",
) -> Sizes:
    """Return the largest sizes up to `start` with which `distill` stays within a budget.

    Args:
        budget: a number of bytes, or such as "22GiB".
        generator: None, if what is trained works on images. size: of those, (height, width).
        embeds: of any prompt. batch_size: images of a prompt in one step.
        mappers: those that are trained, or such, on the device.

    Raises:
        BudgetTooSmall: nothing does.
        ValueError: the device has less than the budget.
    """
    device = prior.device
    check_device_memory(budget, device)
    encoders = {again: _encoder(prior, size, again) for again in (False, True)}
    row = row_cost(prior, size, embeds, graph=jacobian == "full").peak
    drawn = rendered = Cost()
    if generator is not None:
        drawn, rendered = _generator(generator, identity), _rendered(generator, identity)
    elif mappers:
        drawn = _manipulator(mappers[0], identity, size)
    copies = _COPIES - (device.type == "cuda")  # of which one is counted by the allocator
    trained = copies * bytes_of(tensors_of(mappers))
    weights = _resident(device, prior, generator, identity) + trained

    def needed(sizes: Sizes) -> float:
        encoder = encoders["encoder" in sizes.again]
        whole = sizes.prompts * batch_size
        some = min(sizes.images, whole)
        kept, drawn_at_once = whole * drawn.kept, whole
        if "generator" in sizes.again:
            kept, drawn_at_once = 0.0, some
        at_once = max(
            kept + some * encoder.kept + sizes.rows * row,
            kept + some * encoder.peak,
            drawn_at_once * drawn.peak,
            some * rendered.peak,
        )
        return weights + CACHE_BYTES + whole * IMAGE_BYTES * math.prod(size) + at_once

    return _largest(budget, start, needed, weights, "training", prior)


def beside_weights(amount: float, prior: DiffusionPrior, generator: Any) -> float:
    """Return the budget that leaves an amount of bytes beside the weights."""
    return (_resident(prior.device, prior, generator) + amount) / _SHARE


def device_memory(device: Any) -> float:
    """Return how many bytes a device has altogether; infinity, if that is not known."""
    where = torch.device(device)
    if where.type == "cuda":
        return float(torch.cuda.mem_get_info(where)[1])
    if where.type != "meta" and hasattr(os, "sysconf"):
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return math.inf


def check_device_memory(budget: Budget, device: Any) -> None:
    """Raise ValueError if a budget is none, or more than a device has."""
    there = device_memory(device)
    if check_memory_budget(budget) > there:
        raise ValueError(
            f"memory_budget is {_given(budget)}, but the device {device} has "
            f"{_gb(there, down=True)} altogether; give less, and leave some for others"
        )


def _largest(
    budget: Budget,
    start: Sizes,
    needed: Callable[[Sizes], float],
    weights: float,
    what: str,
    prior: DiffusionPrior,
) -> Sizes:
    least, most = math.inf, check_memory_budget(budget)
    for count in range(len(start.possible) + 1):
        sizes: Sizes | None = replace(start, again=start.possible[:count])
        while sizes is not None and len(sizes.again) == count:
            total = needed(sizes) / _SHARE
            if total <= most:
                return sizes
            least, sizes = min(least, total), sizes.smaller()
    there = device_memory(prior.device)
    takes = "more than there is" if least == math.inf else f"{_gb(least)} at least"
    less = "a teacher or generator of smaller images"
    if prior.dtype.itemsize > 2:
        less += ", or a dtype of 16 bits"
    advice = f"give that much, or take {less}"
    if least > there:
        advice = f"the device {prior.device} has {_gb(there, down=True)} altogether; take {less}"
    raise BudgetTooSmall(
        f"memory_budget is {_given(budget)}, but the {what} takes {takes}, {_gb(weights)} of it "
        f"for weights; {advice}",
        least,
    )


def _given(budget: Budget) -> str:
    """Return a budget as its giver knows it."""
    return budget.strip() if isinstance(budget, str) else f"{budget:,.0f} bytes"


def _gb(size: float, down: bool = False) -> str:
    """Return an amount as a budget can be given, rounded up, or down."""
    whole = math.floor if down else math.ceil
    if size < 1e9:
        return f"{whole(size / 1e6)} MB"
    return f"{whole(size / 1e7) / 100:.2f} GB"


def _resident(device: torch.device, prior: DiffusionPrior, *networks: Any) -> float:
    """Return what lies in memory before the work begins; on a GPU that is told by its allocator."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    of_prior = (prior.vae, prior.unet, prior.text_encoder, prior.text_encoder_2)
    return float(bytes_of(tensors_of((*of_prior, *networks))))


def _encoder(
    prior: DiffusionPrior, size: tuple[int, int], again: bool, gradient_at: str = "image"
) -> Cost:
    """Measure the VAE encoder on one image."""
    vae, fast = prior.vae, prior.vae_encoder.fast  # which cannot be told among fake tensors

    def forward() -> Any:
        y = torch.zeros(1, 3, *size, device=prior.device, dtype=prior.compute_dtype)
        y.requires_grad_(gradient_at == "image")
        seen = prior.vae_encoder.resize(y).to(vae.dtype)
        return y, encode_mean(vae, seen, again) if fast else vae.encode(seen).latent_dist.mode()

    return measure(
        [prior.vae], prior.device, forward, _backward if gradient_at == "image" else None
    )


def row_cost(
    prior: DiffusionPrior, size: tuple[int, int], embeds: PromptEmbeds | None, graph: bool
) -> Cost:
    """Measure the U-Net on two rows; return the half of it."""
    embeds = prior.encode_prompt("a") if embeds is None else embeds
    shape, text, pooled = prior.latent_shape_for(*size), embeds.cond[:1], embeds.pooled
    calls = prior.unet_calls, prior.unet_rows

    def forward() -> Any:
        x = torch.zeros(2, *shape, device=prior.device, dtype=prior.compute_dtype)
        t = torch.zeros(2, dtype=torch.int64, device=prior.device)
        with torch.set_grad_enabled(graph):
            x.requires_grad_(graph)
            vector = None if pooled is None else pooled[:1].expand(2, -1)
            return x, prior.unet_output(x, t, text.expand(2, -1, -1), vector)

    if pooled is not None:
        prior._size_conditions(*shape[1:])  # which it keeps: made here, of more than shapes
    found = measure([prior.unet], prior.device, forward, _backward if graph else None)
    prior.unet_calls, prior.unet_rows = calls
    return Cost(found.kept / 2, found.peak / 2)


def _generator(generator: Any, identity: Any) -> Cost:
    """Measure generator and identity network on one latent, with a graph."""
    like = next(generator.parameters())

    def forward() -> Any:
        w = like.new_zeros(1, generator.num_layers, generator.w_dim).requires_grad_()
        images = generator.synthesis(w)
        return w, images if identity is None else (images, identity(images))

    with ExitStack() as stack:
        stack.enter_context(frozen(generator, identity))
        stack.enter_context(float32_layers(generator))
        return measure([generator, identity], like.device, forward, _backward)


def _manipulator(mapper: nn.Module, identity: Any, size: tuple[int, int]) -> Cost:
    """Measure what works on images, and the identity network, on one image."""
    like = next(mapper.parameters())

    def forward() -> Any:
        x = like.new_zeros(1, 3, *size).requires_grad_()
        images = mapper(x)
        return x, images if identity is None else (images, identity(images))

    return measure([mapper, identity], like.device, forward, _backward)


def _rendered(generator: Any, identity: Any) -> Cost:
    """Measure generator and identity network on one latent, without a graph."""
    like = next(generator.parameters())

    def forward() -> Any:
        with torch.no_grad():
            images = generator.synthesis(like.new_zeros(1, generator.num_layers, generator.w_dim))
            return images if identity is None else identity(images)

    with frozen(generator, identity), float32_layers(generator):
        return measure([generator, identity], like.device, forward)


def _backward(made: Any) -> Any:
    x, results = made
    results = results if isinstance(results, tuple) else (results,)
    return torch.autograd.grad(results, x, [torch.zeros_like(y) for y in results])
