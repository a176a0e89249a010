"""What StyleGAN2 divides the channels of a styled convolution by: the inverse norms of its scaled
weights, `d[n, o] = (Σ_i s²[n, i] Σ_k w²[o, i, k] + eps)^(-1/2)`, in one pass over the weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._autocast import autocast_dtype, without_autocast
from ._checks import check_eps, check_floating, match_dtype_and_device, same_dtype_and_device
from ._register import native_kernel, native_op


def demodulation(
    weight: Tensor,  # [O, I, kh, kw]
    styles: Tensor,  # [N, I]
    eps: float = 1e-8,
) -> Tensor:  # [N, O]
    """Compute what gives every output channel of `conv(x * styles, weight)` unit variance.

    Args:
        weight: floating point kernels of any size, shared by the batch. Contiguous and
            channels_last are read without a copy.
        styles: one factor per sample and input channel, of the dtype of `weight`; under autocast
            of any.
        eps: added to the squared norm before its root, in [0, 1].

    Returns:
        Inverse norms, float64 for float64, else float32, also under autocast. Differentiable any
        number of times in both tensors. The sums do not depend on the number of threads.

    Raises:
        TypeError: a tensor is not floating point, dtypes differ, or `eps` is no number.
        ValueError: a wrong shape, another device, or `eps` out of its range.

    Source: Karras et al. 2020, Sec. 2.2, Eq. 3.
    """
    op = "demodulation"
    check_floating(op, "weight", weight)
    if styles is None or not same_dtype_and_device(weight, styles):
        styles = match_dtype_and_device(op, "styles", styles, weight, x_name="weight")
    if weight.ndim != 4:
        raise ValueError(f"{op}: weight must be [O, I, kh, kw], got {list(weight.shape)}")
    if styles.ndim != 2 or styles.shape[1] != weight.shape[1]:
        raise ValueError(
            f"{op}: styles must be [N, I] = [N, {weight.shape[1]}] for this weight, "
            f"got {list(styles.shape)}"
        )
    check_eps(op, eps)
    with _keeping_dtypes(weight):
        return demodulation_unchecked(weight, styles, eps)[0]


def demodulation_unchecked(
    weight: Tensor,  # [O, I, kh, kw]
    styles: Tensor,  # [N, I]
    eps: float,
) -> tuple[Tensor, Tensor]:  # [N, O], [O, I]
    """`demodulation` for arguments that were checked, and Σ_k w². Autocast must be off."""
    if not native_kernel("demodulation", weight.device):
        return _composed(weight, styles, eps)
    factor, energy = _native(weight, styles, eps)
    return factor, energy


def demodulation_ref(
    weight: Tensor,  # [O, I, kh, kw]
    styles: Tensor,  # [N, I]
    eps: float = 1e-8,
) -> Tensor:  # [N, O]
    """`demodulation` in plain PyTorch, without argument checks."""
    with _keeping_dtypes(weight):
        return _composed(weight, styles, eps)[0]


def _composed(weight: Tensor, styles: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    if weight.dtype not in (torch.float64, torch.float32):
        weight, styles = weight.float(), styles.float()
    energy = weight.square().sum((2, 3))
    return _factor(energy, styles, eps), energy


def _factor(energy: Tensor, styles: Tensor, eps: float) -> Tensor:
    # A product with itself: the gradient of a power costs more.
    return F.linear(styles * styles, energy, energy.new_full(energy.shape[:1], eps)).rsqrt()


def _keeping_dtypes(x: Tensor) -> AbstractContextManager[None]:
    return nullcontext() if autocast_dtype(x) is None else without_autocast(x)


def _fake(weight: Tensor, styles: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    outputs, inputs = weight.shape[:2]
    factor = weight.new_empty((styles.shape[0], outputs), dtype=wide)
    return factor, weight.new_empty((outputs, inputs), dtype=wide)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    weight, styles, _ = inputs
    ctx.save_for_backward(weight, styles, *output)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, factor_grad: Tensor | None, energy_grad: Tensor | None
) -> tuple[Tensor | None, Tensor | None, None]:
    """With h = dL/dd d³: dL/ds = -s (h e) and dL/de = -h s² / 2, in differentiable operations."""
    weight, styles, factor, energy = ctx.saved_tensors
    weight_grad = styles_grad = None
    with _keeping_dtypes(weight):
        if factor_grad is not None:
            h = factor_grad * factor.pow(3)  # [N, O]
            if ctx.needs_input_grad[1]:
                styles_grad = (torch.mm(h, energy) * -styles).to(styles.dtype)
            if ctx.needs_input_grad[0]:
                part = h.mT @ styles.to(energy.dtype).square() * -0.5
                energy_grad = part if energy_grad is None else energy_grad + part
        if energy_grad is not None and ctx.needs_input_grad[0]:
            weight_grad = (weight * (2.0 * energy_grad)[:, :, None, None]).to(weight.dtype)
    return weight_grad, styles_grad, None


_native = native_op("demodulation", _fake, _backward, _setup_context)
