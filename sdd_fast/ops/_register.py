"""Find and load the native kernels, once, at import; the ops call `native_kernel` every time.

The extension is a plain shared library that registers operators with torch through libtorch's
stable ABI. It is loaded by `torch.ops.load_library`, so it depends on no Python version.
"""

from __future__ import annotations

import ctypes
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._native_sources import sources_digest

PACKAGE = Path(__file__).resolve().parent.parent
LIBRARY = PACKAGE / "_C.abi3.so"
BUILD_NOTE = PACKAGE / "_native_build.json"  # written by setup.py beside the library
REBUILD = "pip install -e . --no-build-isolation"

# Ops that run as native kernels, on the CPU and on NVIDIA GPUs; modulated_conv2d is made of three
# of them and the convolution of PyTorch's libraries.
OPS = (
    "softmax_entropy_l1", "bias_act", "conv_epilogue", "upfirdn2d", "demodulation",
    "group_norm_silu", "modulated_conv2d",
)  # fmt: skip

# Whether the user wants no CUDA kernels; then PyTorch's operations on a GPU are no surprise.
CUDA_OFF = "0" in (os.environ.get("SDD_FAST_CUDA"), os.environ.get("SDD_FAST_NATIVE"))


@dataclass(frozen=True)
class Native:
    """What became of the native library.

    path: the loaded file, or None. missing: why there is none, as a sentence; "" if there is one.
    cuda_missing: the same of the CUDA kernels in it.
    """

    path: Path | None
    missing: str
    cuda_missing: str
    cuda_targets: tuple[str, ...] = ()
    compiler: str = ""
    cpu_level: str = ""
    cpu_levels_compiled: tuple[str, ...] = ()
    torch_at_build: str = ""


def _none(why: str) -> Native:
    return Native(None, why, why)


def _load() -> Native:
    if os.environ.get("SDD_FAST_NATIVE") == "0":
        return _none("they are switched off by SDD_FAST_NATIVE=0")
    other = os.environ.get("SDD_FAST_LIBRARY")
    if other:  # another build of csrc/, such as that of `make sanitize`; whoever names it keeps it
        return _open(Path(other).resolve(), torch_at_build="", no_cuda=f"{other} has none")
    try:
        note = json.loads(BUILD_NOTE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _none(f"the package was never built; run: {REBUILD}")
    if not note["built"]:
        return _none(note["reason"])
    if not LIBRARY.is_file():
        return _none(f"{LIBRARY} is missing; run: {REBUILD}")
    root = PACKAGE.parent
    if (root / "csrc").is_dir() and note["sources"] != sources_digest(root):
        return _none(f"csrc/ has changed since they were compiled; run: {REBUILD}")
    return _open(LIBRARY, torch_at_build=note["torch"], no_cuda=note["no_cuda"])


def _open(path: Path, torch_at_build: str, no_cuda: str) -> Native:
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return _none(
            f"{path.name}, compiled with torch {torch_at_build or 'unknown'}, does not load beside "
            f"torch {torch.__version__} ({error}); rebuild it: {REBUILD}",
        )
    library = ctypes.CDLL(str(path))  # the same handle, for the strings below

    def text(symbol: str) -> str:
        function = getattr(library, symbol)
        function.restype = ctypes.c_char_p
        return str(function().decode())

    targets = tuple(text("sdd_fast_cuda_targets").split())
    if CUDA_OFF:
        no_cuda = "they are switched off by SDD_FAST_CUDA=0"
    elif torch.version.hip:
        no_cuda = f"they are for NVIDIA GPUs, and torch {torch.__version__} is for AMD's (ROCm)"
    elif targets:
        no_cuda = ""
    return Native(
        path,
        "",
        cuda_missing=no_cuda,
        cuda_targets=targets,
        compiler=text("sdd_fast_compiler"),
        cpu_level=text("sdd_fast_cpu_level"),
        cpu_levels_compiled=tuple(text("sdd_fast_cpu_levels_compiled").split()),
        torch_at_build=torch_at_build,
    )


NATIVE = _load()
_warned: set[str] = set()


def native_kernel(op: str, device: torch.device) -> bool:
    """Tell whether `op` runs its native kernel for tensors on `device`.

    When it does not, the caller uses its `_ref` composition, and the first such call warns: once
    for a missing library, once per device type without kernels; under a `torch.func` transform the
    composition is what the transform needs, and nothing warns. A GPU is not used for being slow:
    CUDA tensors without CUDA kernels are an error, unless the kernels were switched off.
    """
    kind = device.type
    if kind == "cuda" and NATIVE.cuda_missing:
        if not CUDA_OFF:
            raise RuntimeError(
                f"{op}: x is on {device}, but sdd_fast has no CUDA kernels here: "
                f"{NATIVE.cuda_missing}. Or SDD_FAST_CUDA=0 in the environment makes its ops "
                "compute on the GPU with PyTorch's own operations, several times slower"
            )
        _warn_once("cuda", f"sdd_fast runs without its CUDA kernels: {NATIVE.cuda_missing}.")
        return False
    if NATIVE.path is None:
        _warn_once("library", f"sdd_fast runs without its native kernels: {NATIVE.missing}.")
        return False
    if kind in ("cpu", "cuda", "meta"):
        return not transformed()
    _warn_once(kind, f"sdd_fast has no native {op} for {kind} tensors.")
    return False


def requires_grad(*arguments: object) -> bool:
    """Tell whether autograd would record an operation on these arguments."""
    if torch.is_grad_enabled():
        for argument in arguments:
            if isinstance(argument, torch.Tensor) and argument.requires_grad:
                return True
    return False


def transformed() -> bool:
    """Tell whether a `torch.func` transform (grad, vmap, ...) is at work.

    The gradients of native ops raise under `torch.func.grad`, and a tensor under `vmap` does
    not tell its memory format. torch has no public function for this.
    """
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def native_op(
    name: str,
    fake: Callable[..., Any],
    backward: Callable[..., tuple[torch.Tensor | None, ...]] | None = None,
    setup_context: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """Register the fake kernel and the gradient of a native op; return a function that calls it.

    What traces or compiles gets both from torch's dispatcher. A plain call does not: autograd
    written in Python takes the dispatcher 6 microseconds, and 40 with the backward pass, so that
    small tensors would be slower than in PyTorch's own operations. It has no public way around.
    """
    if NATIVE.path is None:
        return _not_built
    op = getattr(torch.ops.sdd_fast, name).default
    torch.library.register_fake(f"sdd_fast::{name}", fake)
    if backward is not None and setup_context is not None:
        torch.library.register_autograd(f"sdd_fast::{name}", backward, setup_context=setup_context)

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                result = op(*arguments)
            if setup_context is not None:
                setup_context(ctx, arguments, result)
            return result

    if backward is not None:
        Direct.backward = staticmethod(backward)  # type: ignore[method-assign]

    def call(*arguments: Any) -> Any:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return op(*arguments)
        if requires_grad(*arguments):
            return Direct.apply(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*arguments)

    return call


def _not_built(*arguments: Any) -> Any:
    raise RuntimeError(f"sdd_fast has no native kernels: {NATIVE.missing}")


def _warn_once(what: str, message: str) -> None:
    if what in _warned or torch.compiler.is_compiling():
        return
    _warned.add(what)
    advice = "Results are the same, only slower; sdd_fast.build_info() tells more."
    warnings.warn(f"{message} {advice}", RuntimeWarning, stacklevel=4)
