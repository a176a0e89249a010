"""conv_epilogue at the sizes of StyleGAN2-1024 against its composition, eager and compiled, and a
copy into fresh memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sdd_fast.ops import conv_epilogue


def usual(x: Tensor, factor: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    y = x * factor[:, :, None, None] + noise + bias.reshape(1, -1, 1, 1)
    return F.leaky_relu(y, 0.2) * 2**0.5


def ours(x: Tensor, factor: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    return conv_epilogue(x, factor, noise, bias, "lrelu")


def with_gradients(function: Callable[..., Tensor]) -> Callable[..., object]:
    def both(x: Tensor, factor: Tensor, *more: Tensor) -> object:
        return torch.autograd.grad(function(x, factor, *more), (x, factor), x.detach())

    return both


# shape, dtype and layout, gradients, whether to compile
CASES = [
    ((1, 1, 1, 1), "float32", False, True),
    ((1, 512, 4, 4), "float32 channels_last", False, False),
    ((8, 512, 4, 4), "float32 channels_last", False, False),
    ((1, 512, 64, 64), "float32", False, False),
    ((1, 512, 64, 64), "float32 channels_last", False, True),
    ((1, 512, 64, 64), "bfloat16 channels_last", False, False),
    ((1, 64, 512, 512), "float32 channels_last", False, False),
    ((1, 1, 1, 1), "float32", True, False),
    ((1, 512, 64, 64), "float32", True, False),
    ((1, 512, 64, 64), "float32 channels_last", True, False),
    ((1, 64, 512, 512), "float32 channels_last", True, False),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv_epilogue(compare: Any, case: tuple[tuple[int, ...], str, bool, bool]) -> None:
    shape, kind, gradients, compiled = case
    dtype = getattr(torch, kind.split()[0])
    n, channels, *size = shape
    rng = torch.Generator().manual_seed(0)
    inputs = []
    for _ in range(2):
        x = torch.randn(shape, generator=rng).to(dtype)
        if "channels_last" in kind:
            x = x.contiguous(memory_format=torch.channels_last)
        factor, noise, bias = (
            torch.randn(s, generator=rng).to(dtype)
            for s in ((n, channels), (1, 1, *size), (channels,))
        )
        leaves = (x.requires_grad_(gradients), factor.requires_grad_(gradients))
        inputs.append((*leaves, noise, bias))
    sides: dict[str, Callable[..., Any]] = {"eager": usual, "ours": ours}
    if compiled:
        torch._dynamo.reset()
        sides["compile"] = torch.compile(usual)
    if gradients:
        sides = {name: with_gradients(side) for name, side in sides.items()}
    elif x.numel() > 1 << 16:
        sides["copy"] = lambda x, *_: x.clone()
    name = f"{list(shape)}, {kind}{', gradients' if gradients else ''}"
    calls = 100 if x.numel() <= 4096 else 10 if x.numel() <= 1 << 17 else 1
    compare(
        name,
        {side: lambda given, f=function: f(*given) for side, function in sides.items()},
        inputs,
        x.numel() * x.element_size(),
        calls,
    )
