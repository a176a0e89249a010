"""The emulation that runs the CUDA kernels on the CPU: what it finds, and what it shows of them.

Only under `make emulate`. emulation_tests.h says what must tell of each seeded fault.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sdd_fast.ops._register import NATIVE

THREAD = hasattr(ctypes.CDLL(None), "__tsan_init")
ADDRESS = hasattr(ctypes.CDLL(None), "__asan_init")
FAULTS = (
    "missing_barrier", "racing_blocks", "global_overrun", "shared_overrun", "wrong_shuffle_mask",
    "divergent_barrier", "uninitialized_shared",
)  # fmt: skip
SCHEDULES = [("FORWARD", 0), ("REVERSE", 0), *(("RANDOM", seed) for seed in range(4))]


def schedule(emulation: Any, name: str, seed: int = 0) -> None:
    emulation.set_schedule(getattr(emulation.Schedule, name), seed)


# --- seeded faults ------------------------------------------------------------------------------


def test_the_emulation_tests_itself(emulation: Any) -> None:
    emulation.self_test()


@pytest.mark.parametrize("order", SCHEDULES, ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_kernel_without_its_fault(emulation: Any, fault: str, order: tuple[str, int]) -> None:
    schedule(emulation, *order)
    emulation.run_fault(fault, False)


@pytest.mark.parametrize("order", SCHEDULES, ids=str)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("wrong_shuffle_mask", r"__shfl_xor_sync.*faults\.cu|faults\.cu.*__shfl_xor_sync"),
        ("divergent_barrier", r"__syncthreads"),
    ],
)
def test_what_no_hardware_allows(
    emulation: Any, fault: str, message: str, order: tuple[str, int]
) -> None:
    schedule(emulation, *order)
    with pytest.raises(emulation.EmulationError, match=message):
        emulation.run_fault(fault, True)
    emulation.run_fault(fault, False)  # and all is well again


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("uninitialized_shared", "FORWARD"),
        ("missing_barrier", "FORWARD"),
        ("missing_barrier", "RANDOM"),
        ("racing_blocks", "REVERSE"),
        ("shared_overrun", "FORWARD"),
    ],
)
def test_a_wrong_result(emulation: Any, fault: str, name: str) -> None:
    if THREAD and fault in ("missing_barrier", "racing_blocks"):
        pytest.skip("the thread sanitizer ends the process before")
    if ADDRESS and fault == "shared_overrun":
        pytest.skip("the undefined-behavior sanitizer ends the process before")
    schedule(emulation, name)
    with pytest.raises(RuntimeError, match=f"{fault}: the kernel gave"):
        emulation.run_fault(fault, True)


RUN = """
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("_emulation", sys.argv[1])
emulation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(emulation)
emulation.run_fault(sys.argv[2], False)
print("without", flush=True)
emulation.run_fault(sys.argv[2], True)
print("survived", flush=True)
"""


@pytest.mark.skipif(not (ADDRESS or THREAD), reason="needs a sanitizer")
@pytest.mark.parametrize(
    ("fault", "report"),
    [
        ("global_overrun", "AddressSanitizer: heap-buffer-overflow"),
        ("shared_overrun", "runtime error: index 64 out of bounds"),
        ("missing_barrier", "ThreadSanitizer: data race"),
        ("racing_blocks", "ThreadSanitizer: data race"),
    ],
)
def test_what_the_sanitizers_stop(emulation: Any, fault: str, report: str) -> None:
    """In a process of its own, which they end; the report names the line of the kernel."""
    if ("Thread" in report) != THREAD:
        pytest.skip("that is for the other sanitizer")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(NATIVE.path), fault], capture_output=True, text=True
    )
    assert done.returncode != 0 and done.stdout == "without\n", (done.stdout, done.stderr[-3000:])
    assert report in done.stderr and "faults.cu:" in done.stderr, done.stderr[-3000:]


# --- the kernels --------------------------------------------------------------------------------


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


ACT = (2, 0.2, 1.4, 1.5)  # lrelu, alpha, gain, clamp
OPS = torch.ops.sdd_fast


LAYOUTS = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["planes", "channels_last"]
)


def calls(memory_format: torch.memory_format) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Every op and its backward op on several blocks, warps and tiles that do not fill up: how many
    launches it may take, and the call. A backward op adds up what its blocks leave, a launch for
    every sum; the gradient of the noise is a sum in the other direction, a pass of its own."""

    def maps(*shape: int, seed: int = 0) -> Tensor:
        return randn(*shape, seed=seed).contiguous(memory_format=memory_format)

    x, grad = maps(3, 12, 41, 44), maps(3, 12, 41, 44, seed=1)
    odd, odd_grad = maps(2, 7, 45, 33), maps(2, 7, 45, 33, seed=1)
    half = maps(2, 16, 34, 32).half()
    bias, some = randn(12, seed=4), (randn(3, 12, seed=2), randn(1, 1, 41, 44, seed=3))
    y, odd_y = OPS.bias_act(x, bias, *ACT), OPS.bias_act(odd, None, *ACT)
    odd_some = (randn(2, 7, seed=2), randn(2, 1, 45, 33, seed=3), randn(7, seed=4))
    rows, channels = randn(3, 30001, seed=5), randn(2, 3, 9001, seed=6)
    f, square = randn(4, seed=7), randn(3, 5, seed=8)
    weight, styles = maps(40, 37, 3, 3), randn(3, 37, seed=9)
    large = maps(9, 37, 7, 7)
    of_groups = OPS.group_norm_silu(x, 4, bias, bias, 1e-6, True)[1:]
    odd_groups = OPS.group_norm_silu(odd, 1, bias[:7], bias[:7], 1e-6, True)[1:]
    norm_back, twice = OPS.group_norm_silu_backward, torch.cat([grad, x])
    pads = (2, 1, 2, 1, False, 1.0)
    back, epilogue_back = OPS.bias_act_backward, OPS.conv_epilogue_backward

    def entropy_back(x: Tensor, abs_mean: bool) -> Tensor:
        d = torch.linspace(0.1, 0.3, len(x), dtype=torch.float64)
        of_l1 = torch.ones((), dtype=torch.float64).expand(len(x))
        return OPS.softmax_entropy_l1_backward(d, of_l1, None, None, x, d, d, abs_mean)

    return {
        "bias_act": (1, lambda: OPS.bias_act(x, bias, *ACT)),
        "bias_act, odd": (1, lambda: OPS.bias_act(odd, bias[:7], *ACT)),
        "bias_act, float16": (1, lambda: OPS.bias_act(half, None, *ACT)),
        "bias_act_backward": (1, lambda: back(grad, y, *ACT, False)),
        "bias_act_backward, bias": (2, lambda: back(grad, y, *ACT, True)),
        "bias_act_backward, bias, odd": (2, lambda: back(odd_grad, odd_y, *ACT, True)),
        "conv_epilogue": (1, lambda: OPS.conv_epilogue(x, *some, bias, *ACT)),
        "conv_epilogue, odd": (1, lambda: OPS.conv_epilogue(odd, *odd_some, *ACT)),
        "conv_epilogue, float16": (1, lambda: OPS.conv_epilogue(half, None, None, None, *ACT)),
        "conv_epilogue_backward": (
            1, lambda: epilogue_back(grad, x, *some, bias, *ACT, False, False, False)
        ),
        "conv_epilogue_backward, factor": (
            2, lambda: epilogue_back(grad, x, *some, bias, *ACT, True, False, False)
        ),
        "conv_epilogue_backward, all": (
            5, lambda: epilogue_back(grad, x, *some, bias, *ACT, True, True, True)
        ),
        "conv_epilogue_backward, all, odd": (
            5, lambda: epilogue_back(odd_grad, odd, *odd_some, *ACT, True, True, True)
        ),
        "upfirdn2d": (1, lambda: OPS.upfirdn2d(x, f, 1, 1, *pads)),
        "upfirdn2d, up": (1, lambda: OPS.upfirdn2d(x, f, 2, 1, *pads)),
        "upfirdn2d, down, odd": (1, lambda: OPS.upfirdn2d(odd, f, 1, 2, *pads)),
        "upfirdn2d, any, odd": (1, lambda: OPS.upfirdn2d(odd, square, 3, 2, *pads)),
        "demodulation": (2, lambda: OPS.demodulation(weight, styles, 1e-8)),
        "demodulation, large": (2, lambda: OPS.demodulation(large, styles, 1e-8)),
        "group_norm_silu": (3, lambda: OPS.group_norm_silu(x, 4, bias, bias, 1e-6, True)),
        "group_norm_silu, odd": (
            3, lambda: OPS.group_norm_silu(odd, 7, bias[:7], bias[:7], 1e-6, True)
        ),
        "group_norm_silu, float16": (
            3, lambda: OPS.group_norm_silu(half, 2, *[torch.ones(16)] * 2, 1e-6, False)
        ),
        "group_norm_silu_backward": (
            3, lambda: norm_back(twice, x, *of_groups, bias, bias, True)
        ),
        "group_norm_silu_backward, odd": (
            3, lambda: norm_back(odd_grad, odd, *odd_groups, bias[:7], bias[:7], True)
        ),
        "softmax_entropy_l1": (2, lambda: OPS.softmax_entropy_l1(rows, False)),
        "softmax_entropy_l1, abs-mean": (2, lambda: OPS.softmax_entropy_l1(channels, True)),
        "softmax_entropy_l1_backward": (1, lambda: entropy_back(rows, False)),
        "softmax_entropy_l1_backward, abs-mean": (1, lambda: entropy_back(channels, True)),
    }  # fmt: skip


def bits(result: Tensor | tuple[Tensor, ...]) -> list[list[int]]:
    tensors = (result,) if isinstance(result, Tensor) else result
    return [t.contiguous().flatten().view(torch.uint8).tolist() for t in tensors]


@LAYOUTS
def test_bits_do_not_depend_on_the_order_of_threads_and_blocks(
    emulation: Any, memory_format: torch.memory_format
) -> None:
    for name, (_, call) in calls(memory_format).items():
        emulation.reset_counts()
        expected = bits(call())
        assert emulation.counts()["threads"] > 512, name
        for order in SCHEDULES[1:]:
            schedule(emulation, *order)
            assert bits(call()) == expected, (name, order)
        schedule(emulation, "FORWARD")


@LAYOUTS
def test_launches_and_no_copies(emulation: Any, memory_format: torch.memory_format) -> None:
    for name, (launches, call) in calls(memory_format).items():
        emulation.reset_counts()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            call()
        assert emulation.counts()["launches"] == launches, name
        seen = {event.name for event in profile.events()}
        assert any("sdd_fast::" in event for event in seen), name
        assert not seen & {"aten::copy_", "aten::clone", "aten::contiguous"}, (name, seen)


@LAYOUTS
def test_an_image_of_three_channels_is_filtered_by_strips(
    emulation: Any, memory_format: torch.memory_format
) -> None:
    """As the images of a generator are: a thread for every output would be ten times as many."""
    x = randn(2, 3, 64, 64).contiguous(memory_format=memory_format)
    emulation.reset_counts()
    y = OPS.upfirdn2d(x, torch.ones(4), 2, 1, 2, 1, 2, 1, False, 4.0)
    assert y.is_contiguous(memory_format=memory_format)
    assert 8 * emulation.counts()["threads"] < y.numel()


def test_in_place(emulation: Any) -> None:
    x, bias = randn(2, 12, 41, 44), randn(12, seed=4)
    expected = OPS.conv_epilogue(x, None, None, bias, *ACT)
    emulation.reset_counts()
    OPS.conv_epilogue_(x, None, None, bias, *ACT)
    assert emulation.counts()["launches"] == 1 and torch.equal(x, expected)


def test_nothing_is_launched_for_nothing(emulation: Any) -> None:
    emulation.reset_counts()
    x = torch.empty(0, 3, 4, 4)
    OPS.bias_act(x, None, *ACT)
    OPS.conv_epilogue(x, None, None, None, *ACT)
    OPS.upfirdn2d(x, torch.ones(4), 2, 1, 2, 1, 2, 1, False, 4.0)
    OPS.softmax_entropy_l1(torch.empty(0, 9), False)
    OPS.group_norm_silu(x, 3, *[torch.ones(3)] * 2, 1e-6, True)
    none = torch.empty(0, dtype=torch.float64)
    OPS.softmax_entropy_l1_backward(none, none, none, none, torch.empty(0, 9), none, none, False)
    assert emulation.counts()["launches"] == 0
