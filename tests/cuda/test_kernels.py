"""Every CUDA kernel against the float64 references: on a GPU, or emulated on the CPU.

Kernels divide their work into packs of 16 bytes, rows, tiles and blocks of threads. The sizes here
are 1, odd, and those ± 1; the memory is aligned and not, dense and with NaN around.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from op_cases import (
    DEFICIT_TOLERANCE,
    DEMODULATION_TOLERANCE,
    ENTROPY_GRADIENT_TOLERANCE,
    FEATURE_TOLERANCE,
    GROUP_NORM_TOLERANCE,
    MapStatistics,
    demodulation_reference,
    entropy_gradient_reference,
    entropy_reference,
    epilogue_reference,
    gradient_rows,
    group_norm_silu_reference,
    largest_share,
    modulated_conv2d_reference,
    norm_error,
    relative_error,
    upfirdn2d_error,
    upfirdn2d_reference,
)
from torch import Tensor

from sdd_fast.ops import modulated_conv2d, softmax_entropy_l1

CODES = {"linear": 0, "relu": 1, "lrelu": 2}
DTYPES = pytest.mark.parametrize("dtype", list(FEATURE_TOLERANCE), ids=lambda d: str(d)[6:])
LAYOUTS = ("dense", "unaligned", "channels_last", "unaligned channels_last", "cropped", "strided")
SANITIZER = os.environ.get("EMULATION", "plain") != "plain"
if os.environ.get("EMULATION") == "thread":  # which thread touches what is as in dense memory
    LAYOUTS = LAYOUTS[:4]


def randn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def placed(x: Tensor | None, device: torch.device, layout: str = "dense") -> Tensor | None:
    """The elements of x on the device. Where there is other memory around them it holds NaN."""
    if x is None:
        return None
    inside = "channels_last" in layout and x.ndim > 2
    x = x.movedim(1, -1) if inside else x
    *outer, last = x.shape
    width = {"cropped": last + 3, "strided": 2 * last}.get(layout, last)
    start, step = {"cropped": (1, 1), "strided": (0, 2)}.get(layout, (0, 1))
    first = int("unaligned" in layout)
    memory = torch.full((first + width * int(np.prod(outer)),), torch.nan, dtype=x.dtype)
    view = memory.to(device)[first:].view(*outer, width)[..., start : start + step * last : step]
    view.copy_(x)
    return view.movedim(-1, 1) if inside else view


def in_layouts(x: Tensor, device: torch.device, layouts: tuple[str, ...] = LAYOUTS) -> Iterator:
    for layout in layouts:
        if x.ndim > 2 or "channels_last" not in layout:
            yield layout, placed(x, device, layout)


def layouts_for(variant: int, variants: int, x: Tensor) -> tuple[str, ...]:
    """Those in which x meets this one of the variants of a test: all of them.

    Under a sanitizer each layout of each shape and dtype meets one of the variants, and another one
    as these change: they decide which kernel runs, on what memory, and the variants hardly do.
    """
    if not SANITIZER:
        return LAYOUTS
    return LAYOUTS[(variant + sum(x.shape) + x.dtype.itemsize.bit_length()) % variants :: variants]


def error(actual: Tensor, expected: np.ndarray, scale: float = 0.0) -> float:
    return relative_error(actual.cpu(), expected, scale)


# --- bias_act -----------------------------------------------------------------------------------

SHAPES = [
    (1, 1), (2, 3), (1, 7), (1, 9), (3, 5, 7), (2, 3, 5, 7), (511, 9),
    (513, 63), (129, 64), (130, 65),  # pixels and channels of a block of sums
    (1, 2, 4095), (2, 1, 4097), (1, 3, 8200), (1, 2, 4096),  # pieces of a row
    (70, 3, 2), (2, 16, 16, 16), (0, 3, 4), (2, 0, 3), (2, 3, 0),
]  # fmt: skip
SEVERAL_TILES = [(1, 8193), (5, 2048), (1, 24, 33, 31)]


@DTYPES
@pytest.mark.parametrize("shape", SHAPES + SEVERAL_TILES, ids=str)
def test_bias_act(device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    first, bias = randn(*shape, dtype=dtype), randn(shape[1], dtype=dtype, seed=1)
    variants = [("lrelu", bias, None), ("relu", bias, 0.75), ("linear", None, 0.75)]
    for k, (act, some, clamp) in enumerate(variants):
        expected = epilogue_reference(first, None, None, some, act, 0.3, 1.7, clamp)
        for layout, x in in_layouts(first, device, layouts_for(k, 3, first)):
            b = placed(some, device, "unaligned" if layout == "unaligned" else "dense")
            y = torch.ops.sdd_fast.bias_act(x, b, CODES[act], 0.3, 1.7, clamp)
            assert y.dtype == dtype
            # Beside the largest operand: x and bias may cancel.
            assert error(y, expected.y, expected.magnitude) <= FEATURE_TOLERANCE[dtype], layout


@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bias_act_backward(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """Its input is the result y: what it must give follows from y, exactly."""
    tolerance = FEATURE_TOLERANCE[dtype]
    first = randn(*shape, dtype=dtype, seed=2)
    for k, (act, clamp) in enumerate((("lrelu", 0.75), ("relu", None), ("linear", 0.75))):
        below = {"linear": 1.0, "relu": 0.0, "lrelu": 0.3}[act]
        result = randn(*shape, dtype=dtype)
        result = result if clamp is None else result.clamp(-clamp, clamp)
        wide = result.double().numpy()
        expected = 1.7 * np.where(wide > 0, 1.0, below) * first.double().numpy()
        if clamp is not None:
            expected = np.where(np.abs(wide) >= clamp, 0.0, expected)
        pixels = tuple(d for d in range(len(shape)) if d != 1)
        scale = np.abs(expected).sum(pixels).max(initial=0)
        for layout, y in in_layouts(result, device, layouts_for(k, 3, result)):
            for other in {"dense", layout}:
                grad = placed(first, device, other)
                for wanted in (True, False):
                    gx, gb = torch.ops.sdd_fast.bias_act_backward(
                        grad, y, CODES[act], 0.3, 1.7, clamp, wanted
                    )
                    assert error(gx, expected) <= tolerance, (layout, other)
                    if wanted:
                        assert error(gb, expected.sum(pixels), scale) <= tolerance, (layout, other)
                    else:
                        assert gb.shape == (0,)


def test_bias_act_backward_of_more_channels_than_a_grid_has_places_in_y(
    device: torch.device,
) -> None:
    y = randn(1, 8 * 65_536 + 1, dtype=torch.float16)  # odd: a block takes eight of them
    grad = randn(*y.shape, dtype=torch.float16, seed=2)
    gx, gb = torch.ops.sdd_fast.bias_act_backward(
        placed(grad, device), placed(y, device), CODES["lrelu"], 0.5, 1.0, None, True
    )
    expected = torch.where(y > 0, grad, grad / 2)
    assert torch.equal(gx.cpu(), expected) and torch.equal(gb.cpu(), expected[0])


# --- conv_epilogue ------------------------------------------------------------------------------

MAP_SHAPES = [
    (1, 1, 1, 1), (2, 3, 5, 7), (1, 513, 3, 2), (3, 130, 4, 4), (2, 16, 16, 16), (70, 2, 1, 3),
    (1, 3, 33, 31), (2, 2, 64, 64), (1, 2, 65, 127), (1, 40, 45, 46), (0, 3, 4, 4), (2, 3, 0, 3),
]  # fmt: skip
ALL = (True, True, True)
PRESENT = [(f, n, b) for f in (True, False) for n in (True, False) for b in (True, False)]


def epilogue_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, noises: int, present: tuple[bool, ...] = ALL
) -> tuple[Tensor, list[Tensor | None]]:
    """x; factor, noise and bias"""
    n, channels, height, width = shape
    shapes = [(n, channels), (noises, 1, height, width), (channels,)]
    some = [randn(*s, dtype=dtype, seed=1 + i) for i, s in enumerate(shapes)]
    return randn(*shape, dtype=dtype), [
        t if p else None for t, p in zip(some, present, strict=True)
    ]


def check_epilogue(
    device: torch.device, x: Tensor, some: list[Tensor | None], act: str, clamp: float | None,
    layouts: tuple[str, ...] = LAYOUTS,
) -> None:  # fmt: skip
    expected = epilogue_reference(x, *some, act, 0.3, 1.25, clamp)
    for layout, there in in_layouts(x, device, layouts):
        others = [
            placed(t, device, "unaligned" if layout == "unaligned" else "dense") for t in some
        ]
        arguments = (*others, CODES[act], 0.3, 1.25, clamp)
        y = torch.ops.sdd_fast.conv_epilogue(there, *arguments)
        assert y.dtype == x.dtype
        assert error(y, expected.y, expected.magnitude) <= FEATURE_TOLERANCE[x.dtype], layout
        if layout not in ("cropped", "strided"):
            torch.ops.sdd_fast.conv_epilogue_(there, *arguments)
            assert torch.equal(there, y), layout


def check_epilogue_backward(
    device: torch.device, x: Tensor, some: list[Tensor | None], act: str, clamp: float | None,
    wanted: tuple[bool, ...], layouts: tuple[str, ...] = LAYOUTS,
) -> None:  # fmt: skip
    tolerance = 4 * FEATURE_TOLERANCE[x.dtype]
    grad = randn(*x.shape, dtype=x.dtype, seed=9)
    # Nothing comes back from where a rounding decides on the slope.
    linear = epilogue_reference(x, *some, "linear", 1.0, 1.0, None)
    reached = 1.25 * np.abs(np.where(linear.y < 0, {"lrelu": 0.3}.get(act, 1.0), 1.0) * linear.y)
    unsure = np.minimum(np.abs(linear.y), np.abs(reached - (clamp or 1e9))) < 1e-5
    grad = grad.masked_fill(torch.from_numpy(unsure), 0)
    expected = epilogue_reference(x, *some, act, 0.3, 1.25, clamp, grad)
    pixels, largest = x.shape[2] * x.shape[3], 1.25 * float(grad.abs().max()) if x.numel() else 1.0
    scales = [  # of the sums: what is added up
        largest * pixels * float(x.abs().max()) if x.numel() else 1.0,
        largest * x.shape[0] * x.shape[1],
        largest * x.shape[0] * pixels,
    ]
    for layout, there in in_layouts(x, device, layouts):
        others = [
            placed(t, device, "unaligned" if layout == "unaligned" else "dense") for t in some
        ]
        for other in {"dense", layout}:
            gx, *sums = torch.ops.sdd_fast.conv_epilogue_backward(
                placed(grad, device, other), there, *others, CODES[act], 0.3, 1.25, clamp, *wanted
            )
            assert error(gx, expected.x) <= tolerance, (layout, other)
            right = (expected.factor, expected.noise, expected.bias)
            for g, of, r, want, scale in zip(sums, some, right, wanted, scales, strict=True):
                if want and of is not None and r is not None:
                    assert g.dtype == of.dtype
                    assert error(g, r, scale) <= tolerance, (layout, other)
                else:
                    assert g.numel() == 0


@DTYPES
@pytest.mark.parametrize("shape", MAP_SHAPES, ids=str)
def test_conv_epilogue(device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for k, (noises, act, clamp) in enumerate(((1, "lrelu", 0.75), (shape[0], "relu", None))):
        x, some = epilogue_inputs(shape, dtype, noises)
        layouts = layouts_for(k, 2, x)
        check_epilogue(device, x, some, act, clamp, layouts)
        check_epilogue_backward(device, x, some, act, clamp, ALL, layouts)


@DTYPES
@pytest.mark.parametrize("present", PRESENT, ids=str)
def test_conv_epilogue_options(
    device: torch.device, dtype: torch.dtype, present: tuple[bool, ...]
) -> None:
    """Every subset of the operands and, of those there are, of the gradients; float32 factors."""
    for shape in ((2, 24, 7, 8), (3, 5, 9, 1)):
        x, some = epilogue_inputs(shape, dtype, 1, present)
        layouts = ("dense", "channels_last", "unaligned")
        for wide in {False, present[0] and dtype.itemsize == 2}:
            if wide and some[0] is not None:
                some[0] = some[0].float()
            check_epilogue(device, x, some, "linear", 2.0, layouts)
            for wanted in PRESENT:
                if all(p or not w for p, w in zip(present, wanted, strict=True)):
                    check_epilogue_backward(device, x, some, "lrelu", 2.0, wanted, layouts[:2])


# --- upfirdn2d ----------------------------------------------------------------------------------

FACTORS = [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2)]
TAPS = [(4,), (7,), (3, 4), (1,), (12,), (33, 32)]  # of 33 * 32 not all fit shared memory


@DTYPES
@pytest.mark.parametrize(("up", "down"), FACTORS)
@pytest.mark.parametrize(
    "shape",
    [(2, 3, 5, 4), (1, 1, 3, 129), (1, 2, 65, 3), (2, 16, 9, 7), (3, 5, 33, 31)],
    ids=str,
)
def test_upfirdn2d(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, ...], up: int, down: int
) -> None:
    x = randn(*shape, dtype=dtype)
    for taps in TAPS if x.numel() < 200 else TAPS[:3]:
        f = randn(*taps, dtype=torch.float32, seed=1)  # asymmetric, so orientation matters
        reach = max(0, taps[0] - 4, taps[-1] - 4)
        for k, (pads, flip) in enumerate((((2, 1, 2, 1), False), ((-1, 3, 4, -2), True))):
            pads = tuple(p + reach for p in pads)
            expected = upfirdn2d_reference(x, f, up, down, pads, flip, 1.5)
            for layout, there in in_layouts(x, device, layouts_for(k, 2, x)):
                y = torch.ops.sdd_fast.upfirdn2d(
                    there, placed(f, device), up, down, *pads, flip, 1.5
                )
                assert y.dtype == dtype
                assert upfirdn2d_error(y.cpu(), f, expected) < 1, (layout, taps, pads)


@pytest.mark.parametrize("f_dtype", list(FEATURE_TOLERANCE), ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("taps", [(4,), (9,), (3, 5)], ids=str)
def test_upfirdn2d_filters(
    device: torch.device, taps: tuple[int, ...], f_dtype: torch.dtype
) -> None:
    """Filters of every dtype, in any order in memory."""
    x, f = randn(1, 2, 9, 11, dtype=torch.float32), randn(*taps, dtype=f_dtype, seed=1)
    expected = upfirdn2d_reference(x, f, 2, 1, (4, 4, 4, 4))
    for _, there in in_layouts(f, device, ("dense", "unaligned", "cropped", "strided")):
        for filter_ in (there, there.mT.contiguous().mT if f.ndim == 2 else there):
            y = torch.ops.sdd_fast.upfirdn2d(
                placed(x, device), filter_, 2, 1, 4, 4, 4, 4, False, 1.0
            )
            assert upfirdn2d_error(y.cpu(), f, expected) < 1


@DTYPES
@pytest.mark.parametrize(("up", "down"), FACTORS)
@pytest.mark.parametrize("taps", [(4,), (3, 4)], ids=str)
def test_upfirdn2d_gradient(
    device: torch.device, dtype: torch.dtype, taps: tuple[int, ...], up: int, down: int
) -> None:
    """The transpose of the matrix that the definition is, column by column."""
    height, width, pads = 5, 6, (2, 1, -1, 3)
    f = randn(*taps, dtype=torch.float32, seed=1)
    units = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    columns = upfirdn2d_reference(units, f, up, down, pads).y
    grad = randn(2, 3, *columns.shape[2:], dtype=dtype, seed=2)
    wide = grad.double().numpy()
    expected = np.einsum("kuij,ncij->nck", columns, wide).reshape(2, 3, height, width)
    scale = np.einsum("kuij,ncij->nck", np.abs(columns), np.abs(wide)).max()
    for layout, x in in_layouts(torch.zeros(2, 3, height, width, dtype=dtype), device):
        x.requires_grad_()
        y = torch.ops.sdd_fast.upfirdn2d(x, placed(f, device), up, down, *pads, False, 1.0)
        (gx,) = torch.autograd.grad(y, x, placed(grad, device, layout))
        assert error(gx, expected, scale) <= 4 * FEATURE_TOLERANCE[dtype], layout


# --- demodulation -------------------------------------------------------------------------------

WEIGHTS = [
    (1, 1, 1, 1), (2, 3, 3, 3), (33, 31, 3, 3), (31, 33, 1, 1), (1, 257, 3, 3), (257, 1, 1, 3),
    (7, 300, 1, 1), (3, 2, 5, 2), (3, 2, 17, 17), (2, 5, 36, 9), (9, 40, 2, 2), (0, 3, 3, 3),
    (3, 0, 3, 3), (3, 4, 0, 3),
]  # fmt: skip


@DTYPES
@pytest.mark.parametrize("shape", WEIGHTS, ids=str)
def test_demodulation(device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for n in (1, 3):
        w, s = randn(*shape, dtype=dtype), randn(n, shape[1], dtype=dtype, seed=1)
        expected = demodulation_reference(w, s, 1e-3)
        for turned in (False, True):
            for layout, there in in_layouts(w.transpose(0, 1) if turned else w, device):
                there = there.transpose(0, 1) if turned else there
                styles = placed(s, device, "strided" if layout == "cropped" else layout)
                actual = torch.ops.sdd_fast.demodulation(there, styles, 1e-3)
                for a, e in zip(actual, expected, strict=True):
                    assert a.dtype == (dtype if dtype == torch.float64 else torch.float32)
                    assert largest_share(a, e) <= DEMODULATION_TOLERANCE[dtype], (layout, turned)


# --- group_norm_silu ----------------------------------------------------------------------------

NORMALIZED = [
    ((1, 1), 1), ((2, 6), 3), ((1, 3, 1, 1), 3), ((2, 6, 5, 7), 3), ((1, 16, 8, 8), 4),
    ((1, 64, 3, 33), 32), ((2, 65, 9, 7), 5), ((1, 33, 8, 9), 33), ((1, 32, 12, 11), 1),
    ((1, 4, 511), 1), ((1, 4, 513), 2), ((2, 3, 4097), 1), ((0, 4, 3, 3), 2), ((2, 4, 0, 3), 4),
]  # fmt: skip


@DTYPES
@pytest.mark.parametrize(("shape", "groups"), NORMALIZED, ids=str)
def test_group_norm_silu(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, ...], groups: int
) -> None:
    """Forward, and backward of two cotangents; parameters of the dtype of x and in float32."""
    tolerance = GROUP_NORM_TOLERANCE[dtype]
    first = randn(*shape, dtype=dtype) + 3
    both = [randn(*shape, dtype=dtype, seed=1 + k) for k in range(2)]
    wide = torch.promote_types(dtype, torch.float32)
    for k, (silu, of) in enumerate(((True, dtype), (False, wide))):
        w, b = (randn(shape[1], dtype=of, seed=5 + k) for k in range(2))
        right = [group_norm_silu_reference(first, groups, w, b, 1e-3, silu, g) for g in both]
        x_grads = np.concatenate([r.x_grad for r in right])
        magnitude = max(r.magnitude for r in right)
        w, b = placed(w, device), placed(b, device)
        for layout, x in in_layouts(first, device, layouts_for(k, 2, first)):
            y, *s = torch.ops.sdd_fast.group_norm_silu(x, groups, w, b, 1e-3, silu)
            assert y.dtype == dtype
            assert error(y, right[0].y) <= tolerance, layout
            for other in {"dense", layout}:
                grad = placed(torch.cat(both), device, other)
                back = torch.ops.sdd_fast.group_norm_silu_backward(grad, x, *s, w, b, silu)
                assert error(back, x_grads, magnitude) <= tolerance, (layout, other)


@pytest.mark.parametrize("layout", ["dense", "channels_last"])
def test_group_norm_silu_of_many_samples_and_a_mean_far_from_zero(
    device: torch.device, layout: str
) -> None:
    samples = 65_535 + 3  # more than a grid has places in y
    first = randn(samples, 2, 2, 1, dtype=torch.float32) + 1e4
    w, b = torch.ones(2), torch.zeros(2)
    x = placed(first, device, layout)
    y, *s = torch.ops.sdd_fast.group_norm_silu(
        x, 1, *(placed(p, device) for p in (w, b)), 1e-6, True
    )
    z = torch.nn.functional.group_norm(first.double(), 1, eps=1e-6)
    assert error(y, torch.nn.functional.silu(z).numpy()) <= GROUP_NORM_TOLERANCE[torch.float32]


# --- softmax_entropy_l1 -------------------------------------------------------------------------

LENGTHS = (1, 2, 3, 7, 9, 127, 129, 255, 256, 257, 1023, 1025, 4095, 4097, 16383, 16385, 40003)


def check_entropy(
    x: Tensor, actual: tuple[Tensor, ...], expected: MapStatistics, layout: str
) -> None:
    entropy, l1, deficit, *_ = (t.cpu().numpy() for t in actual)
    tolerance = DEFICIT_TOLERANCE[x.dtype]
    np.testing.assert_allclose(
        deficit, expected.deficit, rtol=tolerance, atol=1e-17, err_msg=layout
    )
    np.testing.assert_allclose(entropy, expected.entropy, rtol=0, atol=2e-6, err_msg=layout)
    np.testing.assert_allclose(l1, expected.l1, rtol=1e-6, err_msg=layout)


@DTYPES
@pytest.mark.parametrize("n", LENGTHS)
def test_softmax_entropy_l1(device: torch.device, dtype: torch.dtype, n: int) -> None:
    for k, std in enumerate((1e-3, 0.2, 5.0)):
        x = gradient_rows(3, n, std, offset=0.1).to(dtype)
        expected = entropy_reference(x)
        shift = x.double().logsumexp(1) - float(np.log(n))
        for layout, there in in_layouts(x, device, layouts_for(k, 3, x)):
            actual = torch.ops.sdd_fast.softmax_entropy_l1(there, False)
            check_entropy(x, actual, expected, layout)
            torch.testing.assert_close(actual[3].cpu(), shift, rtol=1e-6, atol=1e-6)


@DTYPES
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_softmax_entropy_l1_abs_mean(
    device: torch.device, dtype: torch.dtype, channels: int
) -> None:
    for n in (1, 9, 257, 4097, 20001):
        x = gradient_rows(2 * channels, n, 0.1, offset=0.02).to(dtype).view(2, channels, n)
        expected = entropy_reference(x.double().abs().mean(1))
        for layout, there in in_layouts(x, device):
            check_entropy(x, torch.ops.sdd_fast.softmax_entropy_l1(there, True), expected, layout)


def test_softmax_entropy_l1_of_many_and_of_no_rows(device: torch.device) -> None:
    for rows, n in ((0, 5), (1, 70001), (300, 33)):
        x = gradient_rows(rows, n, 0.5)
        check_entropy(x, softmax_entropy_l1(placed(x, device)), entropy_reference(x), "dense")


def test_softmax_entropy_l1_keeps_nan_in_its_row(device: torch.device) -> None:
    for n in (9, 300, 20001):
        for bad in (torch.nan, torch.inf, -torch.inf):
            for place in (0, n // 2, n - 1):
                x = gradient_rows(3, n, 0.2)
                x[1, place] = bad
                _, l1, deficit = (t.cpu() for t in softmax_entropy_l1(placed(x, device)))
                assert deficit.isnan().tolist() == [False, True, False]
                assert l1[[0, 2]].isfinite().all() and not l1[1].isfinite()


@pytest.mark.parametrize("gradient_map", ["signed", "abs-mean"])
def test_softmax_entropy_l1_gradient(device: torch.device, gradient_map: str) -> None:
    x = torch.randn(2, 3, 301, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = x.flatten(1) if gradient_map == "signed" else x
    mean = x.clone().requires_grad_()
    y = mean if gradient_map == "signed" else mean.abs().mean(1)
    p = y.softmax(-1)
    entropy, l1 = -(p * y.log_softmax(-1)).sum(-1), y.abs().sum(-1)
    (expected,) = torch.autograd.grad((2 * entropy + l1 + 3 * -entropy).sum(), mean)
    there = placed(x, device).requires_grad_()
    entropy, l1, deficit = softmax_entropy_l1(there, gradient_map)
    (actual,) = torch.autograd.grad((2 * entropy + l1 + 3 * deficit).sum(), there)
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-9, atol=1e-12)


def check_entropy_backward(
    device: torch.device, x: Tensor, of_deficit: float, of_l1: float, abs_mean: bool,
    layouts: tuple[str, ...] = LAYOUTS,
) -> None:  # fmt: skip
    """In every layout, into each entry of every row and into nothing else."""
    expected = entropy_gradient_reference(x, of_deficit, of_l1, abs_mean)
    weights = torch.tensor([of_deficit, of_l1], dtype=torch.float64, device=device)
    for layout, there in in_layouts(x, device, layouts):
        _, _, deficit, log_mean_exp = torch.ops.sdd_fast.softmax_entropy_l1(there, abs_mean)
        # Half of what comes back to the deficit comes back to the entropy.
        d, n = (weights[i].expand(len(x)) for i in range(2))
        actual = torch.ops.sdd_fast.softmax_entropy_l1_backward(
            -d / 2, n if of_l1 else None, d / 2, None, there, deficit, log_mean_exp, abs_mean
        )
        assert actual.dtype == x.dtype and actual.is_contiguous()
        assert norm_error(actual, expected) < 2 * ENTROPY_GRADIENT_TOLERANCE[x.dtype], layout


@DTYPES
@pytest.mark.parametrize("n", LENGTHS)
def test_softmax_entropy_l1_backward(device: torch.device, dtype: torch.dtype, n: int) -> None:
    for k, std in enumerate((1e-3, 0.2, 5.0)):
        x = gradient_rows(3, n, std, offset=2 * std).to(dtype)
        layouts = layouts_for(k, 3, x)
        check_entropy_backward(device, x, n / std, 0.3, False, layouts)
        if n > 100:
            check_entropy_backward(device, x, n / std, 0.0, False, layouts)


@DTYPES
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_softmax_entropy_l1_backward_abs_mean(
    device: torch.device, dtype: torch.dtype, channels: int
) -> None:
    for n in (1, 9, 257, 1024, 4099, 20001):
        x = gradient_rows(2 * channels, n, 0.1, offset=0.02).to(dtype).view(2, channels, n)
        x[:, 0, 1::5] = 0
        check_entropy_backward(device, x, 10.0 * n, 0.3, abs_mean=True)


def test_softmax_entropy_l1_backward_of_many_and_of_no_rows(device: torch.device) -> None:
    for rows, n in ((0, 5), (1, 70001), (300, 33)):
        x = gradient_rows(rows, n, 0.5)
        if rows:
            check_entropy_backward(device, x, 1.0, 0.0, abs_mean=False)
        there = placed(x, device).requires_grad_()
        softmax_entropy_l1(there).deficit.sum().backward()
        assert there.grad.shape == x.shape


# --- modulated_conv2d ---------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize(("up", "side"), [(1, 3), (2, 3), (1, 1)])
@pytest.mark.parametrize("layout", ["dense", "channels_last"])
def test_modulated_conv2d(
    device: torch.device, dtype: torch.dtype, up: int, side: int, layout: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The kernels of the op around the convolution of a library, forward and backward."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8
    # cuDNN may take Winograd's method, which loses a digit, and sums in orders of its own.
    share = 8 if device.type == "cuda" and dtype.itemsize >= 4 else 1
    for n, size in ((2, (19, 23)), (1, (5, 3))):
        shapes = [(n, 24, *size), (9, 24, side, side), (n, 24)]
        shapes += [(1, 1, size[0] * up, size[1] * up), (9,)]
        inputs = [randn(*s, dtype=dtype, seed=i) for i, s in enumerate(shapes)]
        exact = [t.double().requires_grad_() for t in inputs]
        y = modulated_conv2d_reference(*exact[:3], up, True, taps)
        expected = 1.25 * (y + exact[3] + exact[4].reshape(-1, 1, 1))
        grad = randn(*expected.shape, dtype=dtype, seed=8)
        right = torch.autograd.grad(expected, exact, grad.double())
        there = [placed(t, device, layout if t.ndim == 4 else "dense") for t in inputs]
        for graph in (False, True):
            x, weight, styles, noise, bias = leaves = [
                t.detach().requires_grad_(graph) for t in there
            ]
            actual = modulated_conv2d(
                x, weight, styles, up=up, noise=noise, bias=bias, act="linear", gain=1.25
            )
            assert actual.dtype == dtype
            assert distance(actual, expected) < share * 2 * torch.finfo(dtype).eps
        for g, r in zip(torch.autograd.grad(actual, leaves, placed(grad, device)), right,
                        strict=True):  # fmt: skip
            assert distance(g, r) < share * 8 * torch.finfo(dtype).eps


def distance(actual: Tensor, expected: Tensor) -> float:
    expected = expected.detach()
    return float((actual.detach().cpu().double() - expected).norm() / expected.norm())
