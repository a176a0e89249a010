"""group_norm_silu against the definition in extended precision, and the contract every op has."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from large_tensors import run_on_reserved
from op_cases import GROUP_NORM_TOLERANCE, group_norm_silu_reference, relative_error
from torch import Tensor

from sdd_fast.ops import group_norm_silu, group_norm_silu_ref
from sdd_fast.ops._register import NATIVE

DTYPES = pytest.mark.parametrize("dtype", list(GROUP_NORM_TOLERANCE), ids=lambda d: str(d)[6:])
needs_native = pytest.mark.skipif(NATIVE.path is None, reason="native kernels: " + NATIVE.missing)
EPS = 1e-3


def native(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = EPS, silu: bool = True
) -> Tensor:
    """The op itself, with the gradient that the dispatcher knows."""
    return torch.ops.sdd_fast.group_norm_silu(x, groups, weight, bias, eps, silu)[0]


BOTH = pytest.mark.parametrize(
    "op", [pytest.param(native, marks=needs_native), group_norm_silu_ref]
)


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0, mean: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, bias"""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=rng, dtype=torch.float64) + mean
    weight, bias = torch.randn(2, shape[1], generator=rng, dtype=torch.float64)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


def layouts(x: Tensor) -> dict[str, Tensor]:
    there = {"contiguous": x, "sliced": torch.stack([x, x], -1)[..., 0]}
    there["turned"] = x.transpose(0, 1).contiguous().transpose(0, 1)
    if x.ndim == 4:
        there["channels_last"] = x.contiguous(memory_format=torch.channels_last)
        there["cropped channels_last"] = F.pad(there["channels_last"], (1, 2))[..., 1:-2]
        there["planes turned"] = x.mT.contiguous().mT
    return there


def check(
    op, x: Tensor, groups: int, weight: Tensor, bias: Tensor, silu: bool, tolerance: float
) -> None:
    """The result and the gradient, of x and cotangents in every layout."""
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    right = group_norm_silu_reference(x, groups, weight, bias, EPS, silu, grad)
    if op is group_norm_silu_ref and x.dtype.itemsize >= 4:
        tolerance *= 64  # as PyTorch computes it: scale x + offset, which cancel
    for layout, there in layouts(x).items():
        leaf = there.detach().requires_grad_()
        actual = op(leaf, groups, weight, bias, EPS, silu)
        assert actual.dtype == x.dtype
        assert relative_error(actual, right.y) <= tolerance, layout
        last = layout == "channels_last" and not there.is_contiguous()
        form = torch.channels_last if last else torch.contiguous_format
        assert actual.is_contiguous(memory_format=form), layout
        for other, g in layouts(grad).items():
            (back,) = torch.autograd.grad(actual, leaf, g, retain_graph=True)
            assert back.dtype == x.dtype
            error = relative_error(back, right.x_grad, right.magnitude)
            assert error <= tolerance, (layout, other)


# --- the definition -----------------------------------------------------------------------------

SHAPES = [  # blocks are of 1, 2 and 4 vectors of 2 to 16 channels or pixels, tiles of 32
    ((1, 1), 1), ((2, 6), 3), ((3, 4, 1), 2), ((1, 3, 1, 1), 3), ((2, 12, 5, 7), 3),
    ((1, 64, 3, 3), 32), ((2, 65, 9, 7), 5), ((1, 63, 8, 9), 63), ((1, 32, 8, 8), 1),
    ((1, 31, 65), 31), ((2, 4, 63), 1), ((1, 4, 257), 2), ((1, 130, 4, 16), 13),
    ((1, 8, 3, 4, 5), 4), ((0, 4, 3, 3), 2), ((2, 0, 3), 1), ((2, 4, 0, 3), 4),
]  # fmt: skip


@BOTH
@DTYPES
@pytest.mark.parametrize("silu", [True, False], ids=["silu", "plain"])
@pytest.mark.parametrize(("shape", "groups"), SHAPES, ids=str)
def test_definition(
    op, dtype: torch.dtype, shape: tuple[int, ...], groups: int, silu: bool
) -> None:
    x, weight, bias = inputs(shape, dtype)
    check(op, x, groups, weight, bias, silu, GROUP_NORM_TOLERANCE[dtype])


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=4).filter(
        lambda s: math.prod(s) < 20_000
    ),
    groups=st.integers(1, 9),
    per_group=st.integers(1, 20),
    order=st.randoms(use_true_random=False),
    dtype=st.sampled_from(list(GROUP_NORM_TOLERANCE)),
    step=st.integers(1, 2),
)
def test_any_tensor(shape, groups, per_group, order, dtype, step) -> None:
    """Any shape, any order of dimensions in memory, dense or with gaps."""
    shape = [shape[0] % 3, groups * per_group, *shape[1:]]
    permutation = list(range(len(shape)))
    order.shuffle(permutation)
    inverse = [permutation.index(d) for d in range(len(shape))]
    base, weight, bias = inputs(tuple([shape[d] * step for d in permutation]), dtype)
    x = base[tuple(slice(None, None, step) for _ in shape)].permute(inverse)
    weight, bias = torch.randn(2, shape[1], generator=torch.Generator().manual_seed(1)).to(dtype)
    right = group_norm_silu_reference(x, groups, weight, bias, EPS, True)
    actual = group_norm_silu(x, groups, weight, bias, EPS)
    assert relative_error(actual, right.y) <= GROUP_NORM_TOLERANCE[dtype]


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_parameters_beside_16_bits(op, dtype: torch.dtype) -> None:
    x, weight, bias = inputs((2, 12, 5, 7), dtype)
    weight, bias = weight.float() * 1.001, bias.float() * 1.001  # no 16-bit numbers
    check(op, x, 3, weight, bias, True, GROUP_NORM_TOLERANCE[dtype])
    mixed = group_norm_silu(x, 3, weight, bias.to(dtype), EPS)
    right = group_norm_silu_reference(x, 3, weight, bias.to(dtype), EPS, True)
    assert relative_error(mixed, right.y) <= GROUP_NORM_TOLERANCE[dtype]


@needs_native
@pytest.mark.parametrize(
    ("dtype", "mean"),
    [(torch.float32, 3e4), (torch.float16, 64.0), (torch.bfloat16, 64.0)],
    ids=str,
)
def test_a_mean_far_from_zero(dtype: torch.dtype, mean: float) -> None:
    """No digit is lost of what the elements tell: nor where one of the first stands out."""
    x, weight, bias = inputs((2, 12, 17, 19), dtype, mean=mean)
    x[0, 0, 0, 0] += 50
    check(native, x, 3, weight, bias, True, GROUP_NORM_TOLERANCE[dtype])


@needs_native
@DTYPES
def test_constant_groups(dtype: torch.dtype) -> None:
    x, weight, bias = inputs((2, 8, 5, 5), dtype)
    y = native(torch.full_like(x, 1.7), 4, weight, bias)
    expected = F.silu(bias.double())[None, :, None, None].expand(x.shape)
    assert relative_error(y, expected.numpy()) <= GROUP_NORM_TOLERANCE[dtype]


@BOTH
@DTYPES
def test_saturation(op, dtype: torch.dtype) -> None:
    """Far below zero the SiLU and its slope are 0, far above it is the identity."""
    x, weight, _ = inputs((1, 32, 3, 3), dtype)
    for far in (-200.0, -90.0, 90.0, 200.0):
        leaf = x.clone().requires_grad_()
        y = op(leaf, 1, weight, torch.full_like(weight, far))
        (g,) = torch.autograd.grad(y.sum(), leaf)
        if far < 0:
            assert max(y.abs().max(), g.abs().max()).double() < 1e-30
        else:
            plain = op(x, 1, weight, torch.full_like(weight, far), silu=False)
            torch.testing.assert_close(y, plain, rtol=4 * torch.finfo(dtype).eps, atol=0.0)


@needs_native
@DTYPES
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_nan_and_infinity_stay_in_their_group(dtype: torch.dtype, layout: str) -> None:
    x, weight, bias = inputs((2, 12, 9, 11), dtype)
    clean = native(layouts(x)[layout], 3, weight, bias)
    for bad in (math.nan, math.inf, -math.inf):
        for place in ((0, 4, 0, 0), (0, 7, 8, 10)):
            there = x.clone()
            there[place] = bad
            y = native(layouts(there)[layout], 3, weight, bias)
            assert y[0, 4:8].isnan().all()
            others = torch.ones_like(y, dtype=torch.bool)
            others[0, 4:8] = False
            assert torch.equal(y[others], clean[others])


# Largest error of the sigmoid of a 16-bit element, relative to itself: that of the exponential and
# of the reciprocal, csrc/group_norm_silu/silu_cpu.h.
SHORT_SIGMOID = {torch.bfloat16: 2.0**-12.5, torch.float16: 2.0**-17}


@needs_native
@pytest.mark.parametrize("dtype", list(SHORT_SIGMOID), ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_each_16_bit_element_is_rounded_once(dtype: torch.dtype, layout: str) -> None:
    """Beside its rounding it is wrong by the error of the short sigmoid: also far below zero."""
    x, _, _ = inputs((2, 96, 9, 11), dtype)
    weight, bias = torch.ones(96).to(dtype), torch.linspace(-14, 10, 96).to(dtype)
    y = native(layouts(x)[layout], 2, weight, bias)
    right = group_norm_silu_reference(x, 2, weight, bias, EPS, True).y
    digits, smallest = (8, -133) if dtype == torch.bfloat16 else (11, -24)
    unit = np.exp2(np.maximum(np.frexp(right)[1] - digits, smallest))
    error = np.abs(y.double().numpy() - right)
    limit = unit / 2 + np.abs(right) * SHORT_SIGMOID[dtype] + 2.0**-19 * np.abs(right).clip(1e-3)
    assert (error <= limit).all(), float((error / limit).max())


@needs_native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:])
def test_without_silu_16_bits_are_those_of_float32_rounded(dtype: torch.dtype) -> None:
    """To the nearest, ties to even, and NaN stays NaN: in whole vectors and what is left of one."""
    x, weight, bias = inputs((3, 70, 5, 7), dtype)
    x[1, 3, 2, 2] = math.nan
    for layout in ("contiguous", "channels_last"):
        there, of = layouts(x)[layout], {}
        for kind in (dtype, torch.float32):
            leaf = there.to(kind).requires_grad_()
            y = native(leaf, 5, weight.float(), bias.float(), silu=False)
            (back,) = torch.autograd.grad(y, leaf, there.to(kind).flip(0))
            of[kind] = y, back
        for actual, wide in zip(of[dtype], of[torch.float32], strict=True):
            torch.testing.assert_close(
                actual, wide.to(dtype), rtol=0, atol=0, equal_nan=True, msg=layout
            )


# --- threads, large tensors ---------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bits_do_not_depend_on_the_number_of_threads(memory_format: torch.memory_format) -> None:
    x, weight, bias = inputs((3, 24, 130, 77), torch.float32)
    x = x.contiguous(memory_format=memory_format)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            y, *s = torch.ops.sdd_fast.group_norm_silu(x, 4, weight, bias, EPS, True)
            back = torch.ops.sdd_fast.group_norm_silu_backward(y, x, *s, weight, bias, True)
            results.append((y, *s, back))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


LARGE = """
#include "group_norm_silu/group_norm_silu_kernel.h"
namespace sdd {
void group_norm_moments_portable(const GroupNormTasks&, int64_t, int64_t);
void group_norm_silu_portable(const GroupNormTasks&, int64_t, int64_t);
void group_norm_silu_sums_portable(const GroupNormTasks&, int64_t, int64_t);
void group_norm_silu_gradient_portable(const GroupNormTasks&, int64_t, int64_t);
}
int main() {
  using namespace sdd;
  // samples, channels, pixels
  const int64_t shapes[][3] = {{2, 4, 1000000007}, {3, 1, 3000000001}};
  for (const auto& s : shapes) {
    for (int inside = 0; inside < 2; ++inside) {
      const int64_t numel = s[0] * s[1] * s[2], last = numel - 1, rows = s[0] * s[1];
      float *x = reserve(numel), *y = reserve(numel), *of_channel = reserve(3 * rows);
      GroupNorm c{};
      c.x = x; c.grad = x; c.out = y; c.element = Element::kFloat32;
      c.channels_inside = inside == 1;
      c.samples = s[0]; c.channels = s[1]; c.pixels = s[2]; c.groups = 1; c.cotangents = 1;
      float *shift = of_channel, *scale = shift + rows, *zero = scale + rows;
      scale[rows - 1] = 2;
      shift[rows - 1] = 1;
      x[last] = 3;
      const int64_t parts = group_norm_parts(c), tasks = group_norm_tasks(c);
      double* sums = reinterpret_cast<double*>(reserve(4 * s[0] * parts));
      GroupNormTasks t{c, shift, scale, zero, zero, scale, sums};
      const double *end = sums + 2 * (s[0] * parts - 1);
      group_norm_silu_portable(t, tasks - 1, tasks);
      const float forward = y[last];
      group_norm_silu_sums_portable(t, tasks - 1, tasks);
      const double u = end[1];
      group_norm_silu_gradient_portable(t, tasks - 1, tasks);
      const float backward = y[last];
      for (int64_t i = 0; i < rows; ++i) shift[i] = 0;
      group_norm_moments_portable(t, tasks - 1, tasks);
      if (forward != 4 || u != 12 || backward != 4 || end[0] != 3 || end[1] != 9) {
        std::printf("numel %lld: %g %g %g %g %g\\n", (long long)numel, forward, u, backward,
                    end[0], end[1]);
        return 1;
      }
      munmap(x, numel * 4); munmap(y, numel * 4);
    }
  }
}
"""


def test_more_elements_than_32_bits_count(tmp_path: Path) -> None:
    """The kernels themselves, on the last task of tensors of up to 9 billion elements."""
    run_on_reserved("group_norm_silu", LARGE, tmp_path)


# --- gradients, compile, autocast ---------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_batched_cotangents(layout: str) -> None:
    """One forward pass, many gradients, to the bits of one after the other."""
    x, weight, bias = inputs((2, 12, 5, 7), torch.float32)
    x = layouts(x)[layout].requires_grad_()
    y = group_norm_silu(x, 3, weight, bias)
    for batch in (1, 4):
        cotangents = torch.randn(batch, *y.shape, generator=torch.Generator().manual_seed(2))
        alone = [torch.autograd.grad(y, x, c, retain_graph=True)[0] for c in cotangents]
        (together,) = torch.autograd.grad(
            y, x, cotangents, is_grads_batched=True, retain_graph=True
        )
        torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=0)
        for dim in (1, 4):  # the batch elsewhere
            moved = torch.vmap(lambda c: torch.autograd.grad(y, x, c, retain_graph=True)[0], dim)
            assert torch.equal(moved(cotangents.movedim(0, dim)), together)


@needs_native
def test_what_is_kept_for_the_backward_pass() -> None:
    """x itself, the statistics of the groups and the parameters."""
    x, weight, bias = inputs((2, 12, 5, 7), torch.bfloat16)
    x = x.requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        group_norm_silu(x, 3, weight, bias)
    assert [t.data_ptr() for t in (kept[0], *kept[3:])] == [t.data_ptr() for t in (x, weight, bias)]
    assert [tuple(t.shape) for t in kept[1:3]] == [(2, 3)] * 2 and len(kept) == 5


@needs_native
def test_a_second_derivative_raises() -> None:
    x, weight, bias = inputs((1, 4, 3, 3))
    x = x.requires_grad_()
    for op in (native, group_norm_silu):
        (g,) = torch.autograd.grad(op(x, 2, weight, bias).sum(), x, create_graph=True)
        assert g.requires_grad
        with pytest.raises(RuntimeError, match=r"no second derivative; group_norm_silu_ref is"):
            torch.autograd.grad(g.sum(), x)
    y = group_norm_silu_ref(x, 2, weight, bias)
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.autograd.grad(g.square().sum(), x)


@needs_native
def test_the_dispatcher_gives_parameters_no_gradient() -> None:
    x, weight, bias = inputs((1, 4, 3, 3))
    y = native(x, 2, weight.requires_grad_(), bias)
    with pytest.raises(RuntimeError, match="weight and bias are constants"):
        y.sum().backward()


@needs_native
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "turned"])
def test_opcheck(requires_grad: bool, layout: str) -> None:
    x, weight, bias = inputs((2, 6, 5, 4), torch.float32)
    x = layouts(x)[layout].detach().requires_grad_(requires_grad)
    arguments = (x, 3, weight, bias, EPS, True)
    torch.library.opcheck(torch.ops.sdd_fast.group_norm_silu, arguments)
    y, mean, rstd = torch.ops.sdd_fast.group_norm_silu(x.detach(), *arguments[1:])
    back = (torch.cat([y, y]), x.detach(), mean, rstd, weight, bias, True)
    torch.library.opcheck(torch.ops.sdd_fast.group_norm_silu_backward, back)


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        (torch.float32, "channels_last"),
        (torch.bfloat16, "channels_last"),
        (torch.float32, "contiguous"),
    ],
)
def test_compile_fullgraph_forward_and_backward(dtype, layout: str) -> None:
    torch._dynamo.reset()

    def block(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return group_norm_silu(x * 2, 3, weight, bias) + 1

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x, weight, bias = inputs((2, 12, 5, 7), dtype)
    results = []
    for function in (block, compiled):
        leaf = layouts(x)[layout].detach().requires_grad_()
        y = function(leaf, weight, bias)
        y.square().sum().backward()
        assert y.stride() == leaf.stride()
        results.append((y, leaf.grad))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_autocast_leaves_the_precision_alone() -> None:
    """Features come in any dtype, the parameters are float32."""
    for dtype in (torch.float32, torch.bfloat16):
        x, weight, bias = inputs((2, 6, 5, 4), torch.float32)
        x = x.to(dtype)
        expected = group_norm_silu(x, 3, weight, bias)
        with torch.autocast("cpu", torch.bfloat16):
            y = group_norm_silu(x, 3, weight, bias)
            narrow = group_norm_silu(x, 3, weight.bfloat16(), bias.bfloat16())
        assert y.dtype == narrow.dtype == dtype
        assert torch.equal(y, expected)
        right = group_norm_silu(x, 3, weight.bfloat16().float(), bias.bfloat16().float())
        assert torch.equal(narrow, right)


def test_under_torch_func() -> None:
    x, weight, bias = inputs((3, 2, 6, 5))

    def total(x: Tensor) -> Tensor:
        return group_norm_silu(x, 3, weight, bias).sin().sum()

    leaf = x.clone().requires_grad_()
    weight, bias = inputs((1, 6))[1:]
    sum(total(part) for part in leaf).backward()
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(x), leaf.grad)


@needs_native
def test_meta() -> None:
    x = torch.empty(2, 6, 5, 4, device="meta").contiguous(memory_format=torch.channels_last)
    y = group_norm_silu(x, 3, *torch.empty(2, 6, device="meta"))
    assert y.shape == x.shape and y.stride() == x.stride() and y.device.type == "meta"


def test_the_reference_agrees_with_pytorch() -> None:
    x, weight, bias = inputs((2, 12, 5, 7))
    x = x.requires_grad_()
    y = F.silu(F.group_norm(x, 3, weight, bias, 1e-3))
    grad = torch.randn_like(y)
    (x_grad,) = torch.autograd.grad(y, x, grad)
    expected = group_norm_silu_reference(x, 3, weight, bias, 1e-3, True, grad)
    for ours, theirs in ((expected.y, y), (expected.x_grad, x_grad)):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-10, atol=1e-12)


# --- errors -------------------------------------------------------------------------------------

X, W = torch.zeros(2, 6, 4, 4), torch.ones(6)
GOOD = {"x": X, "num_groups": 3, "weight": W, "bias": W, "eps": EPS, "silu": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": X[0, 0, 0]}, r"x must be \[N, C, ...\] with at least 2 dimensions, got \[4\]"),
        ({"num_groups": 4}, "num_groups must be positive and divide the 6 channels of x, got 4"),
        ({"num_groups": 0}, "num_groups must be positive and divide the 6 channels of x, got 0"),
        ({"weight": W[:3]}, r"weight must have shape \[6\], one value per channel.*got \[3\]"),
        ({"bias": W[:, None]}, r"bias must have shape \[6\], one value per channel.*got \[6, 1\]"),
        ({"bias": W.to("meta")}, "bias is on meta but x on cpu"),
        ({"eps": -1.0}, r"eps must lie in \[0, 1\], got -1"),
        ({"weight": W.clone().requires_grad_()}, r"weight is a constant.*or pass weight.detach"),
        ({"bias": W.clone().requires_grad_()}, r"bias is a constant.*or pass bias.detach"),
    ],
)
def test_bad_values(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_norm_silu(**{**GOOD, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": [0.0]}, "x must be a floating point tensor, got list"),
        ({"x": X.int()}, r"x must be a floating point tensor, got torch\.int32"),
        ({"num_groups": 3.0}, "num_groups must be an integer, got float"),
        ({"num_groups": True}, "num_groups must be an integer, got bool"),
        ({"weight": None}, "weight must be a floating point tensor, got NoneType"),
        ({"bias": W.double()}, r"bias is torch\.float64 but x is torch\.float32"),
        ({"bias": W.bfloat16()}, r"bias is torch\.bfloat16 but x is torch\.float32"),
        ({"eps": "small"}, "eps must be a number, got str"),
        ({"silu": 1}, "silu must be True or False, got int"),
    ],
)
def test_bad_types(changes: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        group_norm_silu(**{**GOOD, **changes})


def test_parameters_of_a_module_where_no_gradient_is_recorded() -> None:
    norm = torch.nn.GroupNorm(3, 6)
    with torch.no_grad():
        group_norm_silu(X, 3, norm.weight, norm.bias)


@needs_native
def test_the_native_side_checks_again() -> None:
    s = torch.zeros(2, 3, dtype=torch.float64)
    forward, backward = (
        torch.ops.sdd_fast.group_norm_silu,
        torch.ops.sdd_fast.group_norm_silu_backward,
    )
    for changes, message in (
        ({0: X[0, 0, 0]}, "at least 2 dimensions"),
        ({0: X.int()}, "must be float64, float32, float16 or bfloat16"),
        ({1: 4}, "divide the channels of x"),
        ({1: 0}, "num_groups must be positive"),
        ({2: W[:5]}, "one value per channel"),
        ({3: W.double()}, "must have the dtype of x"),
        ({4: math.nan}, r"eps must lie in \[0, 1\]"),
    ):
        arguments = [X, 3, W, W, EPS, True]
        for place, value in changes.items():
            arguments[place] = value
        with pytest.raises(RuntimeError, match=message):
            forward(*arguments)
    for changes, message in (
        ({0: X[:, :3]}, "grad must be like x"),
        ({0: torch.cat([X, X[:1]])}, "grad must be like x"),
        ({0: X.double()}, "grad must be like x"),
        ({2: s.float()}, r"mean and rstd must be \[N, G\], float64"),
        ({3: s[:1]}, r"mean and rstd must be \[N, G\], float64"),
        ({2: s[:, :2], 3: s[:, :2]}, r"mean and rstd must be \[N, G\], float64, contiguous"),
    ):
        arguments = [X, X, s, s, W, W, True]
        for place, value in changes.items():
            arguments[place] = value
        with pytest.raises(RuntimeError, match=message):
            backward(*arguments)
