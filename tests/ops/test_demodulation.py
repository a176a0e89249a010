"""demodulation against the norms of the scaled kernels, and the contract every op has."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from large_tensors import run_on_reserved
from op_cases import DEMODULATION_TOLERANCE, demodulation_reference, largest_share
from torch import Tensor

from sdd_fast.ops import demodulation, demodulation_ref
from sdd_fast.ops._register import NATIVE

DTYPES = pytest.mark.parametrize("dtype", list(DEMODULATION_TOLERANCE))
needs_native = pytest.mark.skipif(NATIVE.path is None, reason="native kernels: " + NATIVE.missing)
EPS = 1e-8


def native(weight: Tensor, styles: Tensor, eps: float = EPS) -> Tensor:
    """The op itself, with the gradient that the dispatcher knows."""
    return torch.ops.sdd_fast.demodulation(weight, styles, eps)[0]


BOTH = pytest.mark.parametrize("op", [pytest.param(native, marks=needs_native), demodulation_ref])
WITH_GRADIENTS = pytest.mark.parametrize(  # `demodulation` has a shorter way to the same
    "op", [pytest.param(native, marks=needs_native), demodulation, demodulation_ref]
)


def inputs(
    n: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """weight, styles"""
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=rng, dtype=torch.float64)
    styles = torch.randn(n, shape[1], generator=rng, dtype=torch.float64)
    return weight.to(dtype), styles.to(dtype)


def layouts(w: Tensor) -> dict[str, Tensor]:
    turned, last = w.transpose(0, 1).contiguous(), torch.channels_last
    return {
        "contiguous": w,
        "channels_last": w.contiguous(memory_format=last),
        "turned": turned.transpose(0, 1),
        "turned channels_last": turned.contiguous(memory_format=last).transpose(0, 1),
        "sliced": torch.stack([w, w], -1)[..., 0],
        "kernels turned": w.mT.contiguous().mT,
    }


# --- the definition -----------------------------------------------------------------------------

SHAPES = [
    (1, 1, 1, 1), (2, 3, 3, 3), (33, 70, 3, 3), (5, 40, 1, 1), (65, 129, 1, 1), (40, 9, 5, 5),
    (3, 2, 9, 7), (3, 2, 8, 8), (2, 70, 13, 5), (17, 600, 1, 3), (1, 1030, 3, 1), (7, 37, 4, 2),
    (40, 20, 0, 0), (2, 1, 65, 64), (300, 1, 3, 3),
    (0, 3, 3, 3), (3, 0, 3, 3), (3, 4, 0, 3), (1, 5, 3, 0),
]  # fmt: skip


@BOTH
@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_definition(op, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for n in (0, 1, 3):
        first, styles = inputs(n, shape, dtype)
        expected, _ = demodulation_reference(first, styles, 1e-3)
        for layout, weight in layouts(first).items():
            for s in (styles, torch.stack([styles, styles], -1)[..., 0]):
                factor = op(weight, s, 1e-3)
                assert factor.dtype == (dtype if dtype == torch.float64 else torch.float32)
                error = largest_share(factor, expected)
                assert error <= DEMODULATION_TOLERANCE[dtype], (layout, n)


@needs_native
@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_energies(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """What modulated_conv2d and the gradient take besides."""
    first, styles = inputs(1, shape, dtype)
    _, expected = demodulation_reference(first, styles, EPS)
    for layout, weight in layouts(first).items():
        _, energy = torch.ops.sdd_fast.demodulation(weight, styles, EPS)
        assert energy.dtype == (dtype if dtype == torch.float64 else torch.float32)
        assert largest_share(energy, expected) <= DEMODULATION_TOLERANCE[dtype], layout
        assert energy.is_contiguous(), layout


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(0, 3),
    outputs=st.integers(0, 70),
    channels=st.integers(0, 70),
    side=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dims=st.permutations(range(4)),
    steps=st.tuples(*[st.integers(1, 2)] * 4),
    dtype=st.sampled_from(list(DEMODULATION_TOLERANCE)),
    eps=st.sampled_from([1e-8, 0.25, 1.0]),
)
def test_any_tensors(n, outputs, channels, side, dims, steps, dtype, eps) -> None:
    """Dimensions in any order in memory, with and without gaps."""
    shape = [size * step for size, step in zip((outputs, channels, *side), steps, strict=True)]
    weight, _ = inputs(1, tuple(shape), dtype)
    back = sorted(range(4), key=lambda d: dims[d])
    weight = weight.permute(dims).contiguous().permute(back)
    weight = weight[tuple(slice(None, None, step) for step in steps)]
    assert weight.shape == (outputs, channels, *side)
    styles = inputs(n, (1, channels, 1, 1), dtype, seed=1)[1]
    expected, _ = demodulation_reference(weight, styles, eps)
    error = largest_share(demodulation(weight, styles, eps), expected)
    assert error <= DEMODULATION_TOLERANCE[dtype]


@BOTH
@DTYPES
@pytest.mark.parametrize("shape", [(3, 20, 3, 3), (20, 3, 3, 3), (5, 300, 3, 3), (3, 2, 9, 9)])
def test_nan_and_infinity_stay_where_they_are(op, dtype: torch.dtype, shape) -> None:
    for bad, result in ((math.nan, math.nan), (math.inf, 0.0), (-math.inf, 0.0)):
        first, styles = inputs(2, shape, dtype)
        clean = op(first, styles, EPS)
        first[1, -1, 0, 0] = bad
        for weight in layouts(first).values():
            factor = op(weight, styles, EPS)
            keep = [o for o in range(shape[0]) if o != 1]
            torch.testing.assert_close(factor[:, keep], clean[:, keep], rtol=2e-6, atol=0.0)
            expected = torch.full((2,), result, dtype=factor.dtype)
            assert torch.equal(factor[:, 1].nan_to_num(-1.0), expected.nan_to_num(-1.0))


@BOTH
@DTYPES
def test_nothing_to_divide_by(op, dtype: torch.dtype) -> None:
    weight, styles = torch.zeros(3, 4, 3, 3, dtype=dtype), torch.ones(2, 4, dtype=dtype)
    assert (op(weight, styles, 0.0) == math.inf).all()
    assert (op(weight, styles, 0.25) == 2.0).all()
    assert (op(weight + 1, styles * 0, 0.25) == 2.0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ends_of_the_16_bit_range(dtype: torch.dtype) -> None:
    """Squares that the dtype itself could not hold."""
    largest = 6e4
    weight = torch.tensor([largest, 1e-4]).to(dtype).reshape(2, 1, 1, 1).expand(2, 40, 3, 3)
    styles = torch.tensor([[50.0], [1e-3]]).to(dtype).expand(2, 40)
    expected, _ = demodulation_reference(weight, styles, 0.0)
    factor = demodulation(weight, styles, 0.0)
    assert largest_share(factor, expected) <= DEMODULATION_TOLERANCE[dtype]


# --- threads, large tensors ---------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("layout", list(layouts(torch.zeros(1, 1, 1, 1))))
def test_bits_do_not_depend_on_the_number_of_threads(layout: str) -> None:
    first, styles = inputs(4, (257, 301, 3, 3), torch.float32)
    weight = layouts(first)[layout]
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append(torch.ops.sdd_fast.demodulation(weight, styles, EPS))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


LARGE = """
#include "demodulation/demodulation_kernel.h"
namespace sdd {
void demodulation_energies_portable(const Energies&, int64_t, int64_t);
void demodulation_factors_portable(const Factors&, int64_t, int64_t);
}
int main() {
  using namespace sdd;
  const int64_t shapes[][3] = {{3, 1000000007, 2}, {1, 1, 2200000001}, {500000003, 2, 9}};
  for (const auto& s : shapes) {
    for (int inside = 0; inside < 2; ++inside) {
      const int64_t numel = s[0] * s[1] * s[2], last = numel - 1;
      float *w = reserve(numel), *e = reserve(s[0] * s[1]);
      Energies c{w, e, Element::kFloat32, s[0], s[1], s[2], inside == 1};
      const int64_t tasks = c.rows * divide_up(c.columns, kEnergyRun);
      w[last] = 3;
      w[inside ? last - 1 : last - c.columns] = 4;
      demodulation_energies_portable(c, tasks - 1, tasks);
      if (e[s[0] * s[1] - 1] != 25) {
        std::printf("numel %lld: %g\\n", (long long)numel, e[s[0] * s[1] - 1]);
        return 1;
      }
      munmap(w, numel * 4);
      munmap(e, s[0] * s[1] * 4);
    }
  }
  const int64_t outputs = 1000000007, inputs = 3;
  float *e = reserve(outputs * inputs), *d = reserve(2 * outputs);
  const float squares[] = {0, 0, 1, 1, 4, 9};
  Demodulation c{};
  c.energy = e; c.factor = d; c.element = Element::kFloat32;
  c.samples = 2; c.outputs = outputs; c.inputs = inputs;
  e[outputs * inputs - 1] = 4;
  const int64_t tasks = divide_up(outputs, kFactorRun);
  demodulation_factors_portable({c, squares}, tasks - 1, tasks);
  if (d[outputs - 1] != 0.5f || d[2 * outputs - 1] != 1 / 6.0f) {
    std::printf("factors %g, %g\\n", d[outputs - 1], d[2 * outputs - 1]);
    return 1;
  }
}
"""


def test_more_elements_than_32_bits_count(tmp_path: Path) -> None:
    """The kernels themselves, on the last task of tensors of up to 9 billion elements."""
    run_on_reserved("demodulation", LARGE, tmp_path)


# --- gradients, compile, autocast ---------------------------------------------------------------


@WITH_GRADIENTS
@pytest.mark.parametrize("frozen", [None, 0, 1])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "turned"])
def test_gradcheck_and_gradgradcheck(op, frozen: int | None, layout: str) -> None:
    weight, styles = inputs(2, (3, 4, 3, 3))
    leaves = [layouts(weight)[layout], styles]
    leaves = [t.detach().requires_grad_(i != frozen) for i, t in enumerate(leaves)]
    assert torch.autograd.gradcheck(op, leaves)
    assert torch.autograd.gradgradcheck(op, leaves)
    op(*leaves).sum().backward()
    assert [t.grad is not None for t in leaves] == [t.requires_grad for t in leaves]


@needs_native
@pytest.mark.parametrize("frozen", [None, 0, 1])
def test_gradients_through_the_energies(frozen: int | None) -> None:
    leaves = [t.requires_grad_(i != frozen) for i, t in enumerate(inputs(2, (3, 4, 3, 3)))]

    def both(weight: Tensor, styles: Tensor) -> Tensor:
        factor, energy = torch.ops.sdd_fast.demodulation(weight, styles, EPS)
        return factor.sum(0) * energy.square().sum(1)

    assert torch.autograd.gradcheck(both, leaves)
    assert torch.autograd.gradgradcheck(both, leaves)


@WITH_GRADIENTS
def test_third_derivative(op) -> None:
    """Of d = (s² e + eps)^(-1/2), by the rule and by PyTorch."""
    weight, _ = inputs(1, (1, 1, 3, 3))
    s = torch.tensor([[0.7]], dtype=torch.float64, requires_grad=True)
    exact = s.detach().clone().requires_grad_()
    y, right = op(weight, s), (exact.square() * weight.square().sum() + EPS).rsqrt()
    for _ in range(3):
        (y,) = torch.autograd.grad(y.sum(), s, create_graph=True)
        (right,) = torch.autograd.grad(right.sum(), exact, create_graph=True)
        torch.testing.assert_close(y, right)


@pytest.mark.parametrize("shape", [(2, 3, 3, 3), (70, 60, 3, 3)])  # few weights, and many
@DTYPES
def test_gradients_of_any_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight, styles = inputs(2, shape, dtype)
    exact = [t.double().requires_grad_() for t in (weight, styles)]
    w, s = exact
    d = ((w[None] * s[:, None, :, None, None]).square().sum((2, 3, 4)) + EPS).rsqrt()
    grad = torch.linspace(-1, 2, d.numel(), dtype=torch.float64).reshape(d.shape)
    expected = torch.autograd.grad(d, exact, grad)
    for frozen in (None, 0, 1):
        leaves = [t.detach().requires_grad_(i != frozen) for i, t in enumerate((weight, styles))]
        factor = demodulation(*leaves)
        wanted = [t for t in leaves if t.requires_grad]
        actual = torch.autograd.grad(factor, wanted, grad.to(factor.dtype))
        right = [g for i, g in enumerate(expected) if i != frozen]
        for leaf, g, r in zip(wanted, actual, right, strict=True):
            assert g.dtype == leaf.dtype and g.shape == leaf.shape
            assert float((g.double() - r).norm() / r.norm()) < 4 * torch.finfo(dtype).eps


@needs_native
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "turned", "sliced"])
def test_opcheck(requires_grad: bool, layout: str) -> None:
    weight, styles = inputs(2, (3, 4, 3, 3))
    weight = layouts(weight)[layout].detach().requires_grad_(requires_grad)
    arguments = (weight, styles.requires_grad_(requires_grad), EPS)
    torch.library.opcheck(torch.ops.sdd_fast.demodulation, arguments)


@pytest.mark.parametrize(
    ("dtype", "frozen"),
    [
        (torch.float32, None),
        (torch.float32, 0),
        (torch.float32, 1),
        (torch.bfloat16, None),
    ],
)
def test_compile_fullgraph_forward_and_backward(dtype, frozen: int | None) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(demodulation, fullgraph=True, backend="aot_eager")
    results = []
    for function in (demodulation_ref, compiled):
        leaves = [
            t.requires_grad_(i != frozen) for i, t in enumerate(inputs(2, (5, 4, 3, 3), dtype))
        ]
        y = function(*leaves)
        y.square().sum().backward()
        results.append((y, *[t.grad for t in leaves if t.requires_grad]))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3, 3, 3), (70, 60, 3, 3)])
def test_autocast_leaves_it_in_float32(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    weight, styles = inputs(2, shape, dtype)
    for function in (demodulation, demodulation_ref):
        results = []
        for enabled in (False, True):
            s = styles.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                factor = function(weight, s)
            factor.sum().backward()
            assert factor.dtype == torch.float32
            results.append((factor.detach(), s.grad))
        assert all(map(torch.equal, *results))
    with torch.autocast("cpu", torch.bfloat16):  # styles that a linear layer gave there
        mixed = demodulation(weight, styles.bfloat16())
    assert torch.equal(mixed, demodulation(weight, styles.bfloat16().to(dtype)))


def test_under_torch_func() -> None:
    weight, styles = inputs(3, (5, 4, 3, 3))

    def total(s: Tensor) -> Tensor:
        return demodulation(weight, s[None]).sin().sum()

    leaf = styles.clone().requires_grad_()
    sum(total(s) for s in leaf).backward()
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(styles), leaf.grad)
    each = torch.func.vmap(demodulation, in_dims=(None, 0))(weight, styles[:, None])
    torch.testing.assert_close(each[:, 0], demodulation(weight, styles))
    hessian = torch.func.hessian(total)(styles[0])
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(total, styles[0]))


@needs_native
def test_meta() -> None:
    factor = demodulation(torch.empty(3, 4, 3, 3, device="meta"), torch.empty(2, 4, device="meta"))
    assert factor.shape == (2, 3) and factor.device.type == "meta"
    assert factor.dtype == torch.float32


def test_against_the_convolution_it_is_for() -> None:
    """White noise through the scaled and divided kernels comes out with unit variance."""
    weight, styles = inputs(2, (6, 5, 3, 3), torch.float64)
    x = torch.randn(1, 5, 200, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    factor = demodulation(weight, styles)
    for style, f in zip(styles, factor, strict=True):
        y = torch.nn.functional.conv2d(x * style[:, None, None], weight) * f[:, None, None]
        assert ((y.std((0, 2, 3)) - 1).abs() < 0.03).all()


# --- errors -------------------------------------------------------------------------------------

W, S = torch.zeros(3, 4, 3, 3), torch.zeros(2, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": W[0]}, r"weight must be \[O, I, kh, kw\], got \[4, 3, 3\]"),
        ({"styles": S[:, :3]}, r"styles must be \[N, I\] = \[N, 4\].*got \[2, 3\]"),
        ({"styles": S[0]}, r"styles must be \[N, I\] = \[N, 4\].*got \[4\]"),
        ({"styles": S.to("meta")}, "styles is on meta but weight on cpu"),
        ({"eps": -1.0}, r"eps must lie in \[0, 1\], got -1"),
        ({"eps": math.nan}, r"eps must lie in \[0, 1\], got nan"),
    ],
)
def test_bad_values(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        demodulation(**{"weight": W, "styles": S, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": [0.0]}, "weight must be a floating point tensor, got list"),
        ({"weight": W.int()}, r"weight must be a floating point tensor, got torch\.int32"),
        ({"styles": None}, "styles must be a floating point tensor, got NoneType"),
        ({"styles": S.double()}, r"styles is torch\.float64 but weight is torch\.float32"),
        ({"eps": "small"}, "eps must be a number, got str"),
    ],
)
def test_bad_types(changes: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        demodulation(**{"weight": W, "styles": S, **changes})


@needs_native
def test_the_native_side_checks_again() -> None:
    bad = [
        ((W[0], S, EPS), r"weight must be \[O, I, kh, kw\]"),
        ((W.int(), S.int(), EPS), "must be float64, float32, float16 or bfloat16"),
        ((W, S[0], EPS), r"styles must be \[N, I\]"),
        ((W, S[:, :3], EPS), r"styles must be \[N, I\]"),
        ((W, S.double(), EPS), "dtype and device of weight"),
        ((W, S, -1.0), r"eps must lie in \[0, 1\]"),
        ((W, S, math.nan), r"eps must lie in \[0, 1\]"),
    ]
    for arguments, message in bad:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.sdd_fast.demodulation(*arguments)


def test_the_reference_shares_nothing_with_the_energies() -> None:
    """The expected factors themselves, of a case that is done by hand: s = 2, w = 1...9."""
    weight = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    factor, energy = demodulation_reference(weight, torch.tensor([[2.0]]), 4.0)
    np.testing.assert_allclose(energy, [[285.0]])
    np.testing.assert_allclose(factor, [[1 / math.sqrt(4 * 285 + 4)]])
