"""upfirdn2d against its definition in extended precision, and the contract every op has."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from op_cases import UPFIRDN2D_ROUNDING, upfirdn2d_error, upfirdn2d_reference
from torch import Tensor

from sdd_fast.ops import upfirdn2d, upfirdn2d_ref
from sdd_fast.ops._register import NATIVE

BOTH = pytest.mark.parametrize("op", [upfirdn2d, upfirdn2d_ref])
needs_native = pytest.mark.skipif(NATIVE.path is None, reason="native kernels: " + NATIVE.missing)
# Only the kernels sum 16-bit numbers in float32; plain PyTorch rounds the taps, too, to 16 bits.
DTYPES = [d for d in UPFIRDN2D_ROUNDING if NATIVE.path is not None or d.itemsize > 2]

Pads = tuple[int, int, int, int]

# up, down, (left, right, top, bottom), size (H, W), filter shape
CASES: list[tuple[int, int, Pads, tuple[int, int], tuple[int, ...]]] = [
    (1, 1, (0, 0, 0, 0), (5, 6), (3,)),
    (1, 1, (1, 1, 1, 1), (5, 6), (4,)),  # the blur after an upsampling convolution
    (2, 1, (2, 1, 2, 1), (4, 5), (4,)),  # the upsampling of the skip image
    (1, 2, (1, 1, 1, 1), (6, 8), (4,)),
    (1, 2, (1, 2, 0, 1), (5, 7), (3, 2)),  # rows and columns are left over
    (2, 2, (3, 0, -1, 4), (5, 4), (2, 5)),
    (3, 2, (0, 4, 5, 1), (3, 4), (4, 3)),
    (2, 3, (-2, -1, -1, -2), (6, 7), (3, 3)),  # cropping
    (4, 1, (0, 0, 0, 0), (2, 3), (1,)),  # a filter shorter than the zeros between pixels
    (1, 1, (0, 0, 3, -2), (1, 3), (1,)),  # cropped are zeros of the other side, too
    (2, 1, (-3, 6, 5, -4), (1, 1), (2, 3)),
    (2, 1, (7, 6, 5, 8), (1, 1), (2, 3)),  # padding beyond the reach of the filter
]
FACTORS = [(1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (1, 3), (4, 1), (3, 2), (2, 3), (4, 2), (2, 4)]


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def scattered(x: Tensor, *index: slice) -> Tensor:
    """A view with other numbers, NaN, between its own."""
    shape = [2 * n + 3 for n in x.shape]
    view = torch.full(shape, torch.nan, dtype=x.dtype)[index]
    view = view[tuple(slice(n) for n in x.shape)]
    return view.copy_(x)


def scattered_pixels(x: Tensor) -> Tensor:
    return scattered(x.permute(0, 2, 3, 1), EVERY, OTHER, EVERY, EVERY).permute(0, 3, 1, 2)


EVERY, OTHER = slice(None), slice(1, None, 2)
# The same numbers, lying in memory in different ways.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "cropped": lambda x: scattered(x, EVERY, EVERY, EVERY, slice(2, None)),
    "every second column": lambda x: scattered(x, EVERY, EVERY, EVERY, OTHER),
    "every second row": lambda x: scattered(x, EVERY, EVERY, OTHER, EVERY),
    "some channels, channels_last": scattered_pixels,
}


# --- accuracy -----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(("up", "down", "pads", "size", "taps"), CASES)
@pytest.mark.parametrize("flip", [False, True])
def test_definition(op, up, down, pads, size, taps, flip) -> None:  # type: ignore[no-untyped-def]
    x = numbers(2, 3, *size, dtype=torch.float64)
    f = numbers(*taps, dtype=torch.float64, seed=1)  # asymmetric, so orientation matters
    expected = upfirdn2d_reference(x, f, up, down, pads, flip, 1.5)
    assert upfirdn2d_error(op(x, f, up, down, pads, flip, 1.5), f, expected) < 1


def test_definition_by_hand() -> None:
    """The reference of the other tests, and the op, on numbers one can follow."""
    x, f = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[1.0, 10.0]])
    up = [[0, 1, 10, 2, 20], [0, 0, 0, 0, 0], [0, 3, 30, 4, 40], [0, 0, 0, 0, 0]]
    assert upfirdn2d_reference(x, f, up=2, padding=(2, 0, 0, 0)).y[0, 0].tolist() == up
    assert upfirdn2d(x, f, up=2, padding=(2, 0, 0, 0))[0, 0].tolist() == up
    down = [[10.0 + 2.0]]
    assert upfirdn2d(x, f, down=2)[0, 0].tolist() == down
    assert upfirdn2d(x, f, down=2, flip_filter=True)[0, 0].tolist() == [[1.0 + 20.0]]
    assert upfirdn2d(x, f, padding=(0, 0, -1, 0), gain=-2.0)[0, 0].tolist() == [[-2 * (30 + 4.0)]]


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("up", "down"), FACTORS)
def test_widths(up: int, down: int, layout: str, separable: bool) -> None:
    """Every remainder of every vector length, with few channels and with enough for a group."""
    f = numbers(4, seed=1) if separable else numbers(3, 4, seed=1)
    for width in (*range(1, 36), 63, 64, 65):
        for channels in (3, 16):
            x = LAYOUTS[layout](numbers(1, channels, 3, width, seed=width))
            expected = upfirdn2d_reference(x, f, up, down, (2, 1, 1, 2))
            assert upfirdn2d_error(upfirdn2d(x, f, up, down, (2, 1, 1, 2)), f, expected) < 1


@pytest.mark.parametrize("taps", range(1, 9))
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_short_rows(up: int, down: int, taps: int) -> None:
    """Several planes and the beginning of another in a strip; odd phases, padding and cropping."""
    f = numbers(taps, seed=1)
    for pads in ((2, 1, 2, 1), (1, 2, 1, 2), (-1, 9, 3, -2), (8, -1, -1, 9)):
        for size in (3, 7, 8, 9, 15, 16, 17, 18, 31, 32, 33, 49, 63, 65, 70):
            if size * up + min(sum(pads[:2]), sum(pads[2:])) < taps:
                continue
            x = numbers(2, 3, size, size + 1, seed=size)
            expected = upfirdn2d_reference(x, f, up, down, pads)
            assert upfirdn2d_error(upfirdn2d(x, f, up, down, pads), f, expected) < 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_small_planes(dtype: torch.dtype, up: int, down: int) -> None:
    """Of one pixel to some, by lines and by groups of planes; nothing but edges."""
    f = numbers(4, seed=1)
    for size in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 5), (5, 18), (4, 33)):
        for channels in (1, 3, 16, 32):
            x = numbers(2, channels, *size, dtype=dtype)
            for pads in ((2, 1, 2, 1), (3, 2, 1, 4), (9, -1, 4, 4)):
                if size[1] * up + sum(pads[:2]) < 4 or size[0] * up + sum(pads[2:]) < 4:
                    continue
                expected = upfirdn2d_reference(x, f, up, down, pads)
                assert upfirdn2d_error(upfirdn2d(x, f, up, down, pads), f, expected) < 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [7, 16, 17, 31, 40, 529])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_many_channels_last(dtype: torch.dtype, channels: int, up: int, down: int) -> None:
    """Whole and incomplete vectors of a pixel, all of it at once and in chunks; blocks of columns,
    odd phases, padding and cropping."""
    f = numbers(4, seed=1)
    for size in ((1, 1), (2, 3), (9, 8), (3, 75 if channels > 99 else 20)):
        x = LAYOUTS["channels_last"](numbers(1 + (channels < 99), channels, *size, dtype=dtype))
        for pads in ((2, 1, 2, 1), (1, 2, 1, 2), (5, -1, -1, 6)):
            if size[1] * up + sum(pads[:2]) < 4 or size[0] * up + sum(pads[2:]) < 4:
                continue
            expected = upfirdn2d_reference(x, f, up, down, pads)
            assert upfirdn2d_error(upfirdn2d(x, f, up, down, pads), f, expected) < 1


SIZES, SOME_TAPS = [(1, 1, 3, 40001), (1, 32, 5, 1100), (2, 32, 16, 17)], [(4,), (12,), (5, 6)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", range(3))
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_sizes_and_dtypes(dtype: torch.dtype, size: int, up: int, down: int) -> None:
    """Several blocks of columns, strips of rows, groups of planes; short and long filters.

    Each dtype and pair of factors, which tell the kernel, meets each filter, in one of the sizes.
    """
    shape, taps = SIZES[size], SOME_TAPS[(size + 2 * up + down + DTYPES.index(dtype)) % 3]
    x, f = numbers(*shape, dtype=dtype), numbers(*taps, seed=1)
    expected = upfirdn2d_reference(x, f, up, down, (7, 4, 3, 6), gain=0.3)
    for layout in ("contiguous", "channels_last"):
        y = upfirdn2d(LAYOUTS[layout](x), f, up, down, (7, 4, 3, 6), gain=0.3)
        assert y.dtype == dtype
        assert upfirdn2d_error(y, f, expected) < 1


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_arguments(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from(DTYPES))
    up, down = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    channels = draw(st.sampled_from([0, 1, 2, 3, 16, 17, 32]))
    shape = (draw(st.integers(0, 3)), channels, draw(st.integers(1, 12)), draw(st.integers(1, 40)))
    side = st.integers(1, 9)
    taps = draw(st.one_of(st.tuples(side), st.tuples(side, side)))
    pads = draw(st.tuples(*[st.integers(-6, 12)] * 4))
    x = numbers(*shape, dtype=dtype, seed=draw(st.integers(0, 99)))
    f = numbers(*taps, dtype=draw(st.sampled_from(list(UPFIRDN2D_ROUNDING))), seed=1)
    # Not near the smallest numbers of float32, as which the taps times the gain are rounded.
    gains = st.one_of(st.just(0.0), st.floats(1e-6, 4), st.floats(-4, -1e-6))
    flip, gain = draw(st.booleans()), draw(gains)
    x = LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](x)
    left, right, top, bottom = pads
    if shape[2] * up + top + bottom < taps[0] or shape[3] * up + left + right < taps[-1]:
        with pytest.raises(ValueError, match="smaller than the filter"):
            upfirdn2d(x, f, up, down, pads)
        return
    expected = upfirdn2d_reference(x, f, up, down, pads, flip, gain)
    assert upfirdn2d_error(upfirdn2d(x, f, up, down, pads, flip, gain), f, expected) < 1


@needs_native
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gain", [1.0, 1 / 3, 3.0, -1e-4])
def test_every_16_bit_number_is_read_and_rounded_as_torch_does(dtype, gain: float) -> None:
    """A filter of one tap, so that nothing but the gain comes between load and store."""
    patterns = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    x = patterns.view(dtype)
    y = (x.float() * torch.tensor(gain)).to(dtype)
    for size in ((1, 1, 256, 256), (1, 4096, 4, 4), (1, 1 << 15, 1, 2), (1, 1, 1 << 15, 2)):
        ours = upfirdn2d(x.view(size), torch.ones(1, 1), gain=gain).flatten()
        torch.testing.assert_close(ours, y, rtol=0, atol=0, equal_nan=True)


def test_what_is_cropped_or_out_of_reach_does_not_matter() -> None:
    x = numbers(1, 2, 8, 40)
    f = torch.tensor([1.0, 2, 3])
    for cut in (x.clone(), x.contiguous(memory_format=torch.channels_last)):
        clean = upfirdn2d(cut, f, padding=(-2, -3, -1, -2))
        cut[..., :2], cut[..., -3:] = torch.nan, torch.inf
        cut[:, :, :1], cut[:, :, -2:] = torch.inf, torch.nan
        assert torch.equal(upfirdn2d(cut, f, padding=(-2, -3, -1, -2)), clean)
    part = numbers(1, 2, 8, 40)[:, :, :6, :35]
    around = torch.full((1, 2, 8, 40), torch.nan)
    around[:, :, :6, :35] = part
    for up, down in ((1, 1), (2, 1), (1, 2)):
        clean = upfirdn2d(part, f, up, down, 2)
        assert torch.equal(upfirdn2d(around[:, :, :6, :35], f, up, down, 2), clean)
    x[0, 0, 4, 20] = torch.nan
    reached = upfirdn2d(x, f, padding=1).isnan()
    assert reached[0, 0, 3:6, 19:22].all() and reached.sum() == 9


@pytest.mark.parametrize("gain", [0.0, 2.0])
def test_keeps_a_constant_image(gain: float) -> None:
    """What the generator relies on: upsampling with [1, 3, 3, 1] changes no flat color."""
    x = torch.full((1, 3, 5, 5), 0.8)
    y = upfirdn2d(x, torch.tensor([1.0, 3, 3, 1]) / 8, 2, padding=(2, 1, 2, 1), gain=2 * gain)
    assert y.shape == (1, 3, 10, 10)
    torch.testing.assert_close(y[..., 2:-2, 2:-2], torch.full((1, 3, 6, 6), 0.8 * gain / 2))


# --- layouts, sizes, threads --------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_layouts(op, up: int, down: int, channels: int) -> None:
    x, f = numbers(2, channels, 7, 9), numbers(4, seed=1)
    expected = upfirdn2d_reference(x, f, up, down, (2, 1, 0, 3))
    for view in (lay(x) for lay in LAYOUTS.values()):
        assert upfirdn2d_error(op(view, f, up, down, (2, 1, 0, 3)), f, expected) < 1
    one = x[:1, :1].expand(2, channels, -1, -1)
    expected = upfirdn2d_reference(one, f, up, down, (2, 1, 0, 3))
    assert upfirdn2d_error(op(one, f, up, down, (2, 1, 0, 3)), f, expected) < 1


@needs_native
def test_channels_last_comes_out_as_it_went_in() -> None:
    x, f = numbers(2, 8, 6, 6), torch.ones(4)
    for up, down in ((1, 1), (2, 1), (1, 2)):
        for view in (lay(x) for lay in LAYOUTS.values()):
            y = upfirdn2d(view, f, up, down, padding=2)
            last = view.stride(1) == 1
            assert y.is_contiguous(
                memory_format=torch.channels_last if last else torch.contiguous_format
            )
    assert upfirdn2d(x[..., :1, :1], f, padding=2).is_contiguous()


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (0, 0, 1, 1)])
def test_empty_batches(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    y = upfirdn2d(x, torch.ones(3), up=2, padding=2)
    assert y.shape == (*shape[:2], shape[2] * 2 + 2, shape[3] * 2 + 2)
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == shape


@needs_native
@pytest.mark.parametrize("far", [(0,), (1,), (2,), (3,), (0, 2)])
@pytest.mark.parametrize("near", [(8, 4, 2, 1), (8, 1, 4, 2)])
def test_offsets_beyond_31_bits(tmp_path: Path, far: tuple[int, ...], near: Pads) -> None:
    """Neighbors 2**31 elements apart, in a file with a hole in place of the memory."""
    distance = 2**31
    path = tmp_path / "numbers"
    with path.open("wb") as file:
        file.truncate(2 * (len(far) * distance + 16))
    storage = torch.from_file(
        str(path), shared=True, size=len(far) * distance + 16, dtype=torch.float16
    )
    strides = [distance if d in far else s for d, s in enumerate(near)]
    x = storage.as_strided((2, 2, 2, 2), strides)
    x.copy_(numbers(2, 2, 2, 2))
    f = numbers(4, seed=1)
    for up, down in ((1, 1), (2, 1), (1, 2)):
        y = upfirdn2d(x, f, up, down, (2, 2, 2, 2))
        expected = upfirdn2d_reference(x.clone(), f, up, down, (2, 2, 2, 2))
        assert upfirdn2d_error(y, f, expected) < 1


@needs_native
def test_sizes_beyond_31_bits() -> None:
    """Images of up to 2**35 pixels that are all one number in memory."""
    one = torch.full((1, 1, 1, 1), 2.0)
    f = torch.tensor([1.0, 10.0])
    tall = upfirdn2d(one.expand(1, 1, 2**35, 1), f, down=2**31 - 1, padding=(1, 0, 0, 0))
    assert tall.tolist() == [[[[2.0 * 11]] * 17]]
    wide = upfirdn2d(one.expand(1, 1, 1, 2**35), f, down=2**31 - 1, padding=(0, 0, 1, 0))
    assert wide.tolist() == [[[[2.0 * 11] * 17]]]
    cut = upfirdn2d(one.expand(1, 1, 3, 2**35), f, padding=(3 - 2**35, 0, 0, 0))
    assert cut.tolist() == [[[[2.0 * 121] * 2] * 2]]
    step = 2**31 - 1
    far = upfirdn2d(one, f, up=step, down=step, padding=(512 * step, 0, 0, 2 - step))
    assert far.tolist() == [[[[0.0] * 512 + [2.0 * 100]]]]
    meta = upfirdn2d(torch.empty(4, 512, 2**14, 2**14, device="meta"), f.to("meta"), up=2)
    assert meta.shape == (4, 512, 2**15 - 1, 2**15 - 1)


@pytest.mark.parametrize(
    "shape", [(2, 3, 200, 301), (1, 64, 60, 40), (1, 64, 9, 700), (4, 64, 17, 17), (4, 96, 9, 9)]
)
@pytest.mark.parametrize(("up", "down", "taps"), [(1, 1, (4,)), (2, 1, (4,)), (1, 2, (3, 3))])
def test_bits_do_not_depend_on_the_number_of_threads(shape, up, down, taps) -> None:  # type: ignore[no-untyped-def]
    f = numbers(*taps, seed=1)
    threads = torch.get_num_threads()
    for x in (numbers(*shape), numbers(*shape).contiguous(memory_format=torch.channels_last)):
        results = []
        try:
            for count in (1, 2, 3, 7):
                torch.set_num_threads(count)
                results.append(upfirdn2d(x, f, up, down, (2, 1, 2, 1)))
        finally:
            torch.set_num_threads(threads)
        assert all(torch.equal(other, results[0]) for other in results[1:])


# --- gradients, compile, autocast ---------------------------------------------------------------


@pytest.fixture(params=["native", "reference"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The op by its native kernel, and as it is where there is none."""
    if request.param == "reference":
        module = sys.modules["sdd_fast.ops.upfirdn2d"]
        monkeypatch.setattr(module, "native_kernel", lambda op, device: False)
    elif NATIVE.path is None:
        pytest.skip("native kernels: " + NATIVE.missing)
    return str(request.param)


@pytest.mark.parametrize(("up", "down", "pads", "size", "taps"), CASES)
def test_gradcheck_and_gradgradcheck(kernel, up, down, pads, size, taps) -> None:  # type: ignore[no-untyped-def]
    f = numbers(*taps, dtype=torch.float64, seed=1)
    for layout in ("contiguous", "channels_last"):
        x = LAYOUTS[layout](numbers(1, 2, *size, dtype=torch.float64)).requires_grad_()

        def function(x: Tensor) -> Tensor:
            return upfirdn2d(x, f, up, down, pads, gain=0.5)

        assert torch.autograd.gradcheck(function, (x,))
        assert torch.autograd.gradgradcheck(function, (x,))


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("shape", [(2, 16, 9, 11), (1, 3, 40, 37)])
def test_gradient_is_the_adjoint(kernel, shape, up: int, down: int) -> None:  # type: ignore[no-untyped-def]
    """<A x, g> = <x, A' g> in float32, on the paths that the small checks do not reach."""
    x, f = numbers(*shape).requires_grad_(), numbers(4, seed=1)
    y = upfirdn2d(x, f, up, down, (2, 1, 2, 1))
    g = numbers(*y.shape, seed=2)
    (x_grad,) = torch.autograd.grad(y, x, g)
    expected = torch.from_numpy(upfirdn2d_reference(x, f, up, down, (2, 1, 2, 1)).y)
    terms = (expected * g).abs().sum().item()
    assert (expected * g).sum().item() == pytest.approx(
        (x.detach().double() * x_grad).sum().item(), abs=1e-6 * terms
    )


def test_batched_gradients(kernel: str) -> None:
    """Several cotangents through one graph, as a timestep search may do."""
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    y = upfirdn2d(x, torch.tensor([1.0, 3, 3, 1]), up=2, padding=(2, 1, 2, 1))
    cotangents = torch.randn(4, *y.shape, dtype=torch.float64)
    (together,) = torch.autograd.grad(y, x, cotangents, is_grads_batched=True, retain_graph=True)
    for cotangent, gradient in zip(cotangents, together, strict=True):
        (alone,) = torch.autograd.grad(y, x, cotangent, retain_graph=True)
        torch.testing.assert_close(gradient, alone)


def test_vmap_over_images_and_over_filters() -> None:
    x = numbers(4, 2, 3, 5, 6).double()  # in float32 both round, each in an order of its own
    f = torch.tensor([1.0, 3, 3, 1])
    for dim in (0, 2):
        mapped = torch.vmap(lambda x: upfirdn2d(x, f, padding=1), in_dims=dim)(x.movedim(0, dim))
        expected = torch.stack([upfirdn2d(part, f, padding=1) for part in x])
        torch.testing.assert_close(mapped, expected)
    filters = torch.stack([f, f.flip(0) + 1, 2 * f])
    mapped = torch.vmap(lambda f: upfirdn2d(x[0], f, padding=1))(filters)
    expected = torch.stack([upfirdn2d(x[0], f, padding=1) for f in filters])
    torch.testing.assert_close(mapped, expected)


@pytest.mark.parametrize(("up", "down"), [((2, 1), 1), ((1, 3), (1, 2)), (1, (2, 1)), ((2, 3), 2)])
@pytest.mark.parametrize("padding", [(2, 1, 2, 1), (0, -1, 3, 0)])
def test_factors_that_differ_by_axis(up, down, padding) -> None:  # type: ignore[no-untyped-def]
    """(horizontal, vertical): one axis alone is resampled as by the factors of that axis."""
    x, f = numbers(2, 3, 7, 9, dtype=torch.float64), numbers(3, 4, dtype=torch.float64, seed=1)
    up_x, up_y = (up, up) if isinstance(up, int) else up
    down_x, down_y = (down, down) if isinstance(down, int) else down
    inserted = x.new_zeros(2, 3, 7 * up_y, 9 * up_x)
    inserted[:, :, ::up_y, ::up_x] = x
    expected = upfirdn2d(inserted, f, 1, 1, padding)[:, :, ::down_y, ::down_x]
    leaf = x.clone().requires_grad_()
    y = upfirdn2d(leaf, f, up, down, padding)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.vmap(lambda x: upfirdn2d(x, f, up, down, padding))(x[None])[0],
                               expected)  # fmt: skip
    assert torch.autograd.gradcheck(lambda x: upfirdn2d(x, f, up, down, padding), leaf)


def test_pairs_of_equal_factors_are_those_of_both_axes() -> None:
    x, f = numbers(1, 2, 8, 8), torch.tensor([1.0, 3, 3, 1])
    assert torch.equal(upfirdn2d(x, f, (2, 2), [1, 1], 2), upfirdn2d(x, f, 2, 1, 2))


@needs_native
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
@pytest.mark.parametrize("taps", [(4,), (2, 3)])
def test_opcheck(taps: tuple[int, ...], layout: str, requires_grad: bool) -> None:
    x = LAYOUTS[layout](numbers(2, 3, 5, 6)).requires_grad_(requires_grad)
    arguments = (x, numbers(*taps), 2, 1, 2, 1, 1, 2, False, 4.0)
    torch.library.opcheck(torch.ops.sdd_fast.upfirdn2d, arguments)


def test_compile_fullgraph_forward_and_backward(kernel: str) -> None:
    f = torch.tensor([1.0, 3, 3, 1])

    def function(x: Tensor) -> Tensor:
        return upfirdn2d(x.sin(), f, 2, 1, (2, 1, 2, 1)).square()

    for dynamic in (False, True) if kernel == "native" else (False,):
        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        for size in (4, 7, 20) if dynamic else (5,):
            gradients = []
            for call in (function, compiled):
                x = numbers(1, 2, size, size + 1).requires_grad_()
                call(x).sum().backward()
                gradients.append(x.grad)
            torch.testing.assert_close(gradients[0], gradients[1])


@needs_native
def test_compile_between_other_operations() -> None:
    f = torch.tensor([1.0, 3, 3, 1])

    def function(x: Tensor) -> Tensor:
        return upfirdn2d(x * 2, f, 1, 2, 1) + 1

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for layout in ("contiguous", "channels_last"):
        gradients = []
        for call in (function, compiled):
            x = LAYOUTS[layout](numbers(1, 4, 6, 6)).requires_grad_()
            call(x).square().sum().backward()
            gradients.append(x.grad)
        torch.testing.assert_close(gradients[0], gradients[1])


def test_autocast_leaves_the_precision_alone(kernel: str) -> None:
    x, f = numbers(1, 2, 6, 6).requires_grad_(), numbers(4, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = upfirdn2d(x, f, padding=1)
        (gradient,) = torch.autograd.grad(inside.sum(), x)
    outside = upfirdn2d(x, f, padding=1)
    assert inside.dtype == torch.float32 and torch.equal(inside, outside)
    assert torch.equal(gradient, torch.autograd.grad(outside.sum(), x)[0])


# --- errors -------------------------------------------------------------------------------------

X, F3 = torch.zeros(1, 2, 4, 4), torch.ones(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": X[0], "f": F3}, r"x must be \[N, C, H, W\], got \[2, 4, 4\]"),
        ({"x": X, "f": torch.ones(1, 2, 3)}, r"filter of shape .* got \[1, 2, 3\]"),
        ({"x": X, "f": torch.ones(0)}, r"filter of shape .* got \[0\]"),
        ({"x": X, "f": torch.ones(())}, r"filter of shape .* got \[\]"),
        ({"x": X, "f": F3, "up": 0}, "up must be an integer from 1 to 2147483647 or .*, got 0"),
        ({"x": X, "f": F3, "up": (2,)}, r"up must be .* a pair of them .* got \(2,\)"),
        ({"x": X, "f": F3, "down": (2, 0)}, r"down must be .* a pair of them .* got \(2, 0\)"),
        ({"x": X, "f": F3, "down": 1.5}, "down must be an integer from 1 to .*, got 1.5"),
        ({"x": X, "f": F3, "down": 2**31}, "down must be an integer from 1 to .*, got 2147483648"),
        ({"x": X, "f": F3, "padding": (1, 1)}, r"one integer or \(left, .* got \(1, 1\)"),
        ({"x": X, "f": F3, "padding": 1.0}, r"one integer or \(left, .* got 1.0"),
        ({"x": X, "f": F3, "padding": (0, 0, 0.5, 0)}, r"one integer or \(left, .* 0.5"),
        ({"x": X, "f": F3, "padding": -1}, "2x2, smaller than the filter 3x3"),
        ({"x": X, "f": F3, "padding": (-9, 0, 0, 0)}, "4x-5, smaller than the filter 3x3"),
        ({"x": X, "f": torch.ones(1, 5)}, "4x4, smaller than the filter 1x5"),
        ({"x": X[:, :, :0], "f": F3, "padding": 9}, r"x is \[1, 2, 0, 4\]"),
        ({"x": X, "f": F3, "padding": 2**62}, r"sizes beyond 2\*\*62"),
        ({"x": X, "f": F3, "padding": (2**80, -(2**80), 0, 0)}, r"sizes beyond 2\*\*62"),
        ({"x": X, "f": F3.to("meta")}, "f is on meta but x is on cpu; move the filter"),
        ({"x": X.to("meta"), "f": F3}, "f is on cpu but x is on meta; move the filter"),
        ({"x": X, "f": torch.ones(3, requires_grad=True)}, r"constant; pass f\.detach\(\)"),
    ],
)
def test_bad_values(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        upfirdn2d(**arguments)


@pytest.mark.parametrize("bad", [torch.uint8, torch.int64, torch.complex64, torch.float8_e5m2])
def test_bad_types(bad: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"x must be a floating point tensor, got {bad}; convert"):
        upfirdn2d(X.to(bad), F3)
    with pytest.raises(TypeError, match=f"f must be a floating point tensor, got {bad}; convert"):
        upfirdn2d(X, F3.to(bad))


def test_what_is_no_tensor() -> None:
    with pytest.raises(TypeError, match="f must be a floating point tensor, got list"):
        upfirdn2d(X, [1.0, 3.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="x must be a floating point tensor, got NoneType"):
        upfirdn2d(None, F3)  # type: ignore[arg-type]


@needs_native
@pytest.mark.parametrize(
    "changes",
    [
        {"x": X[0]},
        {"x": X.to(torch.int32)},
        {"x": X[:, :, :, :0]},
        {"f": torch.ones(0)},
        {"f": torch.ones(1, 1, 1)},
        {"f": torch.ones(3, dtype=torch.int32)},
        {"f": torch.ones(9)},
        {"up": 0},
        {"down": -1},
        {"down": 2**31},
        {"left": -3},
        {"top": 2**62},
        {"left": -(2**63), "right": 2**63 - 1},
        {"right": 2**40, "bottom": 2**40},
        {"gain": float("nan")},
    ],
)
def test_the_native_side_checks_again(changes: dict) -> None:
    arguments = {"x": X, "f": F3, "up": 1, "down": 1, "left": 0, "right": 0, "top": 0, "bottom": 0,
                 "flip_filter": False, "gain": 1.0}  # fmt: skip
    assert torch.ops.sdd_fast.upfirdn2d(*arguments.values()).shape == (1, 2, 2, 2)
    with pytest.raises(RuntimeError, match="upfirdn2d"):
        torch.ops.sdd_fast.upfirdn2d(*{**arguments, **changes}.values())
