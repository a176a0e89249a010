"""Softmax entropy, its deficit and the L1 norm of gradient maps: what HQS is made of (Eq. 8–11).

With p = softmax(x) over the n entries of a map,

    H = -sum p log p        entropy, in nats, 0 ... log n
    D = log n - H           entropy deficit, >= 0: how far the map is from uniform
    N = sum |x|             L1 norm

Guidance gradients are small (std 1e-5 ... 1e-2), so D ~ Var(x)/2 is far smaller than one rounding
error of H in float32: an entropy curve computed the usual way is noise. Here D is computed on its
own, with a shift c near log-mean-exp(x), u = x - c, a = mean(expm1(u)), F = mean(u e^u - expm1(u)):

    D = F / (1 + a) - (log1p(a) - a / (1 + a))

See csrc/softmax_entropy_l1/softmax_entropy_l1.h for why nothing cancels in it.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ._checks import check_floating
from ._register import native_kernel, native_op

GradientMap = Literal["signed", "abs-mean"]


class EntropyL1(NamedTuple):
    """Statistics of N maps; every field is [N], float64, on the device of the input."""

    entropy: Tensor
    l1: Tensor
    deficit: Tensor


def softmax_entropy_l1(x: Tensor, gradient_map: GradientMap = "signed") -> EntropyL1:
    """Compute the softmax entropy, its deficit, and the L1 norm of every map of a batch.

    Args:
        x: float64, float32, float16 or bfloat16, any strides.
            "signed": [N, n], the n entries of each map; N >= 0, n >= 1.
            "abs-mean": [N, C, n]; the map is mean over C of |x|, [N, n].
        gradient_map: which of the two.

    Returns:
        EntropyL1(entropy, l1, deficit), float64 [N] each; l1 is that of the map.

    Accuracy: entries are handled in float32 (float64 for float64 input), sums in float64. The
    relative error of the deficit is about 1e-7 for std(x) from 1e-15 to 1e4 and more, with any mean
    offset that x itself can represent; that of the entropy 2e-6 absolute. A curve of deficits,
    min-max normalized over rows, is within 1e-3 of exact (measured: 5e-5). The bits of the result
    do not depend on the number of threads. A map that contains NaN or an infinity has entropy and
    deficit NaN; its l1 is the plain sum.

    Gradients are those of the exact functions: p (log p + H) for the deficit, in which nothing is
    left to cancel, so that their relative error is that of the dtype for small maps too. They are
    contiguous, and can be differentiated again (in float64, by PyTorch's operations). Autocast
    leaves the op alone: it computes wide whatever the region asks for.

    Raises:
        TypeError: x is not a tensor of one of the dtypes above.
        ValueError: wrong number of dimensions, no entry per map, or an unknown gradient_map.
    """
    _check(x, gradient_map)
    if not native_kernel("softmax_entropy_l1", x.device):
        return softmax_entropy_l1_ref(x, gradient_map)
    entropy, l1, deficit, _ = _native(x, gradient_map == "abs-mean")
    return EntropyL1(entropy, l1, deficit)


def softmax_entropy_l1_ref(x: Tensor, gradient_map: GradientMap = "signed") -> EntropyL1:
    """The same contract in plain PyTorch, float64 throughout; several times the memory of x."""
    _check(x, gradient_map)
    y = _map(x, gradient_map == "abs-mean")  # [N, n] float64
    log_n = math.log(y.shape[-1])
    # D does not depend on the shift, so no gradient needs to flow through it.
    shift = torch.logsumexp(y.detach(), dim=-1, keepdim=True) - log_n
    u = y - shift
    expm1 = torch.expm1(u)
    a = expm1.mean(-1)
    excess = (u * torch.exp(u) - expm1).mean(-1)
    deficit = excess / (1 + a) - (torch.log1p(a) - a / (1 + a))
    deficit = deficit.clamp_min(0.0)  # rounding; NaN stays NaN
    entropy = log_n - deficit
    return EntropyL1(entropy.clamp_min(0.0), y.abs().sum(-1), deficit)


def _check(x: Tensor, gradient_map: str) -> None:
    if gradient_map == "signed":
        dims, wanted, remedy = 2, "[N, n] for the signed map", "flatten each map: x.flatten(1)"
    elif gradient_map == "abs-mean":
        dims, wanted, remedy = 3, "[N, C, n] for the abs-mean map", "flatten each: x.flatten(2)"
    else:
        raise ValueError(
            f'softmax_entropy_l1: gradient_map must be "signed" or "abs-mean", not {gradient_map!r}'
        )
    check_floating("softmax_entropy_l1", "x", x)
    if x.dim() != dims:
        raise ValueError(f"softmax_entropy_l1: x must be {wanted}, got {tuple(x.shape)}; {remedy}")
    if 0 in x.shape[1:]:
        raise ValueError(
            f"softmax_entropy_l1: x must have at least one entry per map, got {tuple(x.shape)}"
        )


def _map(x: Tensor, abs_mean: bool) -> Tensor:
    return x.double().abs().mean(1) if abs_mean else x.double()


def _fake(x: Tensor, abs_mean: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    entropy, l1, deficit, log_mean_exp = (
        x.new_empty((x.shape[0],), dtype=torch.float64) for _ in range(4)
    )
    return entropy, l1, deficit, log_mean_exp


def _setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: tuple[Tensor, ...]) -> None:
    x, ctx.abs_mean = inputs
    _, _, deficit, log_mean_exp = output
    ctx.save_for_backward(x, deficit, log_mean_exp)
    ctx.set_materialize_grads(False)  # zeros for what nobody used would be launches on a GPU


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
    return _native_backward(*grads, *ctx.saved_tensors, ctx.abs_mean), None


def _fake_backward(
    grad_entropy: Tensor | None,
    grad_l1: Tensor | None,
    grad_deficit: Tensor | None,
    grad_log_mean_exp: Tensor | None,
    x: Tensor,
    deficit: Tensor,
    log_mean_exp: Tensor,
    abs_mean: bool,
) -> Tensor:
    return x.new_empty(x.shape)


def _setup_context_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.abs_mean = inputs
    ctx.save_for_backward(*tensors)


def _backward_backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of sum(v * g), with g the result of the backward pass. With L = log mean e^x,
    t = x - L - D and p = e^(x - L) / n:  g = p (g_L + (g_D - g_H) t) + g_l1 sign(x).

    Written in differentiable operations, in float64.
    """
    *grads, x, deficit, log_mean_exp = ctx.saved_tensors
    g_entropy, g_l1, g_deficit, g_log_mean_exp = (
        torch.zeros_like(deficit) if g is None else g for g in grads
    )
    y = _map(x, ctx.abs_mean)
    v = v.double()
    of_map = torch.sign(x).double() / x.shape[1] if ctx.abs_mean else None  # dy/dx
    if of_map is not None:
        v = (v * of_map).sum(1)
    u = y - log_mean_exp[:, None]
    t = u - deficit[:, None]
    vp = v * torch.exp(u) / y.shape[-1]
    slope = g_deficit - g_entropy
    dy = vp * (g_log_mean_exp[:, None] + slope[:, None] * (t + 1))
    along_t = (vp * t).sum(-1)
    mass = vp.sum(-1)
    dx = dy if of_map is None else dy[:, None] * of_map
    wanted = (-along_t, (v * torch.sign(y)).sum(-1), along_t, mass)
    back = (w if g is not None else None for w, g in zip(wanted, grads, strict=True))
    return *back, dx.to(x.dtype), -slope * mass, -dy.sum(-1), None


_native = native_op("softmax_entropy_l1", _fake, _backward, _setup_context)
_native_backward = native_op(
    "softmax_entropy_l1_backward", _fake_backward, _backward_backward, _setup_context_backward
)
