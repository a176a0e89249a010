"""What the layers of the generator compute in while a mapper is trained.

Images, latents, regularizers and the mapper are float32 whatever this is. Every fresh training asks
anew whether a lower precision is good enough, of the generator and latents at hand: the gradient at
W+ of a random function of some images must be that of float32, as in the gate of the teacher.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import draws
from ..manipulator import float32_layers, frozen
from ..shield import differentiable
from ..teacher.precision import fastest_dtype

LEAST_COSINE = 0.99

_IMAGES = 2


def choose_generator_dtype(generator: Any, w_plus: Tensor, asked: str) -> str:
    """Return what "auto" means for a generator and latents; anything else as it is.

    bfloat16 on a CPU that has it, if the gradient keeps its direction. On a GPU float32: what it
    costs there is not measured.

    Args:
        w_plus: [N, num_layers, w_dim], N ≥ 1, float32 or float64, where the generator is.

    Raises:
        ValueError: the generator knows no `layers_dtype`, or is not float32.
    """
    fits = hasattr(generator, "layers_dtype") and w_plus.dtype == torch.float32
    if asked == "bfloat16" and not fits:
        raise ValueError(
            "generator_dtype=bfloat16 needs a float32 generator with an attribute layers_dtype, "
            f"such as StyleGAN2; got {type(generator).__name__} of {w_plus.dtype}"
        )
    if asked != "auto":
        return asked
    fast = w_plus.device.type == "cpu" and fastest_dtype(w_plus.device) == torch.bfloat16
    return "bfloat16" if fits and fast and _agrees(generator, w_plus) else "float32"


def in_dtype(generator: Any, dtype: str) -> Any:
    """Return the generator with layers that compute in `dtype`, of the same weights.

    Another object, since whoever holds the generator may use it in float32 at the same time.
    """
    if dtype == "float32":
        return generator
    low = copy.copy(generator)
    low.layers_dtype = getattr(torch, dtype)
    return low


def _agrees(generator: Any, w_plus: Tensor) -> bool:
    some = w_plus[:_IMAGES]
    size = (len(some), 3, *generator.image_size)
    d = torch.randn(size, generator=draws.generator(0))
    with frozen(generator), float32_layers(generator), torch.enable_grad():
        each = [_gradient(in_dtype(generator, name), some, d) for name in ("float32", "bfloat16")]
    whole, low = (gradient.double().flatten(1) for gradient in each)
    cosine = F.cosine_similarity(whole, low)
    return bool((cosine >= LEAST_COSINE).all())  # False for NaN


def _gradient(generator: Any, w_plus: Tensor, d: Tensor) -> Tensor:
    w = differentiable(w_plus.detach()).requires_grad_()
    (found,) = torch.autograd.grad((generator.synthesis(w) * d).sum(), w)
    return found
