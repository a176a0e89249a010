"""upfirdn2d against zero insertion, padding, convolution and subsampling written as loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdd_fast.ops import upfirdn2d, upfirdn2d_ref

# up, down, (left, right, top, bottom), size (H, W), filter shape
CASES = [
    (1, 1, (0, 0, 0, 0), (5, 6), (3,)),
    (1, 1, (1, 1, 1, 1), (5, 6), (4,)),  # the blur after an upsampling convolution
    (2, 1, (2, 1, 2, 1), (4, 5), (4,)),  # the upsampling of the skip image
    (1, 2, (1, 1, 1, 1), (6, 8), (4,)),
    (1, 2, (1, 2, 0, 1), (5, 7), (3, 2)),  # rows and columns are left over
    (2, 2, (3, 0, -1, 4), (5, 4), (2, 5)),
    (3, 2, (0, 4, 5, 1), (3, 4), (4, 3)),
    (2, 3, (-2, -1, -1, -2), (6, 7), (3, 3)),  # cropping
    (4, 1, (0, 0, 0, 0), (2, 3), (1,)),  # a filter shorter than the zeros between pixels
    (2, 1, (7, 6, 5, 8), (1, 1), (2, 3)),  # padding beyond the reach of the filter
]


def by_definition(
    x: Tensor, f: Tensor, up: int, down: int, pads: tuple[int, int, int, int], flip: bool
) -> Tensor:
    n, c, height, width = x.shape
    left, right, top, bottom = pads
    kernel = torch.outer(f, f) if f.ndim == 1 else f
    if not flip:  # a convolution: the filter runs backwards
        kernel = kernel.flip(0, 1)
    kh, kw = kernel.shape
    total_h, total_w = height * up + top + bottom, width * up + left + right

    def pixel(row: int, column: int) -> Tensor:  # of the upsampled and padded image
        row, column = row - top, column - left
        inside = 0 <= row < height * up and 0 <= column < width * up
        if not inside or row % up or column % up:
            return torch.zeros(n, c, dtype=torch.float64)
        return x[:, :, row // up, column // up]

    out = torch.zeros(n, c, (total_h - kh) // down + 1, (total_w - kw) // down + 1).double()
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            for a in range(kh):
                for b in range(kw):
                    out[:, :, i, j] += kernel[a, b] * pixel(i * down + a, j * down + b)
    return out


@pytest.mark.parametrize(("up", "down", "pads", "size", "taps"), CASES)
@pytest.mark.parametrize("flip", [False, True])
def test_definition(up, down, pads, size, taps, flip) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    f = torch.randn(taps, dtype=torch.float64)  # asymmetric, so orientation matters
    expected = 1.5 * by_definition(x, f, up, down, pads, flip)
    for function in (upfirdn2d, upfirdn2d_ref):
        torch.testing.assert_close(function(x, f, up, down, pads, flip, 1.5), expected)


@pytest.mark.parametrize(("up", "down", "pads", "size", "taps"), CASES)
def test_gradients(up, down, pads, size, taps) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    x = torch.randn(1, 2, *size, dtype=torch.float64, requires_grad=True)
    f = torch.randn(taps, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        return upfirdn2d(x, f, up, down, pads, gain=0.5)

    assert torch.autograd.gradcheck(function, (x,))
    assert torch.autograd.gradgradcheck(function, (x,))


def test_batched_gradients() -> None:
    """Several cotangents through one graph, as a timestep search may do."""
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    y = upfirdn2d(x, torch.tensor([1.0, 3, 3, 1]), up=2, padding=(2, 1, 2, 1))
    cotangents = torch.randn(4, *y.shape, dtype=torch.float64)
    (together,) = torch.autograd.grad(y, x, cotangents, is_grads_batched=True, retain_graph=True)
    for cotangent, gradient in zip(cotangents, together, strict=True):
        (alone,) = torch.autograd.grad(y, x, cotangent, retain_graph=True)
        torch.testing.assert_close(gradient, alone)


def test_integer_padding_and_layouts() -> None:
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    f = torch.tensor([0.25, 0.5, 0.25])
    expected = by_definition(x, f.double(), 1, 1, (1, 1, 1, 1), False)
    torch.testing.assert_close(upfirdn2d(x, f, padding=1), expected)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(upfirdn2d(last, f, padding=1), expected)
    wide = torch.randn(2, 3, 6, 14, dtype=torch.float64)
    wide[..., ::2] = x
    torch.testing.assert_close(upfirdn2d(wide[..., ::2], f, padding=1), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precisions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 6, 6, dtype=dtype)
    f = torch.tensor([1.0, 3, 3, 1]) / 8
    out = upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4.0)
    assert out.dtype == dtype
    expected = 4 * by_definition(x.double(), f.double(), 2, 1, (2, 1, 2, 1), False)
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


def test_keeps_a_constant_image() -> None:
    """What the generator relies on: upsampling with [1, 3, 3, 1] changes no flat colour."""
    x = torch.full((1, 3, 5, 5), 0.8)
    y = upfirdn2d(x, torch.tensor([1.0, 3, 3, 1]) / 8, up=2, padding=(2, 1, 2, 1), gain=4.0)
    assert y.shape == (1, 3, 10, 10)
    torch.testing.assert_close(y[..., 2:-2, 2:-2], torch.full((1, 3, 6, 6), 0.8))


def test_compiles_without_graph_breaks() -> None:
    f = torch.tensor([1.0, 3, 3, 1])
    compiled = torch.compile(
        lambda x: upfirdn2d(x, f, 2, 1, (2, 1, 2, 1)), fullgraph=True, backend="aot_eager"
    )
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    torch.testing.assert_close(compiled(x), upfirdn2d(x, f, 2, 1, (2, 1, 2, 1)))


X, F3 = torch.zeros(1, 2, 4, 4), torch.ones(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": X[0], "f": F3}, r"x must be \[N, C, H, W\], got \[2, 4, 4\]"),
        ({"x": X, "f": torch.ones(1, 2, 3)}, r"filter of shape .* got \[1, 2, 3\]"),
        ({"x": X, "f": torch.ones(0)}, r"filter of shape .* got \[0\]"),
        ({"x": X, "f": F3, "up": 0}, "up must be an integer from 1 to 2147483647, got 0"),
        ({"x": X, "f": F3, "down": 1.5}, "down must be an integer from 1 to 2147483647, got 1.5"),
        ({"x": X, "f": F3, "padding": (1, 1)}, r"one integer or \(left, .* got \(1, 1\)"),
        ({"x": X, "f": F3, "padding": -1}, "2x2, smaller than the filter 3x3"),
        ({"x": X, "f": torch.ones(3, requires_grad=True)}, r"constant; pass f\.detach\(\)"),
    ],
)
def test_bad_values(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        upfirdn2d(**arguments)


def test_bad_types() -> None:
    with pytest.raises(TypeError, match=r"x must be float64, .*, not torch\.uint8"):
        upfirdn2d(X.to(torch.uint8), F3)
    with pytest.raises(TypeError, match="f must be a torch.Tensor, not list"):
        upfirdn2d(X, [1.0, 3.0])  # type: ignore[arg-type]
