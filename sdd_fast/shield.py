"""The caller's global state, kept away from what this package computes.

    autocast             off: a teacher computes in its own dtype, everything else in float32
    no_grad, inference_mode    off where a gradient is taken, on where none is
    default dtype        float32 for whatever is made without naming one
    default device       likewise the CPU
    numpy's errstate     numpy's own: no exception for an underflow

All of these belong to the thread that sets them, but for torch's default dtype. That one is not
touched, since other threads would see it change: a mode names the dtype instead.

What is the caller's right stays: number of threads, float32 matmul precision, deterministic
algorithms, `torch.backends`. Networks are like any `nn.Module`: made in the default dtype on the
default device, called under the caller's autocast and grad mode; so are `torch.ops.sdd_fast`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FACTORIES = frozenset(
    {
        torch.empty, torch.eye, torch.linspace, torch.logspace, torch.ones, torch.rand, torch.randn,
        torch.zeros,
    }
)  # fmt: skip
_INFERRING = frozenset({torch.arange, torch.as_tensor, torch.full, torch.tensor})
"""Those that make integers of integers."""


@contextmanager
def shielded(grad: bool | None = True) -> Iterator[None]:
    """Within it, or in a function decorated by it, the caller's global state has no effect.

    Args:
        grad: whether gradients can be taken; None leaves that to the caller.
    """
    with ExitStack() as stack:
        if grad is not None:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(grad))
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.get_default_dtype() != torch.float32:
            stack.enter_context(_Float32())
        stack.enter_context(np.errstate(all="warn", under="ignore"))
        yield


def differentiable(tensor: Tensor) -> Tensor:
    """Return `tensor`, or a copy if it was made in inference mode and knows no gradients."""
    return tensor.clone() if tensor.is_inference() else tensor


def check_differentiable(**networks: Any) -> None:
    """Raise ValueError if weights of a network were made in inference mode."""
    for name, network in networks.items():
        if not isinstance(network, nn.Module):
            continue
        if any(tensor.is_inference() for tensor in network.state_dict(keep_vars=True).values()):
            raise ValueError(
                f"the weights of the {name} were made within torch.inference_mode(), which leaves "
                "no way for gradients; make or load it outside"
            )


class _Float32(TorchFunctionMode):
    """Tensors that are made without naming a dtype are float32, whatever the default is."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        named = kwargs.get("dtype") is not None
        if function in _FACTORIES and not named:
            return function(*args, **{**kwargs, "dtype": torch.float32})
        result = function(*args, **kwargs)
        if function in _INFERRING and not named and result.dtype == torch.get_default_dtype():
            if not hasattr(args[0], "dtype"):  # arrays and tensors keep theirs
                return function(*args, **{**kwargs, "dtype": torch.float32})
        return result
