"""bias_act against the definition `clamp(gain * act(x + b))`, written out element by element."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sdd_fast.ops import bias_act, bias_act_ref

SHAPES = [(2, 3), (1, 5, 7), (2, 3, 4, 5), (2, 1, 1, 1), (0, 3, 4, 4)]


def by_definition(
    x: Tensor, b: Tensor | None, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    out = torch.empty(x.shape, dtype=torch.float64)
    for index in torch.cartesian_prod(*[torch.arange(n) for n in x.shape]).tolist():
        u = x[tuple(index)].item() + (b[index[1]].item() if b is not None else 0.0)
        if act == "relu":
            u = max(u, 0.0)
        elif act == "lrelu":
            u = u if u > 0 else alpha * u
        u *= gain
        out[tuple(index)] = u if clamp is None else min(max(u, -clamp), clamp)
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("act", ["linear", "relu", "lrelu"])
@pytest.mark.parametrize("clamp", [None, 0.7])
def test_definition(shape: tuple[int, ...], act: str, clamp: float | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    b = torch.randn(shape[1], dtype=torch.float64)
    expected = by_definition(x, b, act, 0.3, 1.7, clamp)
    for function in (bias_act, bias_act_ref):
        torch.testing.assert_close(function(x, b, act, 0.3, 1.7, clamp), expected)


@pytest.mark.parametrize(("act", "gain"), [("linear", 1.0), ("relu", 2**0.5), ("lrelu", 2**0.5)])
def test_default_gain_and_no_bias(act: str, gain: float) -> None:
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 3, 2)
    expected = by_definition(x, None, act, 0.2, gain, None)
    torch.testing.assert_close(bias_act(x, act=act), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precisions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, b = torch.randn(2, 3, 5, dtype=dtype), torch.randn(3, dtype=dtype)
    out = bias_act(x, b)
    assert out.dtype == dtype
    expected = by_definition(x, b, "lrelu", 0.2, math.sqrt(2), None)
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


def test_autocast() -> None:
    """Features come in autocast's dtype, the bias is a float32 parameter."""
    x, b = torch.randn(2, 3, 5).bfloat16(), torch.randn(3)
    with torch.autocast("cpu", torch.bfloat16):
        y = bias_act(x, b)
    assert torch.equal(y, bias_act(x, b.bfloat16()))


def test_layouts_and_slices() -> None:
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    b = torch.randn(4, dtype=torch.float64)
    expected = bias_act(x, b)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(bias_act(last, b), expected)
    torch.testing.assert_close(bias_act(x[:, ::2, 1:], b[::2]), expected[:, ::2, 1:])
    torch.testing.assert_close(bias_act(x.mT, b), expected.mT)


@pytest.mark.parametrize("act", ["linear", "relu", "lrelu"])
def test_gradients(act: str) -> None:
    torch.manual_seed(1)  # no entry near the kink
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, b: bias_act(x, b, act, clamp=5.0), (x, b))
    assert torch.autograd.gradgradcheck(lambda x, b: bias_act(x, b, act), (x, b))


def test_compiles_without_graph_breaks() -> None:
    compiled = torch.compile(bias_act, fullgraph=True, backend="aot_eager")
    x, b = torch.randn(2, 3, 4), torch.randn(3)
    torch.testing.assert_close(compiled(x, b), bias_act(x, b))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3)}, r"at least 2 dimensions, got \[3\]"),
        ({"x": torch.zeros(2, 3), "b": torch.zeros(2)}, r"shape \[3\].*got \[2\]"),
        ({"x": torch.zeros(2, 3), "act": "gelu"}, "one of linear, relu, lrelu, got 'gelu'"),
        ({"x": torch.zeros(2, 3), "alpha": -0.1}, r"alpha must lie in \[0, 1\], got -0.1"),
        ({"x": torch.zeros(2, 3), "gain": 0.0}, "gain must be a positive number, got 0.0"),
        ({"x": torch.zeros(2, 3), "gain": math.nan}, "gain must be a positive number, got nan"),
        ({"x": torch.zeros(2, 3), "clamp": -1.0}, "clamp must be positive.*got -1.0"),
    ],
)
def test_bad_values(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bias_act(**arguments)


def test_bad_types() -> None:
    with pytest.raises(TypeError, match=r"floating point tensor, got torch\.int64"):
        bias_act(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="floating point tensor, got list"):
        bias_act([[0.0]])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"b is torch\.float64 but x is torch\.float32"):
        bias_act(torch.zeros(2, 3), torch.zeros(3, dtype=torch.float64))
