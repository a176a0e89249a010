"""Where a gradient that is not finite comes from: the teacher's first module with such a value."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..shield import differentiable, shielded
from ..teacher.compiled import as_they_are
from ..teacher.prior import DiffusionPrior
from ..teacher.schedule import Timesteps
from ..teacher.text import PromptEmbeds
from .config import GuidanceConfig
from .sds import residual


@shielded()
def explain_overflow(
    prior: DiffusionPrior,
    images: Tensor,
    embeds: PromptEmbeds,
    timesteps: Timesteps,
    noise: Tensor,
    config: GuidanceConfig | None = None,
) -> str:
    """Compute a gradient again, watching every module; arguments as `image_gradient`.

    Returns:
        Where the first value that is not finite arose, and what to do; "" if all are finite now.
    """
    if not bool(images.isfinite().all() and noise.isfinite().all()):
        return "Check that the images and the noise are finite"
    if not bool(embeds.cond.isfinite().all() and embeds.uncond.isfinite().all()):
        return f"It arose in the text encoder. {_remedy(prior.dtype)}"
    watch = _Watch()
    hooks = []
    for part, network in (("vae", prior.vae), ("unet", prior.unet)):
        for name, module in network.named_modules(prefix=part):
            hooks.append(module.register_forward_hook(partial(watch.forward, name)))
            if part == "vae":
                hooks.append(module.register_full_backward_hook(partial(watch.backward, name)))
    try:
        y = images.detach().to(prior.device, prior.compute_dtype)
        y = differentiable(y).requires_grad_()
        z = prior.vae_encoder.encode(y)  # by diffusers' modules, which have hooks
        with as_they_are():
            r = residual(prior, z, embeds, timesteps, noise, config)
        if not watch.told and not bool(r.isfinite().all()):
            return "It arose in the residual, outside the networks: give a lower guidance_scale"
        torch.autograd.grad(z, y, r)
    finally:
        for hook in hooks:
            hook.remove()
    return watch.told


@shielded(grad=False)
def explain_network(part: str, network: nn.Module, images: Tensor) -> str:
    """Compute a network's values of images again, watching every module of it.

    Returns:
        Where the first value that is not finite arose; "" if all are finite. `part` names it.
    """
    watch = _Watch()
    hooks = [
        module.register_forward_hook(partial(watch.forward, name))
        for name, module in network.named_modules(prefix=part)
    ]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return watch.told


class _Watch:
    """Hooks of modules that notice the first value which is not finite."""

    told = ""

    def forward(self, name: str, module: Any, _: Any, output: Any) -> None:
        self.look(f"in {name} ({type(module).__name__})", [output])

    def backward(self, name: str, module: Any, gradients: Any, _: Any) -> None:
        self.look(f"in the backward pass of {name} ({type(module).__name__})", gradients)

    def look(self, where: str, values: Iterable[Any]) -> None:
        for value in values:
            if not self.told and isinstance(value, Tensor) and not value.isfinite().all():
                self.told = f"It arose {where}. {_remedy(value.dtype)}"


def _remedy(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float16:
        return "float16 ends at 65504: give dtype='float32' (--dtype float32), or bfloat16"
    if dtype == torch.bfloat16:
        return "give dtype='float32' (--dtype float32)"
    return f"That is {name}: look for damaged weights, or images that are not in [-1, 1]"
