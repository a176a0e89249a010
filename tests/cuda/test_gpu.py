"""What only a GPU can show: streams, CUDA graphs, no waiting for the GPU, tensors beyond 32 bits;
and what the dispatcher does with CUDA tensors. Values are compared with references elsewhere.

SDD_FAST_DRY_RUN=1 runs on the CPU what needs no GPU, to try this file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # equal bits on every stream

import pytest
import torch
from gpu_cases import (
    Call,
    convolution_calls,
    demodulation_calls,
    elementwise_calls,
    entropy_calls,
    filter_calls,
    group_norm_calls,
    random,
)
from torch import Tensor

from sdd_fast.models import StyleGAN2
from sdd_fast.ops import (
    bias_act,
    bias_act_ref,
    conv_epilogue,
    conv_epilogue_ref,
    demodulation,
    group_norm_silu,
    group_norm_silu_ref,
    modulated_conv2d,
    softmax_entropy_l1,
    upfirdn2d,
    upfirdn2d_ref,
)
from sdd_fast.ops._register import NATIVE

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
needs_gpu = pytest.mark.skipif(not GPU, reason="there is no GPU")
pytestmark = pytest.mark.skipif(
    not GPU and os.environ.get("SDD_FAST_DRY_RUN") != "1", reason="there is no GPU"
)
MAKERS: dict[str, Callable[[str, torch.dtype], Iterator[Call]]] = {
    "bias_act": elementwise_calls,
    "conv_epilogue": elementwise_calls,
    "upfirdn2d": filter_calls,
    "demodulation": demodulation_calls,
    "group_norm_silu": group_norm_calls,
    "softmax_entropy_l1": entropy_calls,
    "modulated_conv2d": convolution_calls,
    "StyleGAN2": convolution_calls,
}
OPS = pytest.mark.parametrize("op", list(MAKERS))
SHORT = (torch.float16, torch.bfloat16)


def calls(op: str, *dtypes: torch.dtype) -> list[Call]:
    made = [call for dtype in dtypes for call in MAKERS[op](DEVICE, dtype)]
    return [call for call in made if call.name.startswith(op)]


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolution libraries choose algorithms that sum in a fixed order, of float32 as it is: with
    TF32 a slope would differ wherever another algorithm rounds a value past zero."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if GPU:
        torch.cuda.empty_cache()  # for the tests that need much memory


def assert_same(name: str, actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected) >= 2, name
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape, (name, i)
        assert torch.equal(a, b), f"{name}, result {i}: {(a - b).abs().max()}"


def assert_near(name: str, actual: list[Tensor], expected: list[Tensor], share: float) -> None:
    """The norm of the difference, relative to the norm."""
    assert len(actual) == len(expected) >= 2, name
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        wide = b.detach().double()
        error = float((a.detach().double() - wide).norm() / wide.norm().clamp_min(1e-30))
        assert error <= share, f"{name}, result {i}: {error}"


@needs_gpu
def test_the_kernels_are_there() -> None:
    assert NATIVE.path is not None and not NATIVE.cuda_missing, NATIVE
    major, minor = torch.cuda.get_device_capability()
    oldest = min(int(target.removeprefix("sm_")) for target in NATIVE.cuda_targets)
    assert 10 * major + minor >= oldest
    for op in ("bias_act", "conv_epilogue", "upfirdn2d", "softmax_entropy_l1",
               "softmax_entropy_l1_backward", "group_norm_silu"):  # fmt: skip
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"sdd_fast::{op}", "CUDA"), op


@OPS
def test_same_bits_run_to_run(op: str) -> None:
    for call in calls(op, torch.float32, *SHORT):
        first = call.step()
        for _ in range(3):
            assert_same(call.name, call.step(), first)


# --- graphs, streams, threads, waiting ----------------------------------------------------------


def captured(step: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph, results


@needs_gpu
@OPS
def test_cuda_graph(op: str) -> None:
    """Forward and backward, captured, then replayed on other values."""
    for call in calls(op, torch.float32, torch.float16):
        graph, results = captured(call.step)
        for factor in (1.0, -0.75):
            with torch.no_grad():
                call.inputs[0].mul_(factor)
            graph.replay()
            replayed = [r.clone() for r in results]
            torch.cuda.synchronize()
            assert_same(call.name, replayed, call.step())


@needs_gpu
@OPS
def test_cuda_graph_without_gradients(op: str) -> None:
    for call in calls(op, torch.float32, torch.float16):
        graph, results = captured(lambda call=call: [call.forward()])
        for result in results:
            result.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(results[0], call.forward()), call.name


@needs_gpu
@OPS
def test_side_stream(op: str) -> None:
    """The inputs arrive late, on a stream of their own: on any other stream one reads zeros."""
    for call in calls(op, torch.float32):
        call.step()  # loads modules, which waits for everything
        expected = call.step()
        before = [x.detach().clone() for x in call.inputs]
        with torch.no_grad():
            for x in call.inputs:
                x.zero_()
        torch.cuda.synchronize()
        beside = torch.cuda.Stream()
        with torch.cuda.stream(beside):
            torch.cuda._sleep(20_000_000)  # about ten milliseconds
            with torch.no_grad():
                for x, value in zip(call.inputs, before, strict=True):
                    x.copy_(value)
            results = call.step()
            arrived = torch.cuda.Event()
            arrived.record()
        torch.cuda.current_stream().wait_event(arrived)
        torch.cuda.synchronize()
        assert_same(call.name, results, expected)


@needs_gpu
@OPS
def test_another_thread(op: str) -> None:
    for call in calls(op, torch.float32)[:2]:
        expected = call.step()
        results: list[Tensor] = []

        def work(call: Call = call, results: list[Tensor] = results) -> None:
            results.extend(call.step())
            torch.cuda.synchronize()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(timeout=120)
        assert_same(call.name, results, expected)


@needs_gpu
@OPS
def test_nothing_waits_for_the_gpu(op: str) -> None:
    for call in calls(op, torch.float32, torch.float16):
        call.step()
        call.forward()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            call.forward()
            call.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.skipif(GPU and torch.cuda.device_count() < 2, reason="there is one GPU")
@OPS
def test_second_gpu(op: str) -> None:
    for call in calls(op, torch.float32):
        expected = call.forward()
        if op == "StyleGAN2":
            continue  # a module of its own device
        inputs = tuple(x.detach().to("cuda:1") for x in call.inputs)
        assert torch.cuda.current_device() == 0
        try:
            y = call.function(*inputs)
        except ValueError as error:  # the filter in the closure stays where it was
            assert "is on cuda:0" in str(error)
            continue
        assert y.device == torch.device("cuda", 1) and torch.cuda.current_device() == 0
        assert_near(call.name, [y.to("cuda:0")] * 2, [expected] * 2, 1e-3)


# --- what torch does around the ops -------------------------------------------------------------


@OPS
@pytest.mark.parametrize("dtype", SHORT, ids=str)
def test_autocast(op: str, dtype: torch.dtype) -> None:
    for call in calls(op, torch.float32):
        expected = call.step()
        with torch.autocast(DEVICE, dtype):
            y = call.function(*call.inputs)
        convolves = op in ("modulated_conv2d", "StyleGAN2")
        assert y.dtype == (dtype if convolves else expected[0].dtype), call.name
        gradients = torch.autograd.grad(y, call.inputs, call.cotangent.to(y.dtype))
        assert all(g.dtype == torch.float32 for g in gradients), call.name
        # The slope of an activation changes where rounding changes a sign.
        share = {"modulated_conv2d": 0.1, "StyleGAN2": 0.2}.get(op, 0.0)
        assert_near(call.name, [y, *gradients], expected, share)


def test_float16_layers_of_a_float32_generator() -> None:
    """By default the highest resolutions of such a network are computed in float16 on a GPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2(
            32, w_dim=8, n_mlp=1, channel_base=1024, channel_max=32, num_fp16_res=2, conv_clamp=256
        )
    generator = generator.to(DEVICE).requires_grad_(False)
    w_plus = random(2, generator.num_layers, 8, dtype=torch.float32, device=DEVICE)
    cotangent = random(2, 3, 32, 32, dtype=torch.float32, device=DEVICE, seed=1)
    seen = []
    for fp16 in (False, None if GPU else True):
        generator.fp16 = fp16
        leaf = w_plus.clone().requires_grad_()
        images = generator.synthesis(leaf)
        assert images.dtype == torch.float32
        seen.append((images.detach(), torch.autograd.grad(images, leaf, cotangent)[0]))
    # Rounded, and no more; in the gradient some entries fall on the other side of the leaky ReLU.
    for whole, half, most in zip(*seen, (1e-2, 5e-2), strict=True):
        error = float((half - whole).norm() / whole.norm())
        assert 1e-6 < error < most, error


@pytest.mark.parametrize("op", [op for op in MAKERS if op != "StyleGAN2"])
def test_compile(op: str) -> None:
    torch._dynamo.reset()
    call = calls(op, torch.float32)[1]
    compiled = torch.compile(call.function, fullgraph=True, dynamic=False)
    y = compiled(*call.inputs)
    gradients = torch.autograd.grad(y, call.inputs, call.cotangent)
    assert_near(call.name, [y, *gradients], call.step(), 1e-3)


def opcheck_arguments() -> list[tuple[str, tuple[Any, ...]]]:
    def new(*shape: int, seed: int = 0) -> Tensor:
        return random(*shape, dtype=torch.float32, device=DEVICE, seed=seed).requires_grad_()

    x, grad = new(2, 3, 5, 7), new(2, 3, 5, 7, seed=1).detach()
    factor, noise, bias = new(2, 3, seed=2), new(1, 1, 5, 7, seed=3), new(3, seed=4)
    act = (2, 0.2, 1.5, 2.0)
    taps = torch.ones(4, device=DEVICE)
    statistic = torch.linspace(0.1, 0.3, 3, dtype=torch.float64, device=DEVICE)
    of_groups = torch.ones(2, 1, dtype=torch.float64, device=DEVICE)
    frozen = (bias.detach(), bias.detach())
    return [
        ("bias_act", (x, bias, *act)),
        ("bias_act_backward", (grad, x.detach(), *act, True)),
        ("conv_epilogue", (x, factor, noise, bias, *act)),
        ("conv_epilogue_backward",
         (grad, x.detach(), factor.detach(), noise.detach(), bias.detach(), *act, *[True] * 3)),
        ("upfirdn2d", (x, taps, 2, 1, 2, 1, 2, 1, False, 1.0)),
        ("demodulation", (new(3, 4, 3, 3), new(2, 4, seed=1), 1e-8)),
        ("demodulation", (new(3, 4, 3, 3).transpose(0, 1), new(2, 3, seed=1), 1e-8)),
        ("softmax_entropy_l1", (new(3, 50), False)),
        ("softmax_entropy_l1", (new(3, 2, 50), True)),
        ("softmax_entropy_l1_backward", (statistic, None, statistic, None,
                                         new(3, 50).detach(), statistic, statistic, False)),
        ("group_norm_silu", (x, 3, *frozen, 1e-6, True)),
        ("group_norm_silu_backward", (grad, x.detach(), of_groups, of_groups, *frozen, True)),
    ]  # fmt: skip


@pytest.mark.parametrize("index", range(12))
def test_opcheck(index: int) -> None:
    op, arguments = opcheck_arguments()[index]
    torch.library.opcheck(getattr(torch.ops.sdd_fast, op).default, arguments)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradcheck(layout: str) -> None:
    def new(*shape: int, seed: int = 0) -> Tensor:
        four = "channels_last" if len(shape) == 4 and layout == "channels_last" else "contiguous"
        x = random(*shape, dtype=torch.float64, device=DEVICE, seed=seed, layout=four)
        return x.requires_grad_()

    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=DEVICE) / 8
    x, x2 = new(2, 3, 4, 5), new(2, 3, 4, 4)
    bias, factor, noise = new(3, seed=1), new(2, 3, seed=2), new(1, 1, 4, 5, seed=3)
    weight, styles = new(2, 3, 3, 3, seed=4), new(2, 3, seed=5)
    checks: list[tuple[Callable[..., Any], tuple[Tensor, ...]]] = [
        (lambda x, b: bias_act(x, b, clamp=2.0), (x, bias)),
        (lambda x, f, z, b: conv_epilogue(x, f, z, b, "lrelu"), (x, factor, noise, bias)),
        (lambda x: upfirdn2d(x, taps, 2, 1, (2, 1, 2, 1)), (x,)),
        (demodulation, (weight, styles)),
        (lambda x: softmax_entropy_l1(x.flatten(1)), (x,)),
        (
            lambda x, w, s: modulated_conv2d(x, w, s, up=2, resample_filter=taps),
            (x2, weight, styles),
        ),
    ]
    for function, inputs in checks:
        assert torch.autograd.gradcheck(function, inputs, nondet_tol=1e-12)
        assert torch.autograd.gradgradcheck(function, inputs, nondet_tol=1e-12)
    w, b = bias.detach(), noise.detach()[0, 0, 0, :3]
    assert torch.autograd.gradcheck(lambda x: group_norm_silu(x, 3, w, b), (x,), nondet_tol=1e-12)


# --- errors -------------------------------------------------------------------------------------


@needs_gpu
def test_tensors_on_two_devices() -> None:
    x, taps = torch.randn(1, 3, 8, 8, device="cuda"), torch.ones(4)
    for wrong in (
        lambda: bias_act(x, torch.ones(3)),
        lambda: conv_epilogue(x, torch.ones(1, 3), None, torch.ones(3, device="cuda")),
        lambda: conv_epilogue(x, None, torch.ones(1, 1, 8, 8), torch.ones(3, device="cuda")),
        lambda: upfirdn2d(x, taps),
        lambda: upfirdn2d(x.cpu(), taps.cuda()),
        lambda: demodulation(torch.ones(2, 3, 3, 3), torch.ones(1, 3, device="cuda")),
        lambda: demodulation(torch.ones(2, 3, 3, 3, device="cuda"), torch.ones(1, 3)),
        lambda: modulated_conv2d(x, torch.ones(2, 3, 3, 3), torch.ones(1, 3, device="cuda")),
        lambda: group_norm_silu(x, 1, torch.ones(3, device="cuda"), torch.ones(3)),
    ):
        with pytest.raises(ValueError, match="is on c"):
            wrong()
    ops = torch.ops.sdd_fast
    for wrong in (  # past the checks in Python
        lambda: ops.bias_act(x, torch.ones(3), 2, 0.2, 1.0, None),
        lambda: ops.bias_act_backward(x, torch.ones(1, 3, 8, 8), 2, 0.2, 1.0, None, True),
        lambda: ops.conv_epilogue(x, torch.ones(1, 3), None, None, 2, 0.2, 1.0, None),
        lambda: ops.upfirdn2d(x, taps, 1, 1, 0, 0, 0, 0, False, 1.0),
        lambda: ops.demodulation(torch.ones(2, 3, 3, 3, device="cuda"), torch.ones(1, 3), 0.0),
        lambda: ops.group_norm_silu(x, 1, torch.ones(3), torch.ones(3), 0.0, True),
    ):
        with pytest.raises(RuntimeError):
            wrong()
    torch.cuda.synchronize()  # and nothing was launched that fails later


# --- beyond 32 bits -----------------------------------------------------------------------------

BEYOND = 2**31 + 8
SOME = 1 << 16  # elements that are compared at each place


def memory(gibibytes: int) -> pytest.MarkDecorator:
    free = torch.cuda.mem_get_info()[0] if GPU else 0
    return pytest.mark.skipif(free < gibibytes * 2**30, reason=f"needs {gibibytes} GiB on a GPU")


def places(total: int) -> list[slice]:
    """At the start, around 2**31 and at the end."""
    middle = 2**31 - SOME // 2
    return [slice(0, SOME), slice(middle, min(middle + SOME, total)), slice(total - SOME, total)]


@needs_gpu
@memory(20)
@pytest.mark.parametrize("dtype", SHORT, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_bias_act_beyond_31_bits(dtype: torch.dtype, channels_last: bool) -> None:
    channels, pixels = 8, BEYOND // 8
    shape = (pixels, channels) if channels_last else (1, channels, pixels)
    x = torch.empty(shape, dtype=dtype, device="cuda").normal_().requires_grad_()
    b = torch.linspace(-1, 1, channels, device="cuda").to(dtype).requires_grad_()
    y = bias_act(x, b, "lrelu")
    grad = torch.full_like(y, 2.0**-14)
    x_grad, b_grad = torch.autograd.grad(y, (x, b), grad)
    del grad
    for place in places(BEYOND):
        indices = torch.arange(place.start, place.stop, device="cuda")
        channel = indices % channels if channels_last else indices // pixels
        part = x.detach().flatten()[place].double() + b.detach().double()[channel]
        expected = bias_act_ref(part[None], None, "lrelu")[0]
        error = (y.detach().flatten()[place].double() - expected).abs()
        assert (error <= 2.0**-8 * expected.abs() + 1e-3).all()
        slope = torch.where(part > 0, 1.0, 0.2) * 2**0.5 * 2.0**-14
        near_zero = part.abs() < 0.01  # where the sum in 16 bits may have another sign
        wrong = (x_grad.flatten()[place].double() - slope).abs() > 2.0**-7 * slope
        assert not (wrong & ~near_zero).any()
    above = (y.detach() > 0).sum(0 if channels_last else (0, 2)).double()
    expected = (above + 0.2 * (pixels - above)) * 2**0.5 * 2.0**-14
    torch.testing.assert_close(b_grad.double(), expected, rtol=2.0**-6, atol=0.0)


@needs_gpu
@memory(20)
def test_conv_epilogue_beyond_31_bits() -> None:
    shape = (1, 8, 2**14, 2**14 + 1)
    x = torch.empty(shape, dtype=torch.float16, device="cuda").normal_()
    factor = torch.linspace(0.5, 1.5, 8, device="cuda")[None]
    noise = torch.randn(1, 1, *shape[2:], device="cuda").half()
    bias = torch.linspace(-1, 1, 8, device="cuda").half()
    y = conv_epilogue(x, factor, noise, bias, "lrelu")
    for rows in (slice(0, 4), slice(2**13, 2**13 + 4), slice(2**14 - 4, 2**14)):
        for c in (0, 7):
            part = x[:, c : c + 1, rows].double()
            expected = conv_epilogue_ref(
                part, factor[:, c : c + 1].double(), noise[:, :, rows].double(),
                bias[c : c + 1].double(), "lrelu",
            )  # fmt: skip
            error = (y[:, c : c + 1, rows].double() - expected).abs()
            assert (error <= 2.0**-10 * expected.abs() + 1e-3).all()


@needs_gpu
@memory(20)
def test_upfirdn2d_beyond_31_bits() -> None:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device="cuda") / 8
    x = torch.empty(1, 8, 2**14, 2**14 + 1, dtype=torch.float16, device="cuda").normal_()
    y = upfirdn2d(x, taps)
    assert y.shape == (1, 8, 2**14 - 3, 2**14 - 2)
    for top in (0, 2**13, 2**14 - 8):
        for c in (0, 7):
            part = x[:, c : c + 1, top : top + 8].double()
            expected = upfirdn2d_ref(part, taps.double())
            actual = y[:, c : c + 1, top : top + 5].double()
            assert ((actual - expected).abs() <= 2.0**-10 * expected.abs() + 1e-5).all()


@needs_gpu
@memory(20)
@pytest.mark.parametrize("terms_inside", [False, True])
@pytest.mark.parametrize("shape", [(2**14, 2**14 + 1, 3, 3), (2, 2**30 + 1, 1, 2)], ids=str)
def test_demodulation_beyond_31_bits(shape: tuple[int, ...], terms_inside: bool) -> None:
    outputs, inputs, *_ = shape
    layout = torch.contiguous_format if terms_inside else torch.channels_last
    w = torch.empty(shape, dtype=torch.float16, device="cuda", memory_format=layout).normal_()
    styles = torch.linspace(0.5, 1.5, 2, device="cuda").half()[:, None].expand(2, inputs)
    factor = demodulation(w, styles)
    for o in (0, outputs // 2, outputs - 1):
        energy = sum(part.double().square().sum() for part in w[o].split(1 << 24))
        expected = (styles[:, 0].double().square() * energy).rsqrt()
        torch.testing.assert_close(factor[:, o].double(), expected, rtol=1e-6, atol=0.0)


@needs_gpu
@memory(20)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_group_norm_silu_beyond_31_bits(layout: torch.memory_format) -> None:
    """Every group is made of the same numbers, those of a small one."""
    side = 2**14
    small = torch.randn(1, 8, 64, 64, device="cuda").half()
    x = torch.empty(1, 8, side, side + 64, dtype=torch.float16, device="cuda", memory_format=layout)
    for top in range(0, side, 64):
        x[:, :, top : top + 64] = small.repeat(1, 1, 1, side // 64 + 1)
    w, b = torch.linspace(0.5, 1.5, 8, device="cuda"), torch.linspace(-1, 1, 8, device="cuda")
    leaf = small.double().requires_grad_()
    expected = group_norm_silu_ref(leaf, 4, w.double(), b.double())
    grad = torch.randn_like(small)
    (x_grad,) = torch.autograd.grad(expected, leaf, grad.double())
    y = group_norm_silu(x.requires_grad_(), 4, w, b)
    cotangent = torch.empty_like(x)
    for top in range(0, side, 64):
        cotangent[:, :, top : top + 64] = grad.repeat(1, 1, 1, side // 64 + 1)
    (back,) = torch.autograd.grad(y, x, cotangent)
    for whole, part in ((y, expected), (back, x_grad)):
        for top in (0, side // 2, side - 64):
            for left in (0, side):
                actual = whole.detach()[:, :, top : top + 64, left : left + 64].double()
                assert (actual - part).abs().max() <= 2.0**-10 * part.abs().max()


@needs_gpu
@memory(20)
def test_softmax_entropy_l1_beyond_31_bits() -> None:
    x = torch.empty(1, BEYOND, dtype=torch.float16, device="cuda").normal_(std=0.01)
    x[0, 2**31 :] = 11.0  # so that the end matters: by 2e-3
    total = weighted = expected = torch.zeros((), dtype=torch.float64, device="cuda")
    for part in x[0].split(1 << 26):
        wide = part.double()
        powers = wide.exp()
        total = total + powers.sum()
        weighted = weighted + (powers * wide).sum()
        expected = expected + wide.abs().sum()
    entropy, l1, deficit = softmax_entropy_l1(x.requires_grad_())
    right = total.log() - weighted / total
    torch.testing.assert_close(entropy[0], right, rtol=0.0, atol=4e-6)
    torch.testing.assert_close(l1[0], expected, rtol=1e-6, atol=0.0)
    weight = BEYOND / 64  # most gradients are then 1e-4, those at the end 1e4
    (grad,) = torch.autograd.grad(weight * deficit.sum(), x)
    for place in places(BEYOND):
        log_p = x.detach()[0, place].double() - total.log()
        wanted = weight * log_p.exp() * (log_p + right)
        assert ((grad[0, place].double() - wanted).abs() <= 2.0**-10 * wanted.abs() + 1e-6).all()
