"""softmax_entropy_l1 against extended-precision references, and the contract every op has."""

from __future__ import annotations

import math
import mmap

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from op_cases import (
    DEFICIT_TOLERANCE,
    ENTROPY_GRADIENT_TOLERANCE,
    curve_error,
    entropy_gradient_reference,
    entropy_reference,
    entropy_reference_small,
    gradient_rows,
    norm_error,
)
from torch import Tensor

from sdd_fast.ops._register import NATIVE
from sdd_fast.ops.softmax_entropy_l1 import softmax_entropy_l1, softmax_entropy_l1_ref

CHUNK = 16384  # kEntropyChunk of csrc/softmax_entropy_l1
STDS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
BOTH = pytest.mark.parametrize("op", [softmax_entropy_l1, softmax_entropy_l1_ref])
needs_native = pytest.mark.skipif(NATIVE.path is None, reason="native kernels: " + NATIVE.missing)


# --- accuracy -----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("offset", [0.0, 0.3, -100.0])
@pytest.mark.parametrize("std", STDS)
def test_curve_is_within_1e_3_of_the_definition(op, std: float, offset: float) -> None:
    x = gradient_rows(9, 3 * 64 * 64, std, offset=offset)
    expected = entropy_reference(x)
    result = op(x)
    assert curve_error(-result.deficit.numpy(), expected.entropy) < 1e-4
    np.testing.assert_allclose(result.deficit, expected.deficit, rtol=2e-6)
    np.testing.assert_allclose(result.entropy, expected.entropy, rtol=0, atol=2e-6)
    np.testing.assert_allclose(result.l1, expected.l1, rtol=1e-7)


def test_float32_entropy_would_fail_that_bar() -> None:
    """Why the op exists: the usual formula turns the same curve into noise."""
    x = gradient_rows(9, 3 * 64 * 64, 1e-4)
    log_p = x.log_softmax(-1)
    naive = -(log_p.exp() * log_p).sum(-1)
    assert curve_error(naive.double().numpy(), entropy_reference(x).entropy) > 0.1


@pytest.mark.parametrize("std", [1e-5, 1e-2, 10.0])
def test_curve_of_rows_with_equal_scale(std: float) -> None:
    """The range of the curve is then only the sampling noise of the rows, 1e-3 of the deficit."""
    x = gradient_rows(5, 1 << 20, std, spread=1.0)
    expected = entropy_reference(x)
    assert curve_error(softmax_entropy_l1(x).deficit.numpy(), expected.deficit) < 1e-3


def test_longest_maps() -> None:
    x = gradient_rows(3, 1 << 24, 1e-5, offset=0.1)
    expected = entropy_reference_small(x)
    assert curve_error(softmax_entropy_l1(x).deficit.numpy(), expected) < 1e-3


@BOTH
@pytest.mark.parametrize(
    "n",
    [
        1,
        2,
        3,
        15,
        17,
        63,
        64,
        65,
        511,
        513,
        1000,
        2047,
        2049,
        CHUNK - 1,
        CHUNK,
        CHUNK + 1,
        2 * CHUNK + 77,
    ],
)
def test_lengths(op, n: int) -> None:
    for std in (1e-4, 0.2, 5.0):
        x = gradient_rows(3, n, std, offset=0.1)
        expected = entropy_reference(x)
        result = op(x)
        np.testing.assert_allclose(result.deficit, expected.deficit, rtol=2e-6, atol=1e-17)
        np.testing.assert_allclose(result.entropy, expected.entropy, rtol=0, atol=2e-6)
        np.testing.assert_allclose(result.l1, expected.l1, rtol=1e-6)


def test_single_entries_and_constant_maps_are_uniform() -> None:
    assert softmax_entropy_l1(torch.tensor([[3.7], [-1e30]])).deficit.tolist() == [0.0, 0.0]
    constant = softmax_entropy_l1(torch.full((1, 9001), 0.1))
    assert constant.deficit.item() == 0.0
    assert constant.entropy.item() == pytest.approx(math.log(9001), rel=1e-15)


@pytest.mark.parametrize("dtype", list(DEFICIT_TOLERANCE))
@pytest.mark.parametrize("std", [1e-3, 0.15, 1.0, 30.0])
def test_dtypes(dtype: torch.dtype, std: float) -> None:
    x = gradient_rows(4, 2 * CHUNK + 100, std, offset=0.01).to(dtype)
    expected = entropy_reference(x)
    result = softmax_entropy_l1(x)
    assert {t.dtype for t in result} == {torch.float64}
    np.testing.assert_allclose(result.deficit, expected.deficit, rtol=DEFICIT_TOLERANCE[dtype])
    np.testing.assert_allclose(result.l1, expected.l1, rtol=1e-7)


def test_half_precision_subnormals_and_extremes() -> None:
    patterns = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    x = patterns.view(torch.float16)
    x = x[torch.isfinite(x)][None]
    result, expected = softmax_entropy_l1(x), softmax_entropy_l1_ref(x)
    np.testing.assert_allclose(result.deficit, expected.deficit, rtol=1e-6)
    np.testing.assert_allclose(result.l1, expected.l1, rtol=1e-7)
    tiny = torch.full((1, 100), 2.0**-24, dtype=torch.float16)
    assert softmax_entropy_l1(tiny).l1.item() == 100 * 2.0**-24


@pytest.mark.parametrize("gap", [0.4, 2.0, 20.0, 1e9, 1e25])
@pytest.mark.parametrize("sign", [1, -1])
def test_one_outlier_among_small_entries(gap: float, sign: int) -> None:
    """Almost uniform and yet wide: a mean or a maximum would be a poor shift."""
    x = gradient_rows(1, 3 * CHUNK, 1e-4)
    x[0, 5] += sign * gap
    expected = softmax_entropy_l1_ref(x.double())
    result = softmax_entropy_l1(x)
    np.testing.assert_allclose(result.deficit, expected.deficit, rtol=1e-5)
    np.testing.assert_allclose(result.l1, expected.l1, rtol=1e-6)


MISLEADING = {
    # the first entries of each chunk, and what follows
    "wider": lambda x, std: (x * std, x * std * 30),
    "narrower": lambda x, std: (x * std, x * std / 30),
    "constant": lambda x, std: (x * 0, x * std),
    "far away": lambda x, std: (x * std - 40, x * std),
    "far above": lambda x, std: (x * std + 40, x * std),
    "where exp underflows": lambda x, std: (x * std, x * std - 200),
    "where exp overflows": lambda x, std: (x * std, x * std + 200),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("std", [1e-3, 0.02, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("case", list(MISLEADING))
def test_first_entries_that_mislead(case: str, std: float, dtype: torch.dtype) -> None:
    """A chunk is summed in the way that its first entries suggest, which may be the wrong one."""
    x = gradient_rows(3, 2 * CHUNK + 900, 1.0)
    first, rest = MISLEADING[case](x, std)
    x = torch.where(torch.arange(x.shape[1]) % CHUNK < 700, first, rest).to(dtype)
    expected, result = entropy_reference(x), softmax_entropy_l1(x)
    np.testing.assert_allclose(result.deficit, expected.deficit, rtol=2e-6)
    np.testing.assert_allclose(result.l1, expected.l1, rtol=1e-7)


@pytest.mark.parametrize("std", [1e-3, 0.02, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [3, 5000, CHUNK + 899])
def test_nan_and_infinity_propagate_from_anywhere(place: int, bad: float, std: float) -> None:
    x = gradient_rows(3, CHUNK + 900, std)
    x[1, place] = bad
    for result in (softmax_entropy_l1(x), softmax_entropy_l1(x[:, None], "abs-mean")):
        assert torch.isnan(result.deficit).tolist() == [False, True, False]
        assert result.l1[1].isnan() if math.isnan(bad) else result.l1[1].isposinf()
        assert torch.isfinite(result.l1[[0, 2]]).all()


@pytest.mark.parametrize("offset", [0.0, -100.0])
@pytest.mark.parametrize("std", [0.6, 1.0, 3.0])
def test_large_gradients_to_the_digits_of_float32(std: float, offset: float) -> None:
    """Rounding errors of single entries average out: e^x must not err to one side."""
    x = gradient_rows(9, 8 * CHUNK, std, offset=offset)
    expected = entropy_reference(x)
    np.testing.assert_allclose(softmax_entropy_l1(x).deficit, expected.deficit, rtol=3e-7)


def test_numbers_at_the_end_of_the_range() -> None:
    x = torch.linspace(-3e38, 3e38, 1000, dtype=torch.float64).float()[None]
    result = softmax_entropy_l1(x)
    assert result.deficit.item() == pytest.approx(math.log(1000), rel=1e-12)
    assert result.l1.item() == pytest.approx(x.double().abs().sum().item(), rel=1e-12)


@needs_native
def test_numbers_whose_squares_are_the_digits_of_float64() -> None:
    """The reference composition has none left there: its deficit is a difference of sums."""
    tiny = gradient_rows(3, 5000, 1e-15)
    np.testing.assert_allclose(
        softmax_entropy_l1(tiny).deficit, entropy_reference_small(tiny), rtol=2e-6
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 4),
    n=st.integers(2, 3 * CHUNK),
    log_std=st.floats(-5, 1),
    offset=st.floats(-10, 10, width=32),
    tail=st.sampled_from(["normal", "laplace", "sparse"]),
)
def test_any_map(seed: int, rows: int, n: int, log_std: float, offset: float, tail: str) -> None:
    x = gradient_rows(rows, n, 10.0**log_std, offset=offset, seed=seed)
    if tail == "laplace":
        x = (x - offset) * (x - offset).abs() / 10.0**log_std + offset
    elif tail == "sparse":
        x = x * (torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.05)
    result, expected = softmax_entropy_l1(x), softmax_entropy_l1_ref(x)
    np.testing.assert_allclose(result.deficit, expected.deficit, rtol=1e-5, atol=1e-20)
    np.testing.assert_allclose(result.entropy, expected.entropy, rtol=0, atol=3e-6)
    np.testing.assert_allclose(result.l1, expected.l1, rtol=1e-6)


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n", [10, 2 * CHUNK])
def test_nan_and_infinity_propagate_in_their_row_only(op, bad: float, n: int) -> None:
    x = gradient_rows(3, n, 0.1)
    clean = op(x)
    x[1, n - 2] = bad
    result = op(x)
    assert torch.isnan(result.entropy).tolist() == [False, True, False]
    assert torch.isnan(result.deficit).tolist() == [False, True, False]
    assert result.l1[1].isnan() if math.isnan(bad) else result.l1[1].isposinf()
    for field, clean_field in zip(result, clean, strict=True):
        assert torch.equal(field[[0, 2]], clean_field[[0, 2]])


# --- layouts, the abs-mean map, threads ---------------------------------------------------------


@BOTH
def test_layouts(op) -> None:
    base = gradient_rows(12, 3000, 0.1)
    views: list[Tensor] = [
        base[:, ::2],
        base[::3],
        base[:, 7:1203],
        base.t(),
        base[:1].expand(4, -1),
        base[:, :1],
        base[:0],
    ]
    for view in views:
        for field, expected in zip(op(view), op(view.contiguous()), strict=True):
            torch.testing.assert_close(field, expected, rtol=1e-11, atol=0)
    assert op(base[:0]).deficit.shape == (0,)


@BOTH
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("std", [1e-3, 0.05, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_abs_mean_map(op, dtype: torch.dtype, std: float, channels: int) -> None:
    """Against the signed statistics of a map built with NumPy."""
    x = gradient_rows(2 * channels, CHUNK + 4099, std, offset=0.5).to(dtype).view(2, channels, -1)
    built = np.abs(x.double().numpy()).mean(1)
    expected = entropy_reference(torch.from_numpy(built))
    permuted = x.transpose(1, 2).contiguous().transpose(1, 2)  # channels_last in memory
    for layout in (x, permuted):
        result = op(layout, "abs-mean")
        np.testing.assert_allclose(result.deficit, expected.deficit, rtol=2e-6)
        np.testing.assert_allclose(result.l1, expected.l1, rtol=1e-7)


@pytest.mark.parametrize("offset", [0.0, 0.5, -1000.0])
@pytest.mark.parametrize("std", [1e-5, 1e-2, 10.0])
def test_curve_of_abs_mean_maps(std: float, offset: float) -> None:
    x = gradient_rows(9 * 3, 3000, std, offset=offset).view(9, 3, -1)
    x[:, 1] *= -1
    expected = entropy_reference(torch.from_numpy(np.abs(x.double().numpy()).mean(1)))
    result = softmax_entropy_l1(x, "abs-mean")
    assert curve_error(result.deficit.numpy(), expected.deficit) < 1e-3
    np.testing.assert_allclose(result.entropy, expected.entropy, rtol=0, atol=2e-6)
    np.testing.assert_allclose(result.l1, expected.l1, rtol=1e-6)


@BOTH
def test_abs_mean_of_extremes(op) -> None:
    x = torch.full((4, 2, 9000), 3e38)
    x[0, 0, 0] = math.nan
    x[1, 1, 8999] = -math.inf
    x[2, :, 0] = math.inf
    x[3, 0, 5] = 0.0
    result = op(x, "abs-mean")
    assert torch.isnan(result.deficit).tolist() == [True, True, True, False]
    assert result.deficit[3].item() == pytest.approx(math.log(9000 / 8999), rel=1e-5)
    assert result.l1[0].isnan() and result.l1[1].isposinf() and result.l1[2].isposinf()
    assert result.l1[3].item() == pytest.approx(3e38 * 8999.5, rel=1e-6)


@pytest.mark.parametrize("gradient_map", ["signed", "abs-mean"])
def test_bits_do_not_depend_on_the_number_of_threads(gradient_map) -> None:
    x = gradient_rows(6, 20 * CHUNK + 5, 0.05, offset=0.2)
    if gradient_map == "abs-mean":
        x = x.view(2, 3, -1)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append(softmax_entropy_l1(x, gradient_map))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for field, expected in zip(other, results[0], strict=True):
            assert torch.equal(field, expected)


def without_memory(count: int, dtype: torch.dtype) -> Tensor:
    """`count` zeros that have addresses, and memory only where something is written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    try:
        pages = mmap.mmap(-1, count * dtype.itemsize, flags=flags)
    except (OSError, OverflowError):
        pytest.skip("the system does not reserve so many addresses")
    return torch.frombuffer(pages, dtype=dtype)


@needs_native
def test_rows_longer_than_31_bits_count() -> None:
    """2**31 + 77 numbers, all zero but the last 20: their number of chunks, place and count."""
    n, ones = 2**31 + 77, 20
    x = without_memory(n, torch.bfloat16)[None]
    x[0, -ones:] = 3.0
    result = softmax_entropy_l1(x)
    mass = (n - ones) + ones * math.exp(3.0)
    p = math.exp(3.0) / mass
    entropy = math.log(mass) - ones * p * 3.0
    assert result.l1.item() == 3.0 * ones
    assert result.entropy.item() == pytest.approx(entropy, rel=1e-12)
    # log n - entropy, in which nothing cancels.
    excess = ones / n * math.expm1(3.0)
    assert result.deficit.item() == pytest.approx(ones * p * 3.0 - math.log1p(excess), rel=1e-6)


@needs_native
@pytest.mark.parametrize("strides", [(2**31 + 5, 40, 1), (40, 2**31 + 5, 1), (80, 40, 2**30)])
def test_offsets_beyond_31_bits(strides: tuple[int, int, int]) -> None:
    """Rows, channels or entries that lie 2**31 numbers from the first."""
    shape = (2, 2, 40) if strides[2] == 1 else (2, 2, 4)
    furthest = sum((s - 1) * d for s, d in zip(shape, strides, strict=True))
    assert furthest > 2**31
    x = without_memory(furthest + 1, torch.float16).as_strided(shape, strides)
    x.copy_(gradient_rows(4, shape[2], 1.0).view(shape))
    for view, gradient_map in ((x, "abs-mean"), (x[:, 1], "signed"), (x[1], "signed")):
        expected = softmax_entropy_l1(view.contiguous(), gradient_map)
        for field, wanted in zip(softmax_entropy_l1(view, gradient_map), expected, strict=True):
            torch.testing.assert_close(field, wanted, rtol=1e-12, atol=0)


# --- gradients, compile, autocast ---------------------------------------------------------------


def plain_statistics(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    p = y.softmax(-1)
    entropy = -(p * y.log_softmax(-1)).sum(-1)
    return entropy, y.abs().sum(-1), math.log(y.shape[-1]) - entropy


@BOTH
@pytest.mark.parametrize("gradient_map", ["signed", "abs-mean"])
def test_gradients_are_those_of_the_definition(op, gradient_map) -> None:
    x = torch.randn(2, 3, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = (x if gradient_map == "abs-mean" else x.flatten(1)).requires_grad_()
    y = x.abs().mean(1) if gradient_map == "abs-mean" else x
    weights = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def gradient(statistics: tuple[Tensor, ...]) -> Tensor:
        total = sum((w * s).sum() for w, s in zip(weights, statistics, strict=True))
        (g,) = torch.autograd.grad(total, x, create_graph=True)
        (second,) = torch.autograd.grad((g * g).sum(), x)
        return torch.stack([g.detach(), second])

    assert torch.allclose(
        gradient(op(x, gradient_map)), gradient(plain_statistics(y)), rtol=1e-9, atol=1e-12
    )


@BOTH
@pytest.mark.parametrize("gradient_map", ["signed", "abs-mean"])
def test_gradcheck_and_gradgradcheck(op, gradient_map) -> None:
    rng = torch.Generator().manual_seed(3)
    shape = (2, 2, 5) if gradient_map == "abs-mean" else (2, 6)
    x = torch.randn(shape, dtype=torch.float64, generator=rng).requires_grad_()

    def function(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(op(x, gradient_map))

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def gradient(
    x: Tensor, of_deficit: float, of_l1: float = 0.0, gradient_map: str = "signed", op=None
) -> Tensor:
    """Of of_deficit * D + of_l1 * L1; what has weight 0 is left out of the sum."""
    x = x.detach().requires_grad_()
    result = (op or softmax_entropy_l1)(x, gradient_map)
    parts = [(of_deficit, result.deficit), (of_l1, result.l1)]
    total = sum(weight * part.sum() for weight, part in parts if weight)
    (grad,) = torch.autograd.grad(total, x)
    assert grad.dtype == x.dtype and grad.shape == x.shape
    return grad


def weight_for(x: Tensor) -> float:
    """With it the largest gradients of a deficit are near 1: 16 bits would have them all 0."""
    return 1 / float(entropy_gradient_reference(x, 1.0).abs().max())


@pytest.mark.parametrize("dtype", list(ENTROPY_GRADIENT_TOLERANCE))
@pytest.mark.parametrize("offset", [0.0, 0.1, -3.0])
@pytest.mark.parametrize("std", STDS)
def test_gradient_of_the_deficit(std: float, offset: float, dtype: torch.dtype) -> None:
    """For small maps it is (x - mean) / n to first order: a difference that rounding must not
    swamp."""
    offset *= std if dtype.itemsize == 2 else 1  # 16 bits would round all to one number
    x = gradient_rows(3, CHUNK + 4099, std, offset=offset).to(dtype)
    weight = weight_for(x)
    expected = entropy_gradient_reference(x, weight)
    grad = gradient(x, weight)
    rounding = 1e-15 * (1 + abs(offset)) / std if dtype == torch.float64 else 0.0  # of the mean
    assert norm_error(grad, expected) < ENTROPY_GRADIENT_TOLERANCE[dtype] + rounding
    assert torch.cosine_similarity(grad.double().flatten(), expected.flatten(), 0) > 1 - 1e-5


@pytest.mark.parametrize("dtype", list(ENTROPY_GRADIENT_TOLERANCE))
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("std", [1e-5, 1e-3, 0.05, 2.0])
def test_gradient_of_abs_mean_maps(std: float, channels: int, dtype: torch.dtype) -> None:
    x = gradient_rows(2 * channels, 5003, std, offset=4 * std).to(dtype).view(2, channels, -1)
    x[:, 0, ::7] = 0  # where it has no sign
    weight = weight_for(x.abs().double().mean(1))
    for of_l1 in (0.0, 0.3):
        expected = entropy_gradient_reference(x, weight, of_l1, abs_mean=True)
        grad = gradient(x, weight, of_l1, "abs-mean")
        assert norm_error(grad, expected) < 2 * ENTROPY_GRADIENT_TOLERANCE[dtype]
        assert (grad[:, 0, ::7] == 0).all()


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_gradient_of_abs_mean_maps_of_unlike_channels(offset: float) -> None:
    """What the channels have in common, each by itself, costs the others no digits."""
    x = gradient_rows(6, 3000, 1e-3, offset=1e-2).view(2, 3, -1)
    x[:, 1] -= offset
    expected = entropy_gradient_reference(x, 1.0, abs_mean=True)
    assert norm_error(gradient(x, 1.0, 0.0, "abs-mean"), expected) < 1e-6


@BOTH
@pytest.mark.parametrize("n", [1, 2, 3, 15, 17, 31, 33, 63, 65, 1023, 1025, CHUNK, CHUNK + 1])
def test_gradient_lengths(op, n: int) -> None:
    x = gradient_rows(4, n, 0.3, offset=0.1)
    for gradient_map in ("signed", "abs-mean"):
        shaped = x.view(2, 2, n) if gradient_map == "abs-mean" else x
        expected = entropy_gradient_reference(shaped, n, 0.7, gradient_map == "abs-mean")
        assert norm_error(gradient(shaped, n, 0.7, gradient_map, op), expected) < 1e-6
        if n == 1:  # the deficit is 0 whatever x
            assert not gradient(shaped, 1.0, 0.0, gradient_map, op).any()


@pytest.mark.parametrize("kind", ["laplace", "sparse", "outlier", "one of many", "all one number"])
@pytest.mark.parametrize("std", [1e-3, 0.3, 4.0])
def test_gradient_of_uneven_maps(kind: str, std: float) -> None:
    x = gradient_rows(3, 9000, std)
    rare = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.01
    x = {
        "laplace": lambda: x * x.abs() / std,
        "sparse": lambda: x * rare,
        "outlier": lambda: x + 30.0 * (torch.arange(9000) == 77),
        "one of many": lambda: torch.where(torch.arange(9000) == 77, x, x - 1e30),
        "all one number": lambda: torch.full_like(x, 0.1),
    }[kind]()
    # The mean of x under p, L + D, is known to the digits that D has.
    of_mean = float(entropy_reference(x).deficit.max() * x.double().softmax(-1).norm())
    for of_l1 in (0.0, 1e-3):
        expected = entropy_gradient_reference(x, 1.0, of_l1)
        error = float((gradient(x, 1.0, of_l1).double() - expected).norm())
        assert error < 1e-6 * (float(expected.norm()) + of_mean) + 1e-18


def test_gradient_at_the_end_of_the_range() -> None:
    x = torch.linspace(-3e38, 3e38, 1000, dtype=torch.float64).float()[None]
    assert not gradient(x, 1.0).any()  # p is 1 at one entry and 0 at the rest


@needs_native
def test_gradient_at_the_end_of_the_range_of_float64() -> None:
    x = torch.tensor([[1.5, 1.0, -1.0]], dtype=torch.float64) * 1e308
    assert gradient(x, 1.0, 1.0).tolist() == [[1.0, 1.0, -1.0]]


@BOTH
def test_gradient_layouts(op) -> None:
    base = gradient_rows(12, 3000, 0.1)
    for x in (base[:, ::2], base[::3], base[:, 7:1203], base.t(), base[:1].expand(4, -1),
              base[:, :1], base[:0]):  # fmt: skip
        grad = gradient(x, 1.0, 0.1, "signed", op)
        assert torch.equal(grad, gradient(x.contiguous(), 1.0, 0.1, "signed", op))
    maps = base.view(4, 3, 3000)
    for x in (maps, maps.transpose(1, 2).contiguous().transpose(1, 2), maps[:, ::2], maps[..., 5:],
              maps[:, :1].expand(-1, 3, -1), maps[:0]):  # fmt: skip
        grad = gradient(x, 1.0, 0.1, "abs-mean", op)
        assert torch.equal(grad, gradient(x.contiguous(), 1.0, 0.1, "abs-mean", op))


@needs_native
@pytest.mark.parametrize("shape", [(5, 70), (5, 3, 70), (0, 70)])
def test_backward_op(shape: tuple[int, ...]) -> None:
    """Every statistic by itself; what is not there counts as zeros, whatever the strides."""
    x = gradient_rows(max(shape[0], 1) * (3 if len(shape) == 3 else 1), 70, 0.5)
    x, abs_mean = x[: math.prod(shape[:-1])].view(shape), len(shape) == 3
    _, _, deficit, log_mean_exp = torch.ops.sdd_fast.softmax_entropy_l1(x, abs_mean)
    saved = (x, deficit, log_mean_exp, abs_mean)
    backward = torch.ops.sdd_fast.softmax_entropy_l1_backward
    grads = [*torch.randn(4, shape[0], dtype=torch.float64).unbind()]
    whole = backward(*grads, *saved)
    assert whole.is_contiguous() and whole.shape == x.shape
    alone = [backward(*(g if i == j else None for j, g in enumerate(grads)), *saved)
             for i in range(4)]  # fmt: skip
    torch.testing.assert_close(sum(alone), whole, rtol=1e-5, atol=1e-6)
    assert not backward(None, None, None, None, *saved).any()
    zero = torch.zeros(shape[0], dtype=torch.float64)
    assert torch.equal(backward(zero, grads[1], zero, zero, *saved), alone[1])
    one = torch.ones((), dtype=torch.float64).expand(shape[0])
    spread = torch.stack([one, 2 * one], 1)[:, 0]
    dense = one.contiguous()
    expected = backward(None, dense, dense, None, *saved)
    assert torch.equal(backward(None, one, spread, None, *saved), expected)


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradient_of_nan_and_infinity_stays_in_its_row(op, bad: float) -> None:
    x = gradient_rows(3, CHUNK + 900, 0.1)
    clean = gradient(x, 1.0, 0.5, op=op)
    x[1, CHUNK + 5] = bad
    grad = gradient(x, 1.0, 0.5, op=op)
    assert grad[1].isnan().all() and torch.equal(grad[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("gradient_map", ["signed", "abs-mean"])
def test_gradient_bits_do_not_depend_on_the_number_of_threads(gradient_map) -> None:
    x = gradient_rows(6, 5 * CHUNK + 5, 0.05, offset=0.2)
    x = x.view(2, 3, -1) if gradient_map == "abs-mean" else x
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            results.append(gradient(x, 1.0, 0.1, gradient_map))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(other, results[0]) for other in results[1:])


@needs_native
@pytest.mark.parametrize("strides", [(2**31 + 5, 40, 1), (40, 2**31 + 5, 1)])
def test_gradient_at_offsets_beyond_31_bits(strides: tuple[int, int, int]) -> None:
    furthest = sum(strides) + 38
    x = without_memory(furthest + 1, torch.float16).as_strided((2, 2, 40), strides)
    x.copy_(gradient_rows(4, 40, 1.0).view(2, 2, 40))
    for view, gradient_map in ((x, "abs-mean"), (x[:, 1], "signed"), (x[1], "signed")):
        grad = gradient(view, 1.0, 0.1, gradient_map)
        assert torch.equal(grad, gradient(view.contiguous(), 1.0, 0.1, gradient_map))


@BOTH
def test_jacobians_and_second_gradients_of_float32(op) -> None:
    x = gradient_rows(3, 9, 0.5).requires_grad_()
    rows = torch.eye(3, dtype=torch.float64)
    deficit = op(x).deficit
    (batched,) = torch.autograd.grad(deficit, x, rows, is_grads_batched=True, retain_graph=True)
    (summed,) = torch.autograd.grad(deficit.sum(), x, create_graph=True)
    torch.testing.assert_close(batched.sum(0), summed)
    (second,) = torch.autograd.grad(summed.square().sum(), x)
    wide = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(plain_statistics(wide)[2].sum(), wide, create_graph=True)
    (expected,) = torch.autograd.grad(expected.square().sum(), wide)
    assert norm_error(second, expected) < 1e-5


def test_under_torch_func() -> None:
    x = gradient_rows(3, 50, 0.5)
    grad = torch.func.grad(lambda x: softmax_entropy_l1(x).deficit.sum())(x)
    assert norm_error(grad, gradient(x, 1.0)) < 1e-6


@needs_native
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("abs_mean", [False, True])
def test_opcheck(abs_mean: bool, requires_grad: bool) -> None:
    x = gradient_rows(6, 40, 0.1).view((2, 3, 40) if abs_mean else (6, 40))
    x.requires_grad_(requires_grad)
    torch.library.opcheck(torch.ops.sdd_fast.softmax_entropy_l1, (x, abs_mean))


@needs_native
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("abs_mean", [False, True])
def test_opcheck_of_the_gradient(abs_mean: bool, requires_grad: bool) -> None:
    x = gradient_rows(6, 40, 0.1).view((2, 3, 40) if abs_mean else (6, 40))
    _, _, *statistics = torch.ops.sdd_fast.softmax_entropy_l1(x, abs_mean)
    grads = torch.randn(4, len(x), dtype=torch.float64)
    for some in ([*grads.unbind()], [None, None, grads[0], None]):
        tensors = [t if t is None else t.clone() for t in (*some, x, *statistics)]
        for tensor in tensors:
            if tensor is not None:
                tensor.requires_grad_(requires_grad)
        torch.library.opcheck(torch.ops.sdd_fast.softmax_entropy_l1_backward, (*tensors, abs_mean))


@BOTH
def test_compile_fullgraph_forward_and_backward(op) -> None:
    def function(x: Tensor) -> Tensor:
        result = op(x)
        return (result.deficit - result.entropy + result.l1).sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    grads = []
    for call in (function, compiled):
        x = gradient_rows(3, 100, 0.5).requires_grad_()
        call(x).backward()
        grads.append(x.grad)
    assert torch.allclose(grads[0], grads[1], rtol=1e-6, atol=0)


@needs_native
@pytest.mark.parametrize("field", [0, 1, 2])
def test_compile_where_one_statistic_is_used(field: int) -> None:
    """Nothing comes back to the others."""
    compiled = torch.compile(
        lambda x: softmax_entropy_l1(x)[field].sum(), fullgraph=True, backend="aot_eager"
    )
    grads = []
    for call in (compiled, lambda x: softmax_entropy_l1(x)[field].sum()):
        x = gradient_rows(3, 100, 0.5).requires_grad_()
        call(x).backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


@BOTH
def test_autocast_leaves_the_precision_alone(op) -> None:
    x = gradient_rows(3, 1000, 1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = op(x)
    for field, expected in zip(inside, op(x), strict=True):
        assert torch.equal(field, expected)


# --- errors -------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("x", "gradient_map", "error", "message"),
    [
        ([[1.0]], "signed", TypeError, "x must be a floating point tensor, got list"),
        (torch.ones(2, 3, dtype=torch.int64), "signed", TypeError, "got torch.int64; convert"),
        (
            torch.ones(2, 3, dtype=torch.complex64),
            "signed",
            TypeError,
            "got torch.complex64; convert",
        ),
        (torch.ones(3), "signed", ValueError, r"\[N, n\].*\(3,\).*flatten"),
        (torch.ones(2, 3, 4, 4), "signed", ValueError, r"\(2, 3, 4, 4\)"),
        (torch.ones(2, 3), "abs-mean", ValueError, r"\[N, C, n\].*\(2, 3\)"),
        (torch.ones(2, 0), "signed", ValueError, "at least one entry"),
        (torch.ones(2, 0, 4), "abs-mean", ValueError, "at least one entry"),
        (torch.ones(2, 3), "absolute", ValueError, "'absolute'"),
        (torch.ones(2, 3), ["signed"], ValueError, r"\['signed'\]"),
    ],
)
def test_bad_arguments(op, x, gradient_map, error, message: str) -> None:
    with pytest.raises(error, match=f"^softmax_entropy_l1: .*{message}"):
        op(x, gradient_map)


@needs_native
def test_the_native_side_checks_again() -> None:
    native = torch.ops.sdd_fast.softmax_entropy_l1
    for x, abs_mean in (
        (torch.ones(3), False),
        (torch.ones(2, 3), True),
        (torch.ones(2, 0), False),
        (torch.ones(2, 3, dtype=torch.int32), False),
    ):
        with pytest.raises(RuntimeError, match="softmax_entropy_l1"):
            native(x, abs_mean)
    backward = torch.ops.sdd_fast.softmax_entropy_l1_backward
    x, right = torch.ones(2, 3), torch.ones(2, dtype=torch.float64)
    assert backward(None, None, right, None, x, right, right, False).shape == (2, 3)
    for wrong in (right.float(), right[:1], right[None]):
        for grad, deficit, shift in ((wrong, right, right), (right, wrong, right),
                                     (right, right, wrong)):  # fmt: skip
            with pytest.raises(RuntimeError, match="must be float64"):
                backward(None, None, grad, None, x, deficit, shift, False)
    with pytest.raises(RuntimeError, match="3 dimensions"):
        backward(None, None, right, None, x, right, right, True)
