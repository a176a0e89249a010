"""bias_act against its definition in float64, and the contract every op has."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from large_tensors import run_on_reserved
from op_cases import FEATURE_TOLERANCE, epilogue_reference, relative_error
from torch import Tensor

from sdd_fast.ops import bias_act, bias_act_ref
from sdd_fast.ops._register import NATIVE

CODES = {"linear": 0, "relu": 1, "lrelu": 2}
ACTS = pytest.mark.parametrize("act", list(CODES))
DTYPES = pytest.mark.parametrize("dtype", list(FEATURE_TOLERANCE))
needs_native = pytest.mark.skipif(NATIVE.path is None, reason="native kernels: " + NATIVE.missing)


def native(
    x: Tensor, b: Tensor | None, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    """The op itself, with the gradient that the dispatcher knows."""
    return torch.ops.sdd_fast.bias_act(x, b, CODES[act], alpha, gain, clamp)


BOTH = pytest.mark.parametrize("op", [pytest.param(native, marks=needs_native), bias_act_ref])
WITH_GRADIENTS = pytest.mark.parametrize(  # `bias_act` has a shorter way to them than the op
    "op", [pytest.param(native, marks=needs_native), bias_act, bias_act_ref]
)


def randn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layouts(x: Tensor) -> list[Tensor]:
    """The same numbers in every order of dimensions, and not dense."""
    inside = x.movedim(1, -1).contiguous().movedim(-1, 1)
    turned = x.transpose(0, -1).contiguous().transpose(0, -1)
    reversed_ = x.permute(*range(x.ndim)[::-1]).contiguous().permute(*range(x.ndim)[::-1])
    sliced = torch.stack([x, x], -1)[..., 0]
    return [x, inside, turned, reversed_, sliced]


# --- the definition -----------------------------------------------------------------------------

SHAPES = [
    (1, 1), (2, 3), (1, 512), (5, 17), (70, 300), (3, 5, 7), (2, 3, 4, 5), (2, 1, 1, 1),
    (1, 3, 33, 31), (2, 40, 9, 11), (2, 16, 4, 4), (2, 2, 3, 2, 5), (1, 2, 16385), (3, 17000),
    (1, 1, 17000), (0, 3, 4, 4), (2, 0, 3), (2, 3, 0),
]  # fmt: skip


@BOTH
@ACTS
@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_definition(op, act: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    b = randn(shape[1], dtype=dtype, seed=1)
    grad = randn(*shape, dtype=dtype, seed=2)
    tolerance = FEATURE_TOLERANCE[dtype]
    if op is bias_act_ref:
        tolerance *= 4  # rounds after every step
    first = randn(*shape, dtype=dtype)
    arranged = layouts(first)
    for bias, clamp in ((b, None), (b, 0.75), (None, 0.75)):
        expected = epilogue_reference(first, None, None, bias, act, 0.3, 1.7, clamp)
        for x in arranged:
            y = op(x, bias, act, 0.3, 1.7, clamp)
            assert y.dtype == dtype
            assert relative_error(y, expected.y) <= tolerance
            if op is native and x.numel() and x.stride() == torch.empty_like(x).stride():
                assert y.stride() == x.stride()
    if dtype in (torch.float64, torch.float32):  # the others round u across the kinks
        expected = epilogue_reference(first, None, None, b, act, 0.3, 1.7, 0.75, grad)
        summands = np.abs(expected.x).sum(tuple(d for d in range(first.ndim) if d != 1))
        for x in arranged:
            x, bias = x.detach().requires_grad_(), b.clone().requires_grad_()
            gx, gb = torch.autograd.grad(op(x, bias, act, 0.3, 1.7, 0.75), (x, bias), grad)
            assert relative_error(gx, expected.x) <= tolerance
            assert relative_error(gb, expected.bias, summands.max(initial=0)) <= tolerance


@settings(max_examples=80, deadline=None)
@given(
    shape=st.lists(st.integers(0, 40), min_size=2, max_size=5).filter(
        lambda s: math.prod(s) < 200_000
    ),
    order=st.randoms(use_true_random=False),
    act=st.sampled_from(list(CODES)),
    dtype=st.sampled_from(list(FEATURE_TOLERANCE)),
    clamp=st.sampled_from([None, 0.5, 256.0]),
    gain=st.sampled_from([1.0, math.sqrt(2), 3.0]),
    with_bias=st.booleans(),
    step=st.integers(1, 2),
)
def test_any_tensor(shape, order, act, dtype, clamp, gain, with_bias, step) -> None:
    """Any shape, any order of dimensions in memory, dense or with gaps."""
    permutation = list(range(len(shape)))
    order.shuffle(permutation)
    inverse = [permutation.index(d) for d in range(len(shape))]
    base = randn(*[shape[d] * step for d in permutation], dtype=dtype)
    x = base[tuple(slice(None, None, step) for _ in shape)].permute(inverse)
    assert list(x.shape) == shape
    b = randn(shape[1], dtype=dtype, seed=1) if with_bias else None
    y = bias_act(x, b, act, 0.2, gain, clamp)
    expected = epilogue_reference(x, None, None, b, act, 0.2, gain, clamp)
    # Where a single step is left, PyTorch's own operation runs.
    assert relative_error(y, expected.y) <= FEATURE_TOLERANCE[dtype] * 2


@pytest.mark.parametrize(("act", "gain"), [("linear", 1.0), ("relu", 2**0.5), ("lrelu", 2**0.5)])
def test_default_gain_and_no_bias(act: str, gain: float) -> None:
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 3, 2)
    expected = epilogue_reference(x, None, None, None, act, 0.2, gain, None)
    assert relative_error(bias_act(x, act=act), expected.y) <= 1e-15


@needs_native
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_number(dtype: torch.dtype) -> None:
    """All 65536 patterns: widened, scaled and rounded as PyTorch does it in float32."""
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    for x in (bits.view(dtype)[None], bits[:-5].view(dtype)[None]):  # whole vectors, and a rest
        for gain in (1.0, 2.0**-5, 1.7, 300.0):
            u = x.float()
            expected = torch.where(u > 0, u * gain, u * (gain * 0.25)).to(dtype)
            y = native(x, None, "lrelu", 0.25, gain, None)
            assert torch.equal(y.isnan(), expected.isnan())
            assert torch.equal(y.nan_to_num(7.0), expected.nan_to_num(7.0))


# --- kinks, ends of the range -------------------------------------------------------------------


@BOTH
@ACTS
@DTYPES
def test_slopes_at_the_kinks(op, act: str, dtype: torch.dtype) -> None:
    """Only the result is saved for the backward pass. From it the exact slope is told: around
    zero, down to the smallest numbers there are, and around the clamp, where it is 0."""
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    for gain in (0.75, 1.0, 1.5):
        numbers = torch.tensor(
            [[-1.0, -tiny, -0.0, 0.0, tiny, 3 * tiny, 1.0, 1.9, 2.0, 2.1, -1.9, -2.0, -30.0]],
            dtype=torch.float64,
        )
        x = numbers.to(dtype).requires_grad_()
        u = x.detach().double()
        low = {"linear": 1.0, "relu": 0.0, "lrelu": 0.25}[act] * gain
        slope = torch.where(u > 0, gain, low).to(dtype)
        v = u * slope.double()
        for clamp in (None, 2.0):
            # What is no more than a rounding from the limit counts as at it.
            rounded = v.to(dtype).double()
            expected = slope if clamp is None else slope.where(rounded.abs() < clamp, 0)
            (g,) = torch.autograd.grad(op(x, None, act, 0.25, gain, clamp).sum(), x)
            assert torch.equal(g, expected), (gain, clamp)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("clamp", [0.7, 1 / 3, 255.9])
def test_a_clamp_that_the_dtype_rounds(op, dtype: torch.dtype, clamp: float) -> None:
    x = torch.tensor([[-1e3, -clamp / 4, clamp / 4, 1e3]]).to(dtype).requires_grad_()
    y = op(x, None, "linear", 0.2, 1.0, clamp)
    limit = torch.tensor(clamp).to(dtype)
    assert y[0, 0] == -limit and y[0, 3] == limit
    (g,) = torch.autograd.grad(y.sum(), x)
    assert g.tolist() == [[0.0, 1.0, 1.0, 0.0]]


@BOTH
@pytest.mark.parametrize("clamp", [None, 5.0])
def test_nan_and_infinity(op, clamp: float | None) -> None:
    x = torch.tensor([[math.nan, math.inf, -math.inf, 1.0]]).repeat(5, 9)
    b = torch.zeros(36)
    top = math.inf if clamp is None else clamp
    for act, low in (("linear", -top), ("lrelu", -top), ("relu", 0.0)):
        y = op(x, b, act, 0.5, 1.0, clamp)
        assert y[:, ::4].isnan().all()
        assert (y[:, 1::4] == top).all() and (y[:, 2::4] == low).all() and (y[:, 3::4] == 1).all()


# --- threads, large tensors ---------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bits_do_not_depend_on_the_number_of_threads(memory_format: torch.memory_format) -> None:
    x = randn(3, 24, 130, 77, dtype=torch.float32).contiguous(memory_format=memory_format)
    b = randn(24, dtype=torch.float32, seed=1)
    y = native(x, b, "lrelu", 0.2, 1.4, 2.0)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append(
                (
                    native(x, b, "lrelu", 0.2, 1.4, 2.0),
                    *torch.ops.sdd_fast.bias_act_backward(x, y, 2, 0.2, 1.4, 2.0, True),
                )
            )
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


LARGE = """
#include "bias_act/bias_act_kernel.h"
namespace sdd { void bias_act_portable(const BiasActRows&, int64_t, int64_t); }
int main() {
  using namespace sdd;
  const int64_t shapes[][3] = {{3, 5, 1000000007}, {2, 1, 3000000001}, {5000000029, 1, 1},
                               {1000000007, 3, 1}};  // outer, channels, inner
  for (const auto& s : shapes) {
    const bool inside = s[2] == 1 && s[1] > 1;
    const int64_t numel = s[0] * s[1] * s[2];
    float *x = reserve(numel), *y = reserve(numel), *g = reserve(numel);
    const float bias[5] = {1, 2, 3, 4, 5};
    BiasActRows c{};
    c.x = x; c.bias = bias; c.out = y;
    c.element = Element::kFloat32;
    c.activation = {Act::kLrelu, 2, 0.5, __builtin_nan("")};
    c.numel = numel; c.channels = s[1]; c.row_bias = !inside;
    c.length = inside ? s[1] : s[1] == 1 ? numel : s[2];
    const int64_t tasks = bias_act_tasks(numel, c.length);
    for (int64_t i = numel - 5; i < numel; ++i) x[i] = -8;
    bias_act_portable(c, tasks - 1, tasks);
    c.bias = nullptr; c.x = x; c.y = y; c.out = g;
    bias_act_portable(c, tasks - 1, tasks);
    for (int64_t i = numel - 5; i < numel; ++i) {
      const float b = bias[inside ? i % s[1] : i / s[2] % s[1]];
      if (y[i] != -8 + b || g[i] != -8) {
        std::printf("numel %lld, %lld from the end: %g, %g\\n", (long long)numel,
                    (long long)(numel - i), y[i], g[i]);
        return 1;
      }
    }
    munmap(x, numel * 4); munmap(y, numel * 4); munmap(g, numel * 4);
  }
}
"""


def test_more_elements_than_32_bits_count(tmp_path: Path) -> None:
    """The kernel itself, on the last task of tensors of up to 15 billion elements."""
    run_on_reserved("bias_act", LARGE, tmp_path)


# --- gradients, compile, autocast ---------------------------------------------------------------


@WITH_GRADIENTS
@ACTS
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 2, 2), (1, 2, 17)], ids=str)
def test_gradcheck_and_gradgradcheck(op, act: str, shape: tuple[int, ...]) -> None:
    x = randn(*shape, seed=1).requires_grad_()  # no entry near a kink
    b = randn(shape[1], seed=2).requires_grad_()
    for clamp in (None, 1.5):
        assert torch.autograd.gradcheck(lambda x, b: op(x, b, act, 0.3, 1.2, clamp), (x, b))  # noqa: B023
        assert torch.autograd.gradgradcheck(lambda x, b: op(x, b, act, 0.3, 1.2, clamp), (x, b))  # noqa: B023
    assert torch.autograd.gradcheck(lambda x: op(x, None, act, 0.3, 1.2, 1.5), x)


@pytest.mark.parametrize("n", [1, 10, 16384])
def test_gradients_of_any_size(n: int) -> None:
    x = randn(2, 3, n, dtype=torch.float32).requires_grad_()
    b = randn(3, dtype=torch.float32, seed=1).requires_grad_()
    expected = epilogue_reference(x, None, None, b, "lrelu", 0.2, 2**0.5, 1.0)
    gx, gb = torch.autograd.grad(bias_act(x, b, clamp=1.0).sum(), (x, b))
    assert relative_error(gx, expected.x) <= 1e-6 and relative_error(gb, expected.bias) <= 1e-6


def test_under_torch_func_and_in_a_trace() -> None:
    x, b = randn(2, 3, 4), randn(3, seed=1)

    def loss(x: Tensor, b: Tensor) -> Tensor:
        return bias_act(x, b, "lrelu", 0.3, 1.2, 1.0).square().sum()

    expected = torch.autograd.grad(loss(x.requires_grad_(), b.requires_grad_()), (x, b))
    for mine, other in zip(torch.func.grad(loss, (0, 1))(x, b), expected, strict=True):
        torch.testing.assert_close(mine, other)
    traced = torch.jit.trace(loss, (x, b))
    assert "PythonOp" not in str(traced.graph)
    torch.testing.assert_close(traced(2 * x, b), loss(2 * x, b))


@WITH_GRADIENTS
def test_only_the_result_is_kept_for_the_backward_pass(op) -> None:
    saved: list[Tensor] = []
    x, b = randn(2, 3, 40), randn(3, seed=1)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = op(x.requires_grad_(), b.requires_grad_(), "lrelu", 0.2, 1.4, None)
    if op is not bias_act_ref and NATIVE.path is not None:
        assert [t.data_ptr() for t in saved] == [y.data_ptr()]
    assert y.requires_grad


@needs_native
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_opcheck(requires_grad: bool, memory_format: torch.memory_format) -> None:
    x = randn(2, 3, 4, 5).contiguous(memory_format=memory_format).requires_grad_(requires_grad)
    b = randn(3, seed=1).requires_grad_(requires_grad)
    for bias in (b, None):
        torch.library.opcheck(torch.ops.sdd_fast.bias_act, (x, bias, 2, 0.2, 1.4, 1.0))
    backward = torch.ops.sdd_fast.bias_act_backward
    for b_grad in (True, False):
        torch.library.opcheck(backward, (x, x.detach(), 2, 0.2, 1.4, None, b_grad))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compile_fullgraph_forward_and_backward(dtype: torch.dtype) -> None:
    compiled = torch.compile(bias_act, fullgraph=True, backend="aot_eager")
    results = []
    for function in (bias_act, compiled):
        x = randn(2, 3, 5, 7, dtype=dtype).requires_grad_()
        b = randn(3, dtype=dtype, seed=1).requires_grad_()
        y = function(x, b, clamp=1.0)
        y.square().sum().backward()
        results.append((y, x.grad, b.grad))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_autocast() -> None:
    """Features come in autocast's dtype, the bias is a float32 parameter."""
    x, b = torch.randn(2, 3, 5).bfloat16(), torch.randn(3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = bias_act(x, b)
    assert torch.equal(y, bias_act(x, b.bfloat16()))
    y.sum().backward()
    assert b.grad is not None and b.grad.dtype == torch.float32


def test_meta_tensors() -> None:
    y = bias_act(torch.empty(2, 3, 5, device="meta"), torch.empty(3, device="meta"))
    assert y.device.type == "meta" and y.shape == (2, 3, 5)


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3)}, r"at least 2 dimensions, got \[3\]"),
        ({"x": torch.zeros(2, 3), "b": torch.zeros(2)}, r"shape \[3\].*got \[2\]"),
        ({"x": torch.zeros(2, 3), "b": torch.zeros(3, device="meta")}, "b is on meta but x on cpu"),
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
    with pytest.raises(TypeError, match="b must be a floating point tensor, got list"):
        bias_act(torch.zeros(2, 3), [0.0] * 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"b is torch\.float64 but x is torch\.float32"):
        bias_act(torch.zeros(2, 3), torch.zeros(3, dtype=torch.float64))


@needs_native
def test_the_native_side_checks_again() -> None:
    x, b = torch.zeros(2, 3, 4), torch.zeros(3)
    good = (x, b, 2, 0.2, 1.4, 1.0)
    bad = {
        0: [x[0, 0], x.int(), torch.zeros(2, 4)],
        1: [b[:2], b.double(), x],
        2: [3, -1],
        3: [-0.1, math.nan],
        4: [0.0, math.inf, math.nan],
        5: [0.0, -1.0, math.nan],
    }
    for position, values in bad.items():
        for value in values:
            arguments = [*good[:position], value, *good[position + 1 :]]
            with pytest.raises(RuntimeError, match="bias_act"):
                torch.ops.sdd_fast.bias_act(*arguments)
    for grad, y in ((x[:1], x), (x.double(), x), (x.int(), x.int()), (b, b)):
        with pytest.raises(RuntimeError, match="bias_act_backward"):
            torch.ops.sdd_fast.bias_act_backward(grad, y, 2, 0.2, 1.4, 1.0, True)
