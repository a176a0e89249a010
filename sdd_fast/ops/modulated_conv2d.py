"""The styled convolution of StyleGAN2: modulate, convolve, demodulate, noise, bias, activation.

The paper scales the weights per sample, w'_{oik} = s_i w_{oik}, and divides them by their norm over
(i, k) (Karras et al. 2020, Eq. 1 and 3). A convolution is linear in its input channels, so the same
result is `conv(x * s, w) * d` with d_o = rsqrt(Σ_i s_i² Σ_k w²_{oik} + eps): one ordinary
convolution for the whole batch instead of one per sample, and half the cost of the backward pass
when only the styles are trained.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from ._autocast import autocast_dtype, without_autocast
from .bias_act import SMALL, bias_act_ref, check_activation, check_floating, check_number
from .conv_epilogue import conv_epilogue_unchecked
from .upfirdn2d import upfirdn2d, upfirdn2d_ref

_CPU = torch.device("cpu")


def modulated_conv2d(
    x: Tensor,  # [N, I, H, W]
    weight: Tensor,  # [O, I, k, k]
    styles: Tensor,  # [N, I]
    *,
    demodulate: bool = True,
    up: int = 1,
    resample_filter: Tensor | None = None,  # [t]
    noise: Tensor | None = None,  # [1 or N, 1, H * up, W * up]
    bias: Tensor | None = None,  # [O]
    act: str = "linear",
    alpha: float = 0.2,
    gain: float | None = None,
    clamp: float | None = None,
    eps: float = 1e-8,
) -> Tensor:  # [N, O, H * up, W * up]
    """Convolve with weights scaled per sample, then `clamp(gain * act(y + noise + bias))`.

    Args:
        x: floating point feature maps.
        weight: kernel with an odd side k, shared by the batch; the result has the size of `x`
            (times `up`).
        styles: one factor per sample and input channel. Any constant factor of the weight
            (equalised learning rate) may be folded into them.
        demodulate: divide each output channel by the norm of its scaled weights.
        up: 1, or 2 for a transposed convolution of stride 2 followed by `resample_filter`.
        resample_filter: an even number t of taps, summing to 1; None takes [1, 3, 3, 1] / 8.
        noise: added after demodulation, already multiplied by its strength.
        bias, act, alpha, gain, clamp: see `bias_act`, except that `act` is "linear" by default.
        eps: added to the squared norm before its root, in [0, 1].

    Returns:
        Feature maps of the dtype of `x`, or autocast's. In float16 the styles and weights are
        normalised before the convolution, which keeps the sums in range and cancels exactly in
        the demodulation.
        Differentiable any number of times in every tensor.

    Raises:
        TypeError: a tensor is not floating point, dtypes differ, or a number is no number.
        ValueError: a wrong shape, another device or an unsupported `up`, `eps`, `act`, `alpha`,
            `gain` or `clamp`.

    Source: Karras et al. 2020, Sec. 2.2, Eq. 1-3.
    """
    named = {"x": x, "weight": weight, "styles": styles, "noise": noise, "bias": bias}
    for name, tensor in named.items():
        if tensor is not None or name in ("x", "weight", "styles"):
            check_floating("modulated_conv2d", name, tensor)
    if resample_filter is not None:
        check_floating("modulated_conv2d", "resample_filter", resample_filter)
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight, styles = x.to(dtype), weight.to(dtype), styles.to(dtype)
        noise = None if noise is None else noise.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    _check(x, weight, styles, up, resample_filter, noise, bias)
    _check_options(x, demodulate, resample_filter, eps)
    gain = check_activation("modulated_conv2d", act, alpha, gain, clamp)
    tensors = (x, weight, styles, noise, bias)
    graph = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    small = graph and x.numel() + weight.numel() < SMALL and x.dtype != torch.float16
    if small and dtype is None and not torch.compiler.is_compiling():
        return modulated_conv2d_ref(
            x, weight, styles, demodulate=demodulate, up=up, resample_filter=resample_filter,
            noise=noise, bias=bias, act=act, alpha=alpha, gain=gain, clamp=clamp, eps=eps,
        )  # fmt: skip
    with (
        nullcontext() if dtype is None else without_autocast(x)
    ):  # or the demodulation would lose precision
        y, factor = _convolve(x, weight, styles, demodulate, up, resample_filter, eps)
        # y is ours alone, and no other part of a graph keeps it.
        return conv_epilogue_unchecked(
            y, factor, noise, bias, act, alpha, gain, clamp, may_overwrite=True
        )


def _pointwise(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """A 1x1 convolution without demodulation (toRGB): its few weights are scaled per sample, which
    spares a pass over the feature map, and convolution libraries are slow at three outputs."""
    n, _, height, width = x.shape
    scaled = weight.flatten(1) * styles[:, None]  # [N, O, I]
    if x.is_contiguous():
        return (scaled @ x.flatten(2)).reshape(n, -1, height, width)
    y = x.permute(0, 2, 3, 1).flatten(1, 2) @ scaled.mT  # [N, H * W, O]
    return y.reshape(n, height, width, -1).permute(0, 3, 1, 2)


def _convolve(
    x: Tensor,  # [N, I, H, W]
    weight: Tensor,  # [O, I, k, k]
    styles: Tensor,  # [N, I]
    demodulate: bool,
    up: int,
    resample_filter: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor | None]:  # [N, O, H * up, W * up], [N, O]
    """conv(x * s, w) and the factor that is still to be multiplied to each channel of it."""
    if weight.shape[2] == 1 and not demodulate:
        return _pointwise(x, weight, styles), None
    factor: Tensor | None = None
    if demodulate:
        factor = _demodulation(weight, styles, eps)
    if x.dtype == torch.float16:
        # Normalised styles and weights keep the sums of the convolution within float16's range;
        # what is divided out here is multiplied to the float32 factor.
        style_scale = styles.detach().float().abs().amax(1, keepdim=True).clamp_min(1e-30)
        styles = (styles / style_scale).to(x.dtype)
        weight_scale = weight.detach().float().square().sum((1, 2, 3)).sqrt().clamp_min(1e-30)
        weight = (weight / weight_scale[:, None, None, None]).to(x.dtype)
        common = style_scale * weight_scale  # [N, O]
        factor = common if factor is None else factor * common

    outputs, inputs, side, _ = weight.shape
    wanted = torch.is_grad_enabled() and (styles.requires_grad or weight.requires_grad)
    if x.shape[0] == 1 and x.shape[2] * x.shape[3] > outputs * side * side and not wanted:
        # A single sample with more pixels than weights: the styles go into the weights. Where the
        # styles are trained this would ask for the gradient of the weights, a convolution more.
        weight = weight * styles[:, :, None, None]
        y = x
    else:
        y = _scale(x, styles)
    # Small maps go to the layout of the weights, which cost more to move. Weights go to the layout
    # of large maps: convolution libraries bring them there anyway, slowly.
    small = x.shape[2] * x.shape[3] <= 64
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    if small:
        y = y.contiguous()
    elif up == 1:
        weight = weight.contiguous(memory_format=layout)
    if up == 1:
        y = F.conv2d(y, weight, padding=side // 2)
    else:
        # 2H + 1 pixels come out of the transposed convolution; the even filter makes them 2H.
        weight = weight.transpose(0, 1)
        if not small:
            weight = weight.contiguous(memory_format=layout)
        y = F.conv_transpose2d(y, weight, stride=2)
        taps = _taps(resample_filter, y)
        y = upfirdn2d(y, taps, padding=taps.numel() // 2 - 1, gain=4.0)
    if small:
        y = y.contiguous(memory_format=layout)
    return y, factor


def _scale(x: Tensor, styles: Tensor) -> Tensor:
    """x * s. The epilogue does it too, with both gradients in one pass."""
    if torch.is_grad_enabled() and styles.requires_grad:
        return conv_epilogue_unchecked(x, styles, None, None, "linear", 0.2, 1.0, None)
    return x * styles.reshape(*styles.shape, 1, 1)


def modulated_conv2d_ref(
    x: Tensor,  # [N, I, H, W]
    weight: Tensor,  # [O, I, k, k]
    styles: Tensor,  # [N, I]
    *,
    demodulate: bool = True,
    up: int = 1,
    resample_filter: Tensor | None = None,  # [t]
    noise: Tensor | None = None,  # [1 or N, 1, H * up, W * up]
    bias: Tensor | None = None,  # [O]
    act: str = "linear",
    alpha: float = 0.2,
    gain: float | None = None,
    clamp: float | None = None,
    eps: float = 1e-8,
) -> Tensor:  # [N, O, H * up, W * up]
    """`modulated_conv2d` step by step in plain PyTorch, without argument checks."""
    y = x * styles[:, :, None, None]
    if up == 1:
        y = F.conv2d(y, weight, padding=weight.shape[2] // 2)
    else:
        y = F.conv_transpose2d(y, weight.transpose(0, 1), stride=2)
        taps = _taps(resample_filter, y)
        y = upfirdn2d_ref(y, taps, padding=taps.numel() // 2 - 1, gain=4.0)
    if demodulate:
        y = y * _demodulation(weight, styles, eps).to(y.dtype)[:, :, None, None]
    if noise is not None:
        y = y + noise
    return bias_act_ref(y, bias, act, alpha, gain, clamp)


def _taps(resample_filter: Tensor | None, like: Tensor) -> Tensor:
    if resample_filter is None:
        resample_filter = torch.tensor([0.125, 0.375, 0.375, 0.125])
    return resample_filter.to(like)


def _demodulation(weight: Tensor, styles: Tensor, eps: float) -> Tensor:  # [N, O]
    """rsqrt(Σ_i s_i² Σ_k w²_{oik} + eps), in float32 or wider."""
    if weight.dtype not in (torch.float64, torch.float32):
        weight, styles = weight.float(), styles.float()
    if torch.is_grad_enabled() and weight.requires_grad:
        energy = weight.square().sum((2, 3))  # [O, I]
    else:  # one pass; but a norm cannot be differentiated twice at zero
        energy = torch.linalg.vector_norm(weight, dim=(2, 3)).square()
    return F.linear(styles.square(), energy, energy.new_full(energy.shape[:1], eps)).rsqrt()


def _check(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    up: int,
    resample_filter: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
) -> None:
    named = {"x": x, "weight": weight, "styles": styles, "noise": noise, "bias": bias}
    dtype, device = x.dtype, x.device
    for name, tensor in named.items():
        if tensor is None:
            continue
        if tensor.dtype != dtype:
            raise TypeError(
                f"modulated_conv2d: {name} is {tensor.dtype} but x is {dtype}; convert one of them"
            )
        if tensor.device != device:
            raise ValueError(
                f"modulated_conv2d: {name} is on {tensor.device} but x on {device}; "
                "move one of them"
            )
    message = _wrong_shape(x, weight, styles, up, resample_filter, noise, bias)
    if message:
        raise ValueError(f"modulated_conv2d: {message}")


def _check_options(x: Tensor, demodulate: bool, resample_filter: Tensor | None, eps: float) -> None:
    if not isinstance(demodulate, bool):
        raise TypeError(
            f"modulated_conv2d: demodulate must be True or False, got {type(demodulate).__name__}"
        )
    check_number("modulated_conv2d", "eps", eps)
    if not 0.0 <= eps <= 1.0:
        raise ValueError(f"modulated_conv2d: eps must lie in [0, 1], got {eps}")
    if resample_filter is not None and resample_filter.device not in (x.device, _CPU):
        raise ValueError(
            f"modulated_conv2d: resample_filter is on {resample_filter.device} but x on "
            f"{x.device}; move the filter"
        )


def _wrong_shape(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    up: int,
    resample_filter: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
) -> str:
    """What is wrong, or ""."""
    if x.ndim != 4:
        return f"x must be [N, I, H, W], got {list(x.shape)}"
    n, inputs, height, width = x.shape
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 != 1:
        return f"weight must be [O, I, k, k] with odd k, got {list(weight.shape)}"
    outputs, taken, side, _ = weight.shape
    if taken != inputs:
        return (
            f"weight {list(weight.shape)} takes {taken} input channels, "
            f"but x {list(x.shape)} has {inputs}"
        )
    if styles.shape != (n, inputs):
        return f"styles must be [N, I] = [{n}, {inputs}] for this x, got {list(styles.shape)}"
    if not isinstance(up, int) or up not in (1, 2):
        return f"up must be 1 or 2, got {up!r}"
    if up == 2 and side != 3:
        return f"up=2 needs 3x3 weights, got {side}x{side}"
    if resample_filter is not None and (
        resample_filter.ndim != 1 or resample_filter.numel() not in range(2, 99, 2)
    ):
        return (
            "resample_filter must be [t] with an even number of taps, "
            f"got {list(resample_filter.shape)}"
        )
    size = (height * up, width * up)
    if noise is not None and noise.shape not in ((1, 1, *size), (n, 1, *size)):
        return f"noise must be [1 or {n}, 1, {size[0]}, {size[1]}], got {list(noise.shape)}"
    if bias is not None and bias.shape != (outputs,):
        return f"bias must be [{outputs}], got {list(bias.shape)}"
    return ""
