"""Group normalization by frozen parameters and the SiLU after it, of feature maps:
`y = silu(weight * (x - mean) / sqrt(var + eps) + bias)`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._autocast import without_autocast
from ._checks import check_eps, check_flag, check_floating, match_dtype_and_device
from ._register import NATIVE, native_kernel, native_op, requires_grad, transformed
from .conv_epilogue import memory_format_of


def group_norm_silu(
    x: Tensor,  # [N, C, ...]
    num_groups: int,
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float = 1e-6,
    silu: bool = True,
) -> Tensor:  # [N, C, ...]
    """Normalize each group of channels of each sample, scale, shift, and multiply by the sigmoid.

    Args:
        x: floating point, channels in dimension 1; any number of further dimensions.
        num_groups: how many groups of neighboring channels there are; it divides C.
        weight, bias: one value per channel, of the dtype of `x`, or float32 where `x` is float16 or
            bfloat16; under autocast of any. They are constants and get no gradient.
        eps: added to the variance, in [0, 1].
        silu: False leaves the SiLU out.

    Returns:
        A tensor of the shape and dtype of `x`, channels_last if `x` is, else contiguous.
        Differentiable once, in `x`, of which alone a reference is kept until then: a second
        derivative raises, and `group_norm_silu_ref` has it. Many cotangents for one result, as
        autograd's `is_grads_batched` gives them, take one call. Statistics are float64, and the
        bits do not depend on the number of threads. Autocast leaves the op alone: it is bound by
        memory, so that the dtype of `x` is as good as any.

    Raises:
        TypeError: a tensor is not floating point, dtypes do not fit, `num_groups` is no integer,
            `eps` no number or `silu` no bool.
        ValueError: a wrong shape, number of groups, device or eps, or parameters of which a
            gradient would be expected.

    Source: Wu and He 2018, Eq. 1 to 7; Elfwing et al. 2018 (SiLU).
    """
    weight, bias = _check(x, num_groups, weight, bias)
    check_eps("group_norm_silu", eps)
    check_flag("group_norm_silu", "silu", silu)
    if not native_kernel("group_norm_silu", x.device):
        return group_norm_silu_ref(x, num_groups, weight, bias, eps, silu)
    if weight.dtype != bias.dtype:  # one of them is float32
        weight, bias = weight.float(), bias.float()
    y: Tensor = _native(x, num_groups, weight, bias, float(eps), silu)[0]
    return y


def group_norm_silu_ref(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-6, silu: bool = True
) -> Tensor:
    """`group_norm_silu` in plain PyTorch, without argument checks."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    with without_autocast(x):
        y = torch.group_norm(x.to(dtype), num_groups, weight.to(dtype), bias.to(dtype), eps)
        y = (F.silu(y) if silu else y).to(x.dtype)
    return y if transformed() else y.contiguous(memory_format=memory_format_of(x))


def _check(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias, converted where autocast allows it."""
    op = "group_norm_silu"
    check_floating(op, "x", x)
    shape = x.shape
    if len(shape) < 2:
        raise ValueError(
            f"{op}: x must be [N, C, ...] with at least 2 dimensions, got {list(shape)}"
        )
    if not isinstance(num_groups, (int, torch.SymInt)) or isinstance(num_groups, bool):
        raise TypeError(f"{op}: num_groups must be an integer, got {type(num_groups).__name__}")
    if num_groups < 1 or shape[1] % num_groups != 0:
        raise ValueError(
            f"{op}: num_groups must be positive and divide the {shape[1]} channels of x, "
            f"got {num_groups}"
        )
    parameters = []
    for name, given in (("weight", weight), ("bias", bias)):
        tensor = match_dtype_and_device(op, name, given, x, or_float32=True)
        if tensor.shape != (shape[1],):
            raise ValueError(
                f"{op}: {name} must have shape [{shape[1]}], one value per channel of x, "
                f"got {list(tensor.shape)}"
            )
        if requires_grad(tensor):
            raise ValueError(
                f"{op}: {name} is a constant, of which no gradient is computed; freeze it, "
                f"{name}.requires_grad_(False), or pass {name}.detach()"
            )
        parameters.append(tensor)
    return parameters[0], parameters[1]


def _fake(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (x.new_empty((x.shape[0], num_groups), dtype=torch.float64) for _ in range(2))
    return torch.empty_like(x, memory_format=memory_format_of(x)), mean, rstd


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, weight, bias, _, ctx.silu = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(x, mean, rstd, weight, bias)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if any(ctx.needs_input_grad[1:]):
        raise RuntimeError("group_norm_silu: weight and bias are constants without a gradient")
    if grad is None:
        return (None,) * 6
    return _native_backward(grad, *ctx.saved_tensors, ctx.silu), *[None] * 5


def _fake_backward(grad: Tensor, x: Tensor, *_: Any) -> Tensor:
    return torch.empty(
        grad.shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x)
    )


def _setup_context_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pass


def _backward_backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
    raise RuntimeError(
        "group_norm_silu: it has no second derivative; group_norm_silu_ref is differentiable any "
        "number of times"
    )


def _batched_backward(
    info: Any, in_dims: tuple[int | None, ...], grad: Tensor, x: Tensor, *rest: Any
) -> tuple[Tensor, int]:
    """Give the kernel a batch of cotangents for one result as more samples of it."""
    batch_dim, *others = in_dims
    if batch_dim is None or any(d is not None for d in others):
        raise RuntimeError(
            "group_norm_silu: under vmap its gradient is batched in cotangents alone"
        )
    grads = grad.movedim(batch_dim, 0)
    x_grads = _native_backward(grads.flatten(0, 1), x, *rest)
    return x_grads.unflatten(0, grads.shape[:2]), 0


_native = native_op("group_norm_silu", _fake, _backward, _setup_context)
_native_backward = native_op(
    "group_norm_silu_backward", _fake_backward, _backward_backward, _setup_context_backward
)
if NATIVE.path is not None:
    torch.library.register_vmap("sdd_fast::group_norm_silu_backward", _batched_backward)
