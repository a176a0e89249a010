"""Finds and loads the native kernels, once, at import; the ops ask `native_kernel` per call.

The extension is a plain shared library that registers operators with torch through libtorch's
stable ABI. It is loaded by `torch.ops.load_library`, so it depends on no Python version.
"""

from __future__ import annotations

import ctypes
import json
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._native_sources import sources_digest

PACKAGE = Path(__file__).resolve().parent.parent
LIBRARY = PACKAGE / "_C.abi3.so"
BUILD_NOTE = PACKAGE / "_native_build.json"  # written by setup.py beside the library
REBUILD = "pip install -e . --no-build-isolation"

# Every op: the device types for which a native kernel exists.
NATIVE_DEVICES: dict[str, tuple[str, ...]] = {
    "softmax_entropy_l1": ("cpu",),
    "bias_act": ("cpu",),
    "conv_epilogue": ("cpu",),
    "upfirdn2d": ("cpu",),
    "modulated_conv2d": ("cpu",),  # made of the two above and the library's convolution
}


@dataclass(frozen=True)
class Native:
    """What became of the native library.

    path: the loaded file, or None. missing: why there is none, as a sentence; "" if there is one.
    """

    path: Path | None
    missing: str
    compiler: str = ""
    cpu_level: str = ""
    cpu_levels_compiled: tuple[str, ...] = ()
    torch_at_build: str = ""


def _load() -> Native:
    if os.environ.get("SDD_FAST_NATIVE") == "0":
        return Native(None, "they are switched off by SDD_FAST_NATIVE=0")
    other = os.environ.get("SDD_FAST_LIBRARY")
    if other:  # another build of csrc/, such as that of `make sanitize`; whoever names it keeps it
        return _open(Path(other).resolve(), torch_at_build="")
    try:
        note = json.loads(BUILD_NOTE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Native(None, f"the package was never built; run: {REBUILD}")
    if not note["built"]:
        return Native(None, note["reason"])
    if not LIBRARY.is_file():
        return Native(None, f"{LIBRARY} is missing; run: {REBUILD}")
    root = PACKAGE.parent
    if (root / "csrc").is_dir() and note["sources"] != sources_digest(root):
        return Native(None, f"csrc/ has changed since they were compiled; run: {REBUILD}")
    return _open(LIBRARY, torch_at_build=note["torch"])


def _open(path: Path, torch_at_build: str) -> Native:
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return Native(
            None,
            f"{path.name}, compiled with torch {torch_at_build or 'unknown'}, does not load beside "
            f"torch {torch.__version__} ({error}); rebuild it: {REBUILD}",
        )
    library = ctypes.CDLL(str(path))  # the same handle, for the three strings below

    def text(symbol: str) -> str:
        function = getattr(library, symbol)
        function.restype = ctypes.c_char_p
        return str(function().decode())

    return Native(
        path,
        "",
        compiler=text("sdd_fast_compiler"),
        cpu_level=text("sdd_fast_cpu_level"),
        cpu_levels_compiled=tuple(text("sdd_fast_cpu_levels_compiled").split()),
        torch_at_build=torch_at_build,
    )


NATIVE = _load()
_warned: set[str] = set()


def native_kernel(op: str, device: torch.device) -> bool:
    """Whether `op` runs its native kernel for tensors on `device`.

    When it does not, the caller uses its `_ref` composition, and the first such call warns: once
    for a missing library, once per device type without kernels.
    """
    if NATIVE.path is None:
        _warn_once("library", f"sdd_fast runs without its native kernels: {NATIVE.missing}.")
        return False
    if device.type in NATIVE_DEVICES[op] or device.type == "meta":
        return True
    _warn_once(device.type, f"sdd_fast has no native {op} for {device.type} tensors yet.")
    return False


_below_autograd = getattr(torch._C, "_AutoDispatchBelowAutograd", nullcontext)
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def graph_wanted(*tensors: torch.Tensor | None) -> bool:
    """Whether a gradient may be asked of what is computed from these tensors."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def transformed() -> bool:
    """Within `torch.func.grad` and the like, which native ops with a gradient do not know."""
    return not torch.compiler.is_compiling() and _transforms_active()


def without_autograd(*tensors: torch.Tensor) -> AbstractContextManager[None]:
    """Spares a call that no gradient flows through the detour over autograd written in Python: 10
    microseconds, as much as an op on a small tensor. Changes no result."""
    if torch.compiler.is_compiling() or graph_wanted(*tensors):
        return nullcontext()
    return _below_autograd()


def differentiable(
    op: str,
    backward: Callable[..., tuple[torch.Tensor | None, ...]],
    setup_context: Callable[..., None],
) -> Callable[..., Any]:
    """Register the gradient of a native op with torch, and give a quicker way to the same.

    The result is called with `graph` (see `graph_wanted`) and the arguments of the op. The
    dispatcher takes 25 microseconds for a gradient written in Python. A call that nothing traces
    gets it from an autograd.Function at once.
    """
    native = getattr(torch.ops.sdd_fast, op).default
    torch.library.register_autograd(f"sdd_fast::{op}", backward, setup_context=setup_context)

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            with _below_autograd():
                result = native(*arguments)
            setup_context(ctx, arguments, result)
            return result

    Direct.backward = staticmethod(backward)  # type: ignore[method-assign]

    def call(graph: bool, *arguments: Any) -> Any:
        if torch.compiler.is_compiling():
            return native(*arguments)
        if not graph:
            with _below_autograd():
                return native(*arguments)
        if torch.jit.is_tracing():
            return native(*arguments)
        return Direct.apply(*arguments)

    return call


def _warn_once(what: str, message: str) -> None:
    if what in _warned or torch.compiler.is_compiling():
        return
    _warned.add(what)
    advice = "Results are the same, only slower; sdd_fast.build_info() tells more."
    warnings.warn(f"{message} {advice}", RuntimeWarning, stacklevel=4)
