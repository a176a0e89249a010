"""What is installed and which kernels are active."""

from __future__ import annotations

import platform
from typing import Any


def build_info() -> dict[str, Any]:
    """Versions and native kernels of this installation; plain types, ready for JSON.

    Keys: "sdd_fast", "torch", "python", "machine": versions and CPU architecture.
    "native": whether the compiled library is in use; "native_missing": why not, or "".
    "library", "compiler", "torch_at_build": the library's path and how it was compiled, or "".
    "cpu_level": instruction set in use (portable, x86-64-v3, x86-64-v4);
    "cpu_levels_compiled": those in the library.
    "cuda_targets": the GPUs its CUDA kernels were compiled for, as sm_90 for compute capability
    9.0; for those between and newer ones the driver compiles them at the first use.
    "cuda_missing": why there are none, or they are not used; "" where CUDA tensors are served.
    "ops": op name -> kernels of a CPU tensor, "native" or "reference" (plain PyTorch).
    """
    import torch

    from . import __version__
    from .ops._register import NATIVE, OPS

    loaded = NATIVE.path is not None
    return {
        "sdd_fast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "native": loaded,
        "native_missing": NATIVE.missing,
        "library": str(NATIVE.path or ""),
        "compiler": NATIVE.compiler,
        "torch_at_build": NATIVE.torch_at_build,
        "cpu_level": NATIVE.cpu_level,
        "cpu_levels_compiled": list(NATIVE.cpu_levels_compiled),
        "cuda_targets": list(NATIVE.cuda_targets),
        "cuda_missing": NATIVE.cuda_missing,
        "ops": dict.fromkeys(OPS, "native" if loaded else "reference"),
    }
