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

from ._register import NATIVE, differentiable, graph_wanted, native_kernel

GradientMap = Literal["signed", "abs-mean"]
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class EntropyL1(NamedTuple):
    """Statistics of N maps; every field is [N], float64, on the device of the input."""

    entropy: Tensor
    l1: Tensor
    deficit: Tensor


def softmax_entropy_l1(x: Tensor, gradient_map: GradientMap = "signed") -> EntropyL1:
    """Entropy of the softmax, its deficit, and the L1 norm of every map of a batch.

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
    min-max normalised over rows, is within 1e-3 of exact (measured: 5e-5). The bits of the result
    do not depend on the number of threads. A map that contains NaN or an infinity has entropy and
    deficit NaN; its l1 is the plain sum.

    Gradients are those of the exact functions and can be differentiated again. Autocast leaves the
    op alone: it computes wide whatever the region asks for.

    Raises:
        TypeError: x is not a tensor of one of the dtypes above.
        ValueError: wrong number of dimensions, no entry per map, or an unknown gradient_map.
    """
    _check(x, gradient_map)
    if not native_kernel("softmax_entropy_l1", x.device):
        return softmax_entropy_l1_ref(x, gradient_map)
    entropy, l1, deficit, _ = _native(graph_wanted(x), x, gradient_map == "abs-mean")
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
    if not isinstance(x, Tensor):
        raise TypeError(f"softmax_entropy_l1: x must be a torch.Tensor, not {type(x).__name__}")
    if x.dtype not in _DTYPES:
        raise TypeError(
            "softmax_entropy_l1: x must be float64, float32, float16 or bfloat16, "
            f"not {x.dtype}; convert it first"
        )
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


def _backward(
    ctx: Any, g_entropy: Tensor, g_l1: Tensor, g_deficit: Tensor, g_log_mean_exp: Tensor
) -> tuple[Tensor, None]:
    """With L = log mean e^x, u = x - L and p = e^u / n:  dL/dx = p,  dD/dx = p (u - D) = -dH/dx.

    Written in differentiable operations on x, D and L, which makes double backward exact as well.
    """
    x, deficit, log_mean_exp = ctx.saved_tensors
    y = _map(x, ctx.abs_mean)
    u = y - log_mean_exp[:, None]
    p = torch.exp(u) / y.shape[-1]
    g = p * (g_log_mean_exp[:, None] + (g_deficit - g_entropy)[:, None] * (u - deficit[:, None]))
    g = g + g_l1[:, None] * torch.sign(y)
    if ctx.abs_mean:
        g = g[:, None] * torch.sign(x).double() / x.shape[1]
    return g.to(x.dtype), None


if NATIVE.path is not None:
    torch.library.register_fake("sdd_fast::softmax_entropy_l1", _fake)
    _native = differentiable("softmax_entropy_l1", _backward, _setup_context)
