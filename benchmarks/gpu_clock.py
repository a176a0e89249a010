"""Time on a GPU, and what the GPU could do at best, measured in the same run.

A dry run (`--device emulated`) goes the same way on the CPU, with tiny sizes and wall time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

HEAD_START = 2_000_000  # cycles, about a millisecond
ABOUT = (
    "CUDA events, the second-level cache flushed before every measurement; the GPU is kept busy "
    "meanwhile, so that what Python and torch take to launch is not in the time of an op"
)


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second of large arrays; floating point operations a second by dtype, of a large
    matrix product (float32: with TF32 where convolutions may use it)."""

    read: float
    copy: float
    product: dict[str, float]


class GpuClock:
    def __init__(self, device: str) -> None:
        self.gpu = device == "cuda"
        self.device = device
        cache = torch.cuda.get_device_properties(0).L2_cache_size if self.gpu else 1024
        self._flush = torch.empty(4 * cache, dtype=torch.uint8, device=device)
        self.ceilings = self._ceilings()

    def measure(
        self, side: Callable[..., Any], arguments: tuple[Any, ...], calls: int, launches: bool
    ) -> Callable[[], float]:
        """Queues the calls; the function it returns waits for them and gives the seconds of one.

        launches: the time of launching is part of it, as in a program that does nothing else.
        """
        if not self.gpu:
            began = time.perf_counter()
            for _ in range(calls):
                side(*arguments)
            seconds = (time.perf_counter() - began) / calls
            return lambda: seconds
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._flush.zero_()
        if launches:
            torch.cuda.synchronize()
        else:
            torch.cuda._sleep(HEAD_START)
        start.record()
        for _ in range(calls):
            side(*arguments)
        end.record()

        def read() -> float:
            end.synchronize()
            return float(start.elapsed_time(end)) / 1e3 / calls

        return read

    def peak_bytes(self, side: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
        """What a call allocates at most, its result included. A call to warm up, too."""
        if not self.gpu:
            side(*arguments)
            return 0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        side(*arguments)
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)

    def describe(self) -> dict[str, Any]:
        """For the head of a file of results."""
        if not self.gpu:
            return {
                "device": "dry run on the CPU", "clock": "wall time", "kernels": "no GPU",
                "cuda": "none", "ceilings": asdict(self.ceilings),
            }  # fmt: skip
        from sdd_fast import build_info

        major, minor = torch.cuda.get_device_capability()
        return {
            "device": torch.cuda.get_device_name(),
            "clock": ABOUT,
            "kernels": f"{' '.join(build_info()['cuda_targets'])} on sm_{major}{minor}",
            "cuda": torch.version.cuda,
            "ceilings": asdict(self.ceilings),
        }

    def _seconds(self, side: Callable[..., Any], *arguments: Any) -> float:
        side(*arguments)
        return statistics.median(
            self.measure(side, arguments, 1, launches=False)() for _ in range(15)
        )

    def _ceilings(self) -> Ceilings:
        elements, n = (1 << 28, 8192) if self.gpu else (1 << 12, 16)
        x = torch.randn(elements, device=self.device)
        y = torch.empty_like(x)
        copy = 8 * elements / self._seconds(y.copy_, x)
        reads = [4 * elements / self._seconds(f, x) for f in (torch.sum, torch.amax)]
        rates = {}
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            a: Tensor = x[: n * n].view(n, n).to(dtype)
            rates[str(dtype).removeprefix("torch.")] = 2 * n**3 / self._seconds(torch.mm, a, a)
        torch.backends.cuda.matmul.allow_tf32 = before
        return Ceilings(max(*reads, copy), copy, rates)


def roofline(
    ceilings: Ceilings, read: int, written: int, flops: int, dtype: str
) -> tuple[float, str]:
    """The least seconds that moving the bytes and computing the products can take, and which of
    the ceilings says so; (0, "") if nothing is stated."""
    memory = read / ceilings.read if not written else (read + written) / ceilings.copy
    product = flops / ceilings.product.get(dtype, ceilings.product["float32"])
    if memory + product == 0:
        return 0.0, ""
    return (product, "matrix product") if product > memory else (memory, "bandwidth")
