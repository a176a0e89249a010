"""bias_act at the sizes of StyleGAN2-1024 against the usual formulation, eager and compiled, and a
copy into fresh memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sdd_fast.ops import bias_act

CLAMP = 256.0


def usual(x: Tensor, b: Tensor) -> Tensor:
    y = F.leaky_relu(x + b.reshape([1, -1] + [1] * (x.ndim - 2)), 0.2)
    return (y * 2**0.5).clamp(-CLAMP, CLAMP)


def ours(x: Tensor, b: Tensor) -> Tensor:
    return bias_act(x, b, clamp=CLAMP)


def with_gradients(function: Callable[..., Tensor]) -> Callable[..., object]:
    def both(x: Tensor, b: Tensor) -> object:
        return torch.autograd.grad(function(x, b), (x, b), x.detach())

    return both


# shape, dtype and layout, gradients, whether to compile
CASES = [
    ((1, 1), "float32", False, True),
    ((1, 512), "float32", False, False),
    ((8, 512, 4, 4), "float32", False, True),
    ((1, 512, 16, 16), "float32", False, False),
    ((1, 512, 64, 64), "float32", False, True),
    ((1, 512, 64, 64), "bfloat16", False, False),
    ((1, 512, 64, 64), "float16", False, False),
    ((1, 256, 128, 128), "float32", False, False),
    ((1, 64, 512, 512), "float32", False, False),
    ((1, 32, 1024, 1024), "float32", False, True),
    ((1, 32, 1024, 1024), "float32 channels_last", False, False),
    ((1, 1), "float32", True, False),
    ((8, 512, 4, 4), "float32", True, False),
    ((1, 512, 64, 64), "float32", True, False),
    ((1, 64, 512, 512), "float32 channels_last", True, False),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bias_act(compare: Any, case: tuple[tuple[int, ...], str, bool, bool]) -> None:
    shape, kind, gradients, compiled = case
    dtype = getattr(torch, kind.split()[0])
    rng = torch.Generator().manual_seed(0)
    inputs = []
    for _ in range(2):
        x = torch.randn(shape, generator=rng).to(dtype)
        if "channels_last" in kind:
            x = x.contiguous(memory_format=torch.channels_last)
        b = torch.randn(shape[1], generator=rng).to(dtype)
        inputs.append((x.requires_grad_(gradients), b.requires_grad_(gradients)))
    sides: dict[str, Callable[..., Any]] = {"eager": usual, "ours": ours}
    if compiled:
        torch._dynamo.reset()
        sides["compile"] = torch.compile(usual)
    if gradients:
        sides = {name: with_gradients(side) for name, side in sides.items()}
    elif x.numel() > 1 << 16:
        sides["copy"] = lambda x, b: x.clone()
    name = f"{list(shape)}, {kind}{', gradients' if gradients else ''}"
    calls = 100 if x.numel() <= 4096 else 10 if x.numel() <= 1 << 17 else 1
    compare(
        name,
        {side: lambda pair, f=function: f(*pair) for side, function in sides.items()},
        inputs,
        x.numel() * x.element_size(),
        calls,
    )
