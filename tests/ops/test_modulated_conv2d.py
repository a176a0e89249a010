"""modulated_conv2d against the paper's form: a separate scaled and normalized kernel per sample."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings, strategies as st
from op_cases import modulated_conv2d_reference
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdd_fast.ops import modulated_conv2d, modulated_conv2d_ref
from sdd_fast.ops.modulated_conv2d import _product_in_pieces

# up, side of the kernel, demodulate
VARIANTS = [(1, 3, True), (2, 3, True), (1, 1, False), (1, 1, True), (1, 3, False), (2, 3, False)]


def inputs(side: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(side)
    x = torch.randn(2, 5, 4, 6, dtype=dtype)
    return x, torch.randn(3, 5, side, side, dtype=dtype), torch.randn(2, 5, dtype=dtype)


@pytest.mark.parametrize(("up", "side", "demodulate"), VARIANTS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_definition(
    up: int, side: int, demodulate: bool, memory_format: torch.memory_format
) -> None:
    x, weight, styles = inputs(side)
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8
    expected = modulated_conv2d_reference(x, weight, styles, up, demodulate, taps)
    assert expected.shape == (2, 3, 4 * up, 6 * up)
    x = x.contiguous(memory_format=memory_format)
    for function in (modulated_conv2d, modulated_conv2d_ref):
        actual = function(x, weight, styles, up=up, demodulate=demodulate)
        torch.testing.assert_close(actual, expected)
        actual = function(x, weight, styles, up=up, demodulate=demodulate, resample_filter=taps)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(("up", "side", "demodulate"), VARIANTS)
@pytest.mark.parametrize("act", ["linear", "relu", "lrelu"])
@pytest.mark.parametrize("noise_batch", [1, 2])
def test_epilogue(up: int, side: int, demodulate: bool, act: str, noise_batch: int) -> None:
    x, weight, styles = inputs(side)
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8
    noise = torch.randn(noise_batch, 1, 4 * up, 6 * up, dtype=torch.float64)
    bias = torch.randn(3, dtype=torch.float64)
    y = (
        modulated_conv2d_reference(x, weight, styles, up, demodulate, taps)
        + noise
        + bias.reshape(3, 1, 1)
    )
    y = {"linear": y, "relu": y.clamp_min(0), "lrelu": torch.where(y > 0, y, 0.3 * y)}[act]
    expected = (1.25 * y).clamp(-2, 2)
    for function in (modulated_conv2d, modulated_conv2d_ref):
        actual = function(
            x, weight, styles, up=up, demodulate=demodulate, noise=noise, bias=bias,
            act=act, alpha=0.3, gain=1.25, clamp=2.0,
        )  # fmt: skip
        torch.testing.assert_close(actual, expected)


def test_other_resampling_filters() -> None:
    """Two taps: every output pixel is a plain sum, and the size still doubles."""
    x, weight, styles = inputs(3)
    y = modulated_conv2d(x, weight, styles, up=2, resample_filter=torch.tensor([0.5, 0.5]))
    assert y.shape == (2, 3, 8, 12)
    wide = torch.tensor([0.0, 0.0, 0.5, 0.5, 0.0, 0.0])
    torch.testing.assert_close(modulated_conv2d(x, weight, styles, up=2, resample_filter=wide), y)


@pytest.mark.parametrize(("up", "side", "demodulate"), VARIANTS)
def test_gradients(up: int, side: int, demodulate: bool) -> None:
    torch.manual_seed(0)
    tensors = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in [(2, 2, 2, 3), (2, 2, side, side), (2, 2), (1, 1, 2 * up, 3 * up), (2,)]
    ]

    def function(*tensors: Tensor) -> Tensor:
        x, weight, styles, noise, bias = tensors
        return modulated_conv2d(
            x, weight, styles, up=up, demodulate=demodulate, noise=noise, bias=bias, act="lrelu"
        )

    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


def test_second_derivatives_where_styles_depend_on_the_features() -> None:
    """Once each, not again through the styles."""
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    for function in (modulated_conv2d, modulated_conv2d_ref):
        assert torch.autograd.gradcheck(lambda x, f=function: f(x, weight, x.mean((2, 3))), x)
        assert torch.autograd.gradgradcheck(lambda x, f=function: f(x, weight, x.mean((2, 3))), x)


@pytest.mark.parametrize("transform", ["grad", "hessian", "vmap"])
def test_under_torch_func(transform: str) -> None:
    x, weight, styles = inputs(3)

    def total(styles: Tensor, convolve: Callable = modulated_conv2d) -> Tensor:
        return convolve(x, weight, styles, act="lrelu").square().sum()

    many = torch.stack([styles, 2 * styles])
    go = {
        "grad": lambda f: torch.func.grad(f)(styles),
        "hessian": lambda f: torch.func.hessian(f)(styles),
        "vmap": lambda f: torch.func.vmap(torch.func.grad(f))(many),
    }[transform]
    expected = go(lambda s: total(s, modulated_conv2d_ref))
    torch.testing.assert_close(go(total), expected)


@pytest.mark.parametrize(("up", "side", "demodulate"), VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precisions(up: int, side: int, demodulate: bool, dtype: torch.dtype) -> None:
    x, weight, styles = inputs(side, dtype)
    actual = modulated_conv2d(x, weight, styles, up=up, demodulate=demodulate)
    assert actual.dtype == dtype
    expected = modulated_conv2d_ref(
        x.double(), weight.double(), styles.double(), up=up, demodulate=demodulate
    )
    error = (actual.double() - expected).norm() / expected.norm()
    assert error < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("style_size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("weight_size", [1e-2, 1e2])
def test_float16_stays_in_range(style_size: float, weight_size: float) -> None:
    """Styles and weights whose products pass 65504 or vanish give the result of float64."""
    torch.manual_seed(0)
    x = 50 * torch.randn(1, 64, 4, 4).half()
    weight = (weight_size * torch.randn(8, 64, 3, 3)).half()
    styles = (style_size * torch.randn(1, 64)).half()
    actual = modulated_conv2d(x, weight, styles)
    expected = modulated_conv2d_ref(x.double(), weight.double(), styles.double())
    assert (actual.double() - expected).norm() / expected.norm() < 2e-3


def test_float16_with_zero_styles_or_weights() -> None:
    x, weight, styles = (t.half() for t in inputs(3))
    assert torch.equal(modulated_conv2d(x, weight, styles * 0), torch.zeros(2, 3, 4, 6).half())
    assert torch.equal(modulated_conv2d(x, weight * 0, styles), torch.zeros(2, 3, 4, 6).half())


@pytest.mark.parametrize(("up", "side", "demodulate"), VARIANTS)
def test_autocast(up: int, side: int, demodulate: bool) -> None:
    """Under autocast all is computed in its dtype, and gradients arrive in the parameters'."""
    x, weight, styles = inputs(side, torch.float32)
    weight.requires_grad_()
    styles.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = modulated_conv2d(
            x, weight, styles, up=up, demodulate=demodulate, bias=torch.zeros(3), act="lrelu"
        )
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    exact = modulated_conv2d(x, weight, styles, up=up, demodulate=demodulate, act="lrelu")
    expected = torch.autograd.grad(exact.square().sum(), (weight, styles))
    for actual, wanted in zip((weight.grad, styles.grad), expected, strict=True):
        assert actual is not None and actual.dtype == torch.float32
        assert torch.cosine_similarity(actual.flatten(), wanted.flatten(), 0) > 0.999


def test_result_is_independent_of_the_batch() -> None:
    x, weight, styles = inputs(3)
    together = modulated_conv2d(x, weight, styles, act="lrelu")
    torch.testing.assert_close(modulated_conv2d(x[1:], weight, styles[1:], act="lrelu"),
                               together[1:])  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    variant=st.sampled_from(VARIANTS),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last, None]),
    graph=st.booleans(),
)
def test_any_shape(n, channels, size, variant, layout, graph) -> None:
    """With and without a graph: other ways through the op."""
    up, side, demodulate = variant
    inputs_, outputs = channels
    torch.manual_seed(0)
    x = torch.randn(n, inputs_, *size, dtype=torch.float64)
    if layout is None:
        x = torch.stack([x, x], -1)[..., 0]
    else:
        x = x.contiguous(memory_format=layout)
    weight = torch.randn(outputs, inputs_, side, side, dtype=torch.float64)
    styles = torch.randn(n, inputs_, dtype=torch.float64).requires_grad_(graph)
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8
    actual = modulated_conv2d(x, weight, styles, up=up, demodulate=demodulate)
    assert actual.requires_grad == graph
    expected = modulated_conv2d_reference(x, weight, styles, up, demodulate, taps)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_large_maps_take_the_styles_into_the_weights(up: int, memory_format) -> None:
    """One sample, many pixels, no gradient wanted: the same numbers, and the same layout."""
    torch.manual_seed(0)
    x = torch.randn(1, 6, 20, 24, dtype=torch.float64).contiguous(memory_format=memory_format)
    weight = torch.randn(5, 6, 3, 3, dtype=torch.float64)
    styles = torch.randn(1, 6, dtype=torch.float64)
    noise, bias = torch.randn(1, 1, 20 * up, 24 * up).double(), torch.randn(5).double()
    more = {"up": up, "noise": noise, "bias": bias, "act": "lrelu", "clamp": 1.0}
    before = [t.clone() for t in (x, weight, styles, noise, bias)]
    expected = modulated_conv2d_ref(x, weight, styles, **more)
    y = modulated_conv2d(x, weight, styles, **more)
    torch.testing.assert_close(y, expected)
    assert y.is_contiguous(memory_format=memory_format)
    assert all(map(torch.equal, (x, weight, styles, noise, bias), before))
    y = modulated_conv2d(x, weight, styles.clone().requires_grad_(), **more)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("size", [4, 64])
@pytest.mark.parametrize("up", [1, 2])
def test_no_weight_gradient_of_frozen_weights(size: int, up: int) -> None:
    """The convolution's backward pass is asked for the gradient of its input alone."""
    asked: list[list[bool]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.convolution_backward.default:
                asked.append(args[-1])
            return function(*args, **(kwargs or {}))

    torch.manual_seed(0)
    x = torch.randn(1, 8, size, size)
    weight = torch.randn(6, 8, 3, 3)
    for train_weight in (False, True):
        styles = torch.randn(1, 8, requires_grad=True)
        weight.requires_grad_(train_weight)
        asked.clear()
        y = modulated_conv2d(x, weight, styles, up=up, bias=torch.zeros(6), act="lrelu")
        with Watch():
            y.sum().backward()
        assert asked and any(mask[1] for mask in asked) == train_weight
        assert (weight.grad is not None) == train_weight


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("up", [1, 2])
def test_compile_fullgraph_forward_and_backward(requires_grad: bool, up: int) -> None:
    x, weight, styles = inputs(3, torch.float32)
    x = x.contiguous(memory_format=torch.channels_last)
    torch._dynamo.reset()
    compiled = torch.compile(modulated_conv2d, fullgraph=True, backend="aot_eager")
    grads = []
    for function in (modulated_conv2d, compiled):
        s = styles.clone().requires_grad_(requires_grad)
        y = function(x, weight, s, up=up, act="lrelu", bias=torch.ones(3), clamp=2.0)
        if requires_grad:
            y.square().sum().backward()
        grads.append((y.detach(), s.grad))
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-5)
    assert (grads[0][1] is not None) == requires_grad


X, W, S = torch.zeros(2, 4, 8, 8), torch.zeros(3, 4, 3, 3), torch.zeros(2, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": X[0]}, r"x must be \[N, I, H, W\], got \[4, 8, 8\]"),
        ({"weight": W[:, :, :2, :2]}, r"odd k, got \[3, 4, 2, 2\]"),
        ({"weight": W[:, :, :1]}, r"odd k, got \[3, 4, 1, 3\]"),
        ({"weight": W[:, :2]}, r"takes 2 input channels, but x .* has 4"),
        ({"styles": S[:1]}, r"styles must be \[N, I\] = \[2, 4\].*got \[1, 4\]"),
        ({"up": 3}, "up must be 1 or 2, got 3"),
        ({"up": 2, "weight": W[:, :, :1, :1]}, "up=2 needs 3x3 weights, got 1x1"),
        ({"resample_filter": torch.zeros(3)}, r"even number of taps, got \[3\]"),
        ({"noise": torch.zeros(1, 1, 4, 4)}, r"\[1 or 2, 1, 8, 8\], got \[1, 1, 4, 4\]"),
        ({"bias": torch.zeros(4)}, r"bias must be \[3\], got \[4\]"),
        ({"styles": S.to("meta")}, "styles is on meta but x on cpu"),
        ({"bias": torch.zeros(3, device="meta")}, "bias is on meta but x on cpu"),
        ({"act": "swish"}, "act must be one of"),
    ],
)
def test_bad_values(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        modulated_conv2d(**{"x": X, "weight": W, "styles": S, **changes})


def test_bad_types() -> None:
    with pytest.raises(TypeError, match=r"styles is torch\.float64 but x is torch\.float32"):
        modulated_conv2d(X, W, S.double())
    with pytest.raises(TypeError, match=r"weight must be a floating point tensor, got torch\.int"):
        modulated_conv2d(X, W.int(), S)


@pytest.mark.parametrize("shape", [(2, 3, 0, 5), (2, 3, 5, 0), (0, 3, 4, 4)])
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("convolve", [modulated_conv2d, modulated_conv2d_ref])
def test_maps_without_pixels(shape: tuple[int, ...], up: int, convolve: Callable) -> None:
    x = torch.zeros(shape, requires_grad=True)
    w = torch.ones(4, 3, 3, 3, requires_grad=True)
    styles = torch.ones(shape[0], 3)
    y = convolve(x, w, styles, up=up, bias=torch.ones(4))
    assert y.shape == (shape[0], 4, shape[2] * up, shape[3] * up)
    gx, gw = torch.autograd.grad(y.sum(), (x, w))
    assert gx.shape == x.shape and torch.equal(gw, torch.zeros_like(w))


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 3 * 4096])
def test_a_product_in_pieces_is_the_product(count: int) -> None:
    """What GPUs are given for toRGB; its gradients, too, of which the weights' sums all pieces."""
    rng = torch.Generator().manual_seed(count)
    pixels, weight, cotangent = (
        torch.randn(2, *shape, generator=rng, dtype=torch.float64)
        for shape in ((count, 5), (3, 5), (count, 3))
    )
    leaves = pixels.requires_grad_(), weight.requires_grad_()
    found = _product_in_pieces(*leaves)
    expected = torch.einsum("npi,noi->npo", *leaves)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(found, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-10)
