"""upfirdn2d with [1, 3, 3, 1] at the sizes of StyleGAN2-1024, against three ways to write it.

eager: the definition, in place of whose filter stands one full 2-D depthwise convolution: insert
zeros, F.pad, conv2d, take every second pixel. compile: the same through torch.compile. grouped:
what an expert writes: one strided depthwise convolution, transposed for upsampling, and a crop. All
of them get the 2-D filter ready made. copy: a clone of the result into fresh memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sdd_fast.ops import upfirdn2d

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
Pads = tuple[int, int, int, int]


def plain(channels: int, up: int, down: int, pads: Pads, dtype: torch.dtype) -> Callable:
    weight = (torch.outer(TAPS, TAPS) * up**2).to(dtype).repeat(channels, 1, 1, 1)

    def function(x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        if up > 1:
            inserted = x.new_zeros(n, c, height, up, width, up)
            inserted[:, :, :, 0, :, 0] = x
            x = inserted.view(n, c, height * up, width * up)
        y = F.conv2d(F.pad(x, pads), weight, groups=channels)
        return y[:, :, ::down, ::down] if down > 1 else y

    return function


def grouped(channels: int, up: int, down: int, pads: Pads, dtype: torch.dtype) -> Callable:
    weight = (torch.outer(TAPS, TAPS) * up**2).to(dtype).repeat(channels, 1, 1, 1)
    left, right, top, bottom = pads

    def function(x: Tensor) -> Tensor:
        if up == 1:
            return F.conv2d(x, weight, stride=down, padding=(top, left), groups=channels)
        y = F.conv_transpose2d(x, weight, stride=up, groups=channels)
        height, width = x.shape[2] * up + top + bottom - 3, x.shape[3] * up + left + right - 3
        return y[:, :, 3 - top : 3 - top + height, 3 - left : 3 - left + width]

    return function


def cases(*rows: tuple[tuple[int, ...], str, bool]) -> list[Any]:
    return [pytest.param(*row, id=f"{list(row[0])}-{row[1]}-{row[2]}") for row in rows]


# After the convolutions that upsample to 8 ... 1024 pixels; a single pixel is padded to fit.
BLUR = cases(
    ((1, 32, 1025, 1025), "float32", True),
    ((1, 64, 513, 513), "float32", False),
    ((1, 128, 257, 257), "float32", False),
    ((1, 512, 65, 65), "float32", False),
    ((1, 512, 33, 33), "float32", True),
    ((8, 512, 17, 17), "float32", False),
    ((8, 512, 9, 9), "float32", False),
    ((1, 512, 9, 9), "float32", False),
    ((1, 32, 1025, 1025), "bfloat16", False),
    ((1, 32, 1025, 1025), "float16", False),
    ((1, 32, 1025, 1025), "float32 channels_last", False),
    ((1, 512, 65, 65), "float32 channels_last", False),
    ((8, 512, 9, 9), "float32 channels_last", False),
    ((1, 3, 4, 4), "float32", True),
    ((1, 1, 1, 1), "float32", True),
)
UP = cases(
    ((1, 3, 512, 512), "float32", True),
    ((1, 3, 64, 64), "float32", False),
    ((1, 3, 4, 4), "float32", False),
    ((1, 1, 1, 1), "float32", True),
    ((1, 512, 32, 32), "float32", False),
    ((8, 512, 4, 4), "float32", False),
    ((1, 3, 512, 512), "float32 channels_last", False),
)
DOWN = cases(
    ((1, 32, 1024, 1024), "float32", True),
    ((1, 3, 1024, 1024), "float32", False),
    ((1, 512, 32, 32), "float32", False),
    ((8, 512, 8, 8), "float32", False),
    ((1, 3, 4, 4), "float32", False),
    ((1, 64, 512, 512), "float32 channels_last", False),
)


def images(shape: tuple[int, ...], kind: str) -> list[Tensor]:
    """Several, so that a large one is not in the cache when its turn comes."""
    layout = torch.channels_last if "channels_last" in kind else torch.contiguous_format
    dtype = getattr(torch, kind.split()[0])
    rng = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=rng).to(dtype).contiguous(memory_format=layout)
        for _ in range(2)
    ]


def measure(
    compare: Any,
    name: str,
    shape: tuple[int, ...],
    kind: str,
    compiled: bool,
    up: int,
    down: int,
    pads: Pads,
) -> None:
    inputs = images(shape, kind)
    channels, dtype = shape[1], inputs[0].dtype
    torch._dynamo.reset()
    eager = plain(channels, up, down, pads, dtype)

    def ours(x: Tensor) -> Tensor:
        return upfirdn2d(x, TAPS, up, down, pads, False, up**2)

    result = ours(inputs[0])
    torch.testing.assert_close(result, eager(inputs[0]), rtol=2e-2, atol=2e-2)
    calls = 100 if result.numel() < 10_000 else 1
    sides: dict[str, Callable[[Tensor], object]] = {
        "eager": eager,
        "grouped": grouped(channels, up, down, pads, dtype),
        "ours": ours,
    }
    if compiled:
        sides["compile"] = torch.compile(eager)
    if calls == 1:
        sides["copy"] = lambda x: result.clone()
    sizes = "x".join(str(s) for s in shape)
    size = result.element_size() * (inputs[0].numel() + result.numel())
    compare(f"{name} {sizes}, {kind}", sides, inputs, size, calls)


@pytest.mark.parametrize(("shape", "kind", "compiled"), BLUR)
def test_blur(compare: Any, shape: tuple[int, ...], kind: str, compiled: bool) -> None:
    pads = (1, 1, 1, 1) if shape[-1] > 1 else (2, 2, 2, 2)
    measure(compare, "blur", shape, kind, compiled, 1, 1, pads)


@pytest.mark.parametrize(("shape", "kind", "compiled"), UP)
def test_up2(compare: Any, shape: tuple[int, ...], kind: str, compiled: bool) -> None:
    measure(compare, "up 2", shape, kind, compiled, 2, 1, (2, 1, 2, 1))


@pytest.mark.parametrize(("shape", "kind", "compiled"), DOWN)
def test_down2(compare: Any, shape: tuple[int, ...], kind: str, compiled: bool) -> None:
    measure(compare, "down 2", shape, kind, compiled, 1, 2, (1, 1, 1, 1))


@pytest.mark.parametrize("shape", [(1, 128, 257, 257), (1, 512, 17, 17), (1, 3, 4, 4)])
def test_blur_and_its_gradient(compare: Any, shape: tuple[int, ...]) -> None:
    inputs = [x.requires_grad_() for x in images(shape, "float32")]
    pads = (1, 1, 1, 1)
    forward = {
        "eager": plain(shape[1], 1, 1, pads, torch.float32),
        "grouped": grouped(shape[1], 1, 1, pads, torch.float32),
        "ours": lambda x: upfirdn2d(x, TAPS, padding=pads),
    }
    cotangent = torch.randn_like(forward["ours"](inputs[0]))

    def with_gradient(function: Callable) -> Callable[[Tensor], object]:
        return lambda x: torch.autograd.grad(function(x), x, cotangent)

    calls = 100 if cotangent.numel() < 10_000 else 1
    sides = {name: with_gradient(function) for name, function in forward.items()}
    sizes = "x".join(str(s) for s in shape)
    size = 8 * (inputs[0].numel() + cotangent.numel())
    compare(f"blur and gradient {sizes}, float32", sides, inputs, size, calls)
