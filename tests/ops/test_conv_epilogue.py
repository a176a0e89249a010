"""conv_epilogue against its definition in float64, and the contract every op has."""

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

from sdd_fast.ops import conv_epilogue, conv_epilogue_ref
from sdd_fast.ops._register import NATIVE

CODES = {"linear": 0, "relu": 1, "lrelu": 2}
ACTS = pytest.mark.parametrize("act", list(CODES))
DTYPES = pytest.mark.parametrize("dtype", list(FEATURE_TOLERANCE))
needs_native = pytest.mark.skipif(NATIVE.path is None, reason="native kernels: " + NATIVE.missing)


def native(
    x: Tensor,
    factor: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """The op itself, with the gradient that the dispatcher knows."""
    arguments = (x, factor, noise, bias, CODES[act], alpha, gain, clamp)
    return torch.ops.sdd_fast.conv_epilogue(*arguments)


BOTH = pytest.mark.parametrize("op", [pytest.param(native, marks=needs_native), conv_epilogue_ref])
WITH_GRADIENTS = pytest.mark.parametrize(  # `conv_epilogue` has a shorter way to them than the op
    "op", [pytest.param(native, marks=needs_native), conv_epilogue, conv_epilogue_ref]
)


def inputs(
    shape: tuple[int, ...], noise_batch: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    """x, factor, noise, bias"""
    rng = torch.Generator().manual_seed(seed)
    shapes = [shape, shape[:2], (noise_batch, 1, *shape[2:]), shape[1:2]]
    return [torch.randn(s, generator=rng, dtype=torch.float64).to(dtype) for s in shapes]


def layouts(x: Tensor) -> list[Tensor]:
    sliced = torch.stack([x, x], -1)[..., 0]
    return [x, x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT, sliced]


# --- the definition -----------------------------------------------------------------------------

SHAPES = [
    (1, 1, 1, 1), (2, 3, 5, 7), (1, 40, 9, 9), (3, 130, 4, 4), (2, 5, 40, 41), (1, 70, 33, 33),
    (1, 513, 3, 2), (0, 3, 4, 4), (2, 0, 3, 3), (2, 3, 0, 3),
]  # fmt: skip


@BOTH
@ACTS
@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_definition(op, act: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tolerance = FEATURE_TOLERANCE[dtype] * (4 if op is conv_epilogue_ref else 1)
    for noise_batch in {1, shape[0]}:
        first, *others = inputs(shape, noise_batch, dtype)
        arranged = layouts(first)
        for clamp, some in ((None, others), (0.75, others), (0.75, [None, None, others[2]])):
            expected = epilogue_reference(first, *some, act, 0.3, 1.25, clamp)
            for x in arranged:
                y = op(x, *some, act, 0.3, 1.25, clamp)
                assert y.dtype == dtype
                assert relative_error(y, expected.y, expected.magnitude) <= tolerance
                if op is native and x.numel():
                    channels_last = x is not first and x.stride(1) == 1 < shape[1]
                    layout = torch.channels_last if channels_last else torch.contiguous_format
                    assert y.is_contiguous(memory_format=layout)


@BOTH
@ACTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients(op, act: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tolerance = 4 * FEATURE_TOLERANCE[dtype]
    grad = inputs(shape, 1, dtype, seed=1)[0]
    for noise_batch in {1, shape[0]}:
        first, *others = inputs(shape, noise_batch, dtype)
        expected = epilogue_reference(first, *others, act, 0.3, 1.25, 0.75, grad)
        for x in layouts(first):
            leaves = [t.detach().requires_grad_() for t in (x, *others)]
            y = op(*leaves, act, 0.3, 1.25, 0.75)
            gx, gf, gn, gb = torch.autograd.grad(y, leaves, grad)
            assert relative_error(gx, expected.x) <= tolerance
            # Sums: relative to what is added up.
            wide = grad.double().numpy()
            largest = 1.25 * max(np.abs(wide).max(initial=0), 1e-9)
            values = np.abs(first.double().numpy()).max(initial=0)
            pixels = shape[2] * shape[3]
            assert relative_error(gf, expected.factor, largest * values * pixels) <= tolerance
            assert relative_error(gn, expected.noise, largest * shape[1] * shape[0]) <= tolerance
            assert relative_error(gb, expected.bias, largest * shape[0] * pixels) <= tolerance


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 3),
    channels=st.integers(0, 150),
    height=st.integers(0, 20),
    width=st.integers(0, 20),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    step=st.integers(1, 2),
    act=st.sampled_from(list(CODES)),
    dtype=st.sampled_from(list(FEATURE_TOLERANCE)),
    clamp=st.sampled_from([None, 0.5, 256.0]),
    present=st.tuples(*[st.booleans()] * 3),
    shared_noise=st.booleans(),
    narrow_factor=st.booleans(),
)
def test_any_tensors(
    n, channels, height, width, memory_format, step, act, dtype, clamp, present, shared_noise,
    narrow_factor,
) -> None:  # fmt: skip
    shape = (n * step, channels, height, width * step)
    x, factor, noise, bias = inputs(shape, 1 if shared_noise else shape[0], dtype)
    x = x.contiguous(memory_format=memory_format)[::step, :, :, ::step]
    factor, noise = factor[::step], noise[:: 1 if shared_noise else step, :, :, ::step]
    if not narrow_factor and dtype != torch.float64:
        factor = factor.float()
    some = [t if p else None for t, p in zip((factor, noise, bias), present, strict=True)]
    y = conv_epilogue(x, *some, act, 0.2, 1.5, clamp)
    expected = epilogue_reference(x, *some, act, 0.2, 1.5, clamp)
    slack = 1 if NATIVE.path is not None else 4  # the reference rounds after every step
    assert relative_error(y, expected.y, expected.magnitude) <= FEATURE_TOLERANCE[dtype] * 2 * slack


@needs_native
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_gradients_keep_their_direction(dtype: torch.dtype) -> None:
    x, factor, noise, bias = inputs((2, 24, 17, 19), 1, dtype)
    leaves = [t.requires_grad_() for t in (x, factor.float(), noise, bias)]
    grad = inputs((2, 24, 17, 19), 1, dtype, seed=1)[0]
    expected = epilogue_reference(x, factor, noise, bias, "lrelu", 0.2, 1.4, 2.0, grad)
    actual = torch.autograd.grad(native(*leaves, "lrelu", 0.2, 1.4, 2.0), leaves, grad)
    wanted = (expected.x, expected.factor, expected.noise, expected.bias)
    for leaf, g, w in zip(leaves, actual, wanted, strict=True):
        assert g.dtype == leaf.dtype and w is not None
        w = torch.from_numpy(np.ascontiguousarray(w))
        assert torch.cosine_similarity(g.double().flatten(), w.flatten(), 0) > 1 - 1e-5
        assert (g.double() - w).mean().abs() <= 1e-2 * w.abs().mean()


# --- kinks, ends of the range -------------------------------------------------------------------


@BOTH
@ACTS
@DTYPES
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_slopes_at_the_kinks(op, act: str, dtype: torch.dtype, memory_format) -> None:
    """u = 4 * x + 1 - 1, exactly: zero, the limit, and their neighbors."""
    eps = torch.finfo(dtype).eps
    numbers = torch.tensor(
        [0.0, eps, -eps, 0.25, 0.5 - eps, 0.5, 0.5 + eps, -0.5, -1.0, 3.0], dtype=torch.float64
    )
    x = numbers.to(dtype).reshape(1, 1, 2, 5).repeat(1, 17, 1, 1)
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    factor = torch.full((1, 17), 4.0, dtype=dtype)
    noise, bias = torch.ones(1, 1, 2, 5, dtype=dtype), -torch.ones(17, dtype=dtype)
    u = 4 * x.detach().double()
    if op is conv_epilogue_ref:  # which rounds 4 x + 1
        u = ((4 * x.detach() + 1) - 1).double()
    low = {"linear": 1.0, "relu": 0.0, "lrelu": 0.25}[act]
    for clamp in (None, 2.0):
        slope = torch.where(u > 0, 1.0, low)
        expected = slope if clamp is None else slope.where((u * slope).abs() < clamp, 0)
        y = op(x, factor, noise, bias, act, 0.25, 1.0, clamp)
        (g,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(g.double(), 4 * expected)


@BOTH
def test_nan_and_infinity(op) -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 1.0]).reshape(1, 1, 2, 2).repeat(2, 20, 5, 5)
    factor, bias = torch.full((2, 20), 2.0), torch.ones(20)
    for act, low in (("linear", -9.0), ("lrelu", -9.0), ("relu", 0.0)):
        y = op(x, factor, None, bias, act, 0.5, 1.0, 9.0)
        assert torch.equal(y.isnan(), x.isnan())
        for value, result in ((math.inf, 9.0), (-math.inf, low), (1.0, 3.0)):
            assert (y[x == value] == result).all()


def test_in_place_where_the_caller_allows_it() -> None:
    """What modulated_conv2d does without gradients; and never with them."""
    from sdd_fast.ops.conv_epilogue import conv_epilogue_unchecked

    for memory_format in (torch.contiguous_format, torch.channels_last):
        x, factor, noise, bias = inputs((2, 20, 9, 9), 1, torch.float32)
        x = x.contiguous(memory_format=memory_format)
        expected = conv_epilogue(x, factor, noise, bias, "lrelu", clamp=1.0)
        before = x.clone()
        y = conv_epilogue_unchecked(
            x, factor.requires_grad_(), noise, bias, ("lrelu", 0.2, 2**0.5, 1.0), may_overwrite=True
        )
        assert torch.equal(x, before) and y.requires_grad
        with torch.no_grad():
            y = conv_epilogue_unchecked(
                x, factor, noise, bias, ("lrelu", 0.2, 2**0.5, 1.0), may_overwrite=True
            )
        torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
        if NATIVE.path is not None:
            assert torch.equal(y, expected) and y.data_ptr() == x.data_ptr()


# --- threads, large tensors ---------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bits_do_not_depend_on_the_number_of_threads(memory_format: torch.memory_format) -> None:
    x, *others = inputs((3, 40, 70, 61), 1, torch.float32)
    x = x.contiguous(memory_format=memory_format)
    arguments = (x, *others, 2, 0.2, 1.4, 2.0)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            y = torch.ops.sdd_fast.conv_epilogue(*arguments)
            backward = torch.ops.sdd_fast.conv_epilogue_backward
            results.append((y, *backward(y, *arguments, True, True, True)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


LARGE = """
#include "conv_epilogue/conv_epilogue_kernel.h"
namespace sdd { void conv_epilogue_portable(const EpilogueTasks&, int64_t, int64_t); }
int main() {
  using namespace sdd;
  const int64_t shapes[][3] = {{3, 5, 1000000007}, {2, 1, 3000000001}, {500000003, 3, 7}};
  for (const auto& s : shapes) {
    for (int last = 0; last < 2; ++last) {
      const int64_t numel = s[0] * s[1] * s[2];
      float *x = reserve(numel), *y = reserve(numel), *g = reserve(numel);
      float *factor = reserve(s[0] * s[1]), *noise = reserve(s[0] * s[2]);
      const float bias[5] = {1, 2, 3, 4, 5};
      Epilogue c{};
      c.x = x; c.noise = noise; c.out = y;
      c.element = Element::kFloat32;
      c.activation = {Act::kLinear, 1, 0, __builtin_nan("")};
      c.samples = s[0]; c.channels = s[1]; c.pixels = s[2]; c.noise_stride = s[2];
      const EpilogueOrder order =
          last ? EpilogueOrder::kPixelsChannelsLast : EpilogueOrder::kRows;
      const EpilogueTasks t{c, factor, bias, nullptr, nullptr, nullptr, order};
      const int64_t tasks = epilogue_tasks(t);
      const int64_t sample = s[0] - 1, pixel = s[2] - 1;
      noise[sample * s[2] + pixel] = 100;
      for (int64_t o = 0; o < s[1]; ++o) {
        x[last ? (sample * s[2] + pixel) * s[1] + o : (sample * s[1] + o) * s[2] + pixel] = 7;
        factor[sample * s[1] + o] = o + 2;
      }
      for (int back = 0; back < 2; ++back) {
        for (int64_t o = 0; o < s[1]; ++o) {  // the task of the last pixel of each channel
          const int64_t group = (sample * s[1] + o) / epilogue_group(t);
          const int64_t task = last ? tasks - 1 : (group + 1) * epilogue_runs(t) - 1;
          conv_epilogue_portable(t, task, task + 1);
        }
        c.grad = x; c.out = g;
      }
      for (int64_t o = 0; o < s[1]; ++o) {
        const int64_t at =
            last ? (sample * s[2] + pixel) * s[1] + o : (sample * s[1] + o) * s[2] + pixel;
        if (y[at] != 7 * (o + 2) + 100 + bias[o] || g[at] != 7 * (o + 2)) {
          std::printf("numel %lld, channel %lld: %g, %g\\n", (long long)numel, (long long)o, y[at],
                      g[at]);
          return 1;
        }
      }
      munmap(x, numel * 4); munmap(y, numel * 4); munmap(g, numel * 4);
      munmap(factor, s[0] * s[1] * 4); munmap(noise, s[0] * s[2] * 4);
    }
  }
}
"""


def test_more_elements_than_32_bits_count(tmp_path: Path) -> None:
    """The kernel itself, on the last task of tensors of up to 15 billion elements."""
    run_on_reserved("conv_epilogue", LARGE, tmp_path)


# --- gradients, compile, autocast ---------------------------------------------------------------


@WITH_GRADIENTS
@ACTS
@pytest.mark.parametrize("noise_batch", [1, 2])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradcheck_and_gradgradcheck(op, act: str, noise_batch: int, memory_format) -> None:
    x, *others = inputs((2, 3, 2, 2), noise_batch, seed=3)  # no entry near a kink
    tensors = [x.contiguous(memory_format=memory_format), *others]
    tensors = [t.requires_grad_() for t in tensors]
    for clamp in (None, 1.5):

        def function(*tensors: Tensor, clamp: float | None = clamp) -> Tensor:
            return op(*tensors, act, 0.3, 1.2, clamp)

        assert torch.autograd.gradcheck(function, tensors)
        assert torch.autograd.gradgradcheck(function, tensors)


@WITH_GRADIENTS
@pytest.mark.parametrize("present", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 1, 0)])
@pytest.mark.parametrize("frozen", [None, 0, 1])
def test_missing_and_frozen_tensors(op, present: tuple[int, ...], frozen: int | None) -> None:
    tensors = [t for t, p in zip(inputs((2, 3, 2, 2), 1, seed=3), (1, *present), strict=True) if p]
    leaves = [t.requires_grad_(i != frozen) for i, t in enumerate(tensors)]

    def function(*tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        x, factor, noise, bias = (next(rest) if p else None for p in (1, *present))
        return op(x, factor, noise, bias, "lrelu", 0.3, 1.2, None)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)
    assert all((t.grad is None) for t in leaves)
    function(*leaves).sum().backward()
    assert [t.grad is not None for t in leaves] == [t.requires_grad for t in leaves]


@pytest.mark.parametrize("side", [1, 3, 128])
def test_gradients_of_any_size(side: int) -> None:
    leaves = [t.requires_grad_() for t in inputs((2, 3, side, side), 1, torch.float32)]
    expected = epilogue_reference(*leaves, "lrelu", 0.2, 2**0.5, None)
    y = conv_epilogue(*leaves, act="lrelu")
    gx, gf, gn, gb = torch.autograd.grad(y.sum(), leaves)
    assert relative_error(gx, expected.x) <= 1e-6
    assert relative_error(gf, expected.factor, side * side) <= 1e-6
    assert relative_error(gn, expected.noise) <= 1e-6
    assert relative_error(gb, expected.bias, side * side) <= 1e-6


@needs_native
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_opcheck(requires_grad: bool, memory_format: torch.memory_format) -> None:
    ops = torch.ops.sdd_fast
    x, *others = inputs((2, 3, 4, 5), 1)
    tensors = [x.contiguous(memory_format=memory_format), *others]
    tensors = [t.requires_grad_(requires_grad) for t in tensors]
    torch.library.opcheck(ops.conv_epilogue, (*tensors, 2, 0.2, 1.4, 1.0))
    torch.library.opcheck(ops.conv_epilogue, (tensors[0], None, None, None, 2, 0.2, 1.4, None))
    grad = tensors[0].detach().clone().requires_grad_(requires_grad)
    wanted = (True, True, True)
    torch.library.opcheck(ops.conv_epilogue_backward, (grad, *tensors, 2, 0.2, 1.4, 1.0, *wanted))
    if not requires_grad:
        torch.library.opcheck(ops.conv_epilogue_, (*tensors, 2, 0.2, 1.4, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compile_fullgraph_forward_and_backward(dtype: torch.dtype) -> None:
    compiled = torch.compile(conv_epilogue, fullgraph=True, backend="aot_eager")
    results = []
    for function in (native_or_ref, compiled):
        leaves = [t.requires_grad_() for t in inputs((2, 3, 5, 7), 1, dtype)]
        y = function(*leaves, "lrelu", 0.2, 1.4, 1.0)
        y.square().sum().backward()
        results.append((y, *[t.grad for t in leaves]))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def native_or_ref(*arguments) -> Tensor:
    return (native if NATIVE.path is not None else conv_epilogue_ref)(*arguments)


def test_autocast() -> None:
    """Features come in autocast's dtype; noise and bias are float32 parameters."""
    x, factor, noise, bias = inputs((2, 3, 4, 4), 1, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv_epilogue(x.bfloat16(), factor, noise, bias, "lrelu")
    assert y.dtype == torch.bfloat16
    expected = conv_epilogue(x.bfloat16(), factor, noise.bfloat16(), bias.bfloat16(), "lrelu")
    assert torch.equal(y, expected)


# --- errors -------------------------------------------------------------------------------------

X, F, S, B = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3), torch.zeros(1, 1, 4, 5), torch.zeros(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": X[0]}, r"x must be \[N, O, H, W\], got \[3, 4, 5\]"),
        ({"factor": F[:1]}, r"factor must be \[N, O\] = \[2, 3\].*got \[1, 3\]"),
        ({"noise": S[..., :4]}, r"\[1 or 2, 1, 4, 5\], got \[1, 1, 4, 4\]"),
        ({"noise": X}, r"\[1 or 2, 1, 4, 5\], got \[2, 3, 4, 5\]"),
        ({"bias": B[:2]}, r"bias must be \[3\], got \[2\]"),
        ({"factor": F.to("meta")}, "factor is on meta but x on cpu"),
        ({"bias": B.to("meta")}, "bias is on meta but x on cpu"),
        ({"act": "swish"}, "act must be one of"),
        ({"gain": -1.0}, "gain must be a positive number"),
        ({"clamp": 0.0}, "clamp must be positive"),
    ],
)
def test_bad_values(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conv_epilogue(**{"x": X, "factor": F, "noise": S, "bias": B, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": [0.0]}, "x must be a floating point tensor, got list"),
        ({"noise": S.int()}, r"noise must be a floating point tensor, got torch\.int32"),
        ({"factor": F.double()}, r"factor is torch\.float64 but x is torch\.float32"),
        ({"x": X.double()}, r"factor is torch\.float32 but x is torch\.float64"),
        ({"bias": B.half()}, r"bias is torch\.float16 but x is torch\.float32"),
    ],
)
def test_bad_types(changes: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        conv_epilogue(**{"x": X, "factor": F, "noise": S, "bias": B, **changes})


@needs_native
def test_the_native_side_checks_again() -> None:
    ops = torch.ops.sdd_fast
    good = (X, F, S, B, 2, 0.2, 1.4, 1.0)
    bad = {
        0: [X[0], X.int(), X.double()],
        1: [F[0], F[:1], F.double()],
        2: [S[0], S.double(), S[..., :4], X],
        3: [B[:2], B.half(), F],
        4: [3, -1],
        5: [2.0],
        6: [0.0, math.inf],
        7: [0.0, math.nan],
    }
    for position, values in bad.items():
        for value in values:
            arguments = [*good[:position], value, *good[position + 1 :]]
            for op in (ops.conv_epilogue, ops.conv_epilogue_):
                with pytest.raises(RuntimeError, match="conv_epilogue"):
                    op(*arguments)
            with pytest.raises(RuntimeError, match="conv_epilogue_backward"):
                ops.conv_epilogue_backward(X, *arguments, True, True, True)
    with pytest.raises(RuntimeError, match="must be contiguous or channels_last"):
        ops.conv_epilogue_(torch.zeros(2, 3, 4, 10)[..., ::2], *good[1:])
    for grad in (X[:1], X.double(), X[0]):
        with pytest.raises(RuntimeError, match="grad must be like x"):
            ops.conv_epilogue_backward(grad, *good, True, True, True)
    with pytest.raises(RuntimeError, match="not there"):
        ops.conv_epilogue_backward(X, X, None, None, None, *good[4:], True, False, False)
