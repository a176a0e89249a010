"""What compute-sanitizer watches in `make gpu`: every op and its gradients, on small odd shapes.

python tests/cuda/sanitized.py [--device cpu] [--native-only] [--seeded overrun|uninitialized]

--native-only leaves out the ops that call libraries of others. --seeded is one fault that the tools
must find: a tensor whose memory ends before its elements do, or memory that nobody wrote.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from gpu_cases import DTYPES, convolution_calls, native_calls  # noqa: E402

from sdd_fast.ops import bias_act  # noqa: E402
from sdd_fast.ops._register import NATIVE  # noqa: E402


def seeded(fault: str, device: str) -> None:
    with torch.no_grad():
        b = torch.ones(1).to(device)
        if fault == "overrun":
            x = torch.ones(1, 1, 500, 100).to(device)
            x.untyped_storage().resize_(4 * 49_000)
        else:
            x = torch.empty(1, 1, 500, 100, device=device)
        print(bias_act(x, b).sum().item())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--native-only", action="store_true")
    parser.add_argument("--seeded", choices=("overrun", "uninitialized"))
    options = parser.parse_args()
    if NATIVE.path is None or (options.device == "cuda" and NATIVE.cuda_missing):
        sys.exit(f"sanitized: no native kernels: {NATIVE.missing or NATIVE.cuda_missing}")
    if options.seeded:
        seeded(options.seeded, options.device)
        print("sanitized: survived a seeded fault", flush=True)
        return
    count = 0
    for dtype in DTYPES:
        calls = list(native_calls(options.device, dtype))
        calls += [] if options.native_only else list(convolution_calls(options.device, dtype))
        for one in calls:
            for result in one.step():
                if not result.cpu().isfinite().all():
                    sys.exit(f"sanitized: {one.name}, {dtype}: a result is not finite")
            count += 1
    print(f"sanitized: {count} calls with their gradients", flush=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # without the end of cuDNN's threads, which under a tool can abort the process
