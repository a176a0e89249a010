"""The styled convolution of StyleGAN2: modulate, convolve, demodulate, noise, bias, activation.

The paper scales the weights per sample, w'_{oik} = s_i w_{oik}, and divides them by their norm over
(i, k) (Karras et al. 2020, Eq. 1 and 3). A convolution is linear in its input channels, so the same
result is `conv(x * s, w) * d` with d_o = rsqrt(Σ_i s_i² Σ_k w²_{oik} + eps): one ordinary
convolution for the whole batch instead of one per sample, and half the cost of the backward pass
when only the styles are trained.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._autocast import autocast_dtype, without_autocast
from .bias_act import bias_act_ref, check_activation
from .upfirdn2d import upfirdn2d, upfirdn2d_ref


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
        eps: added to the squared norm before its root.

    Returns:
        Feature maps of the dtype of `x`, or autocast's. In float16 the styles and weights are
        normalised before the convolution, which keeps the sums in range and cancels exactly in
        the demodulation.
        Differentiable any number of times in every tensor.

    Raises:
        TypeError: a tensor is not floating point, or dtypes differ.
        ValueError: a wrong shape or an unsupported `up`, `act`, `gain` or `clamp`.

    Source: Karras et al. 2020, Sec. 2.2, Eq. 1-3.
    """
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight, styles = x.to(dtype), weight.to(dtype), styles.to(dtype)
        noise = None if noise is None else noise.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    _check(x, weight, styles, up, resample_filter, noise, bias)
    gain = check_activation("modulated_conv2d", act, alpha, gain, clamp)
    with without_autocast(x):  # or the demodulation would lose precision
        y, factor = _convolve(x, weight, styles, demodulate, up, resample_filter, eps)

    # relu and leaky relu are positively homogeneous, gain * act(u) = act(gain * u), so the gain
    # goes into the small factors instead of a pass over the feature map.
    if factor is not None:
        factor = factor * gain
    elif gain != 1.0:
        y = y * gain
    shift: Tensor | None = None  # [1 or N, 1 or O, 1 or H', 1 or W']
    if noise is not None:
        shift = noise * gain
    if bias is not None:
        scaled = (bias * gain).reshape(1, -1, 1, 1)
        shift = scaled if shift is None else shift + scaled
    if factor is not None and shift is not None:
        if not y.is_contiguous():  # or addcmul would bring y back to the layout of its shift
            shift = shift.contiguous(memory_format=torch.channels_last)
        y = torch.addcmul(shift, y, factor)
    elif factor is not None:
        y = y * factor
    elif shift is not None:
        y = y + shift
    return bias_act_ref(y, None, act, alpha, 1.0, clamp)


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
) -> tuple[Tensor, Tensor | None]:  # [N, O, H * up, W * up], [N, O or 1, 1, 1]
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

    y = x * styles[:, :, None, None]
    if up == 1:
        y = F.conv2d(y, weight, padding=weight.shape[2] // 2)
    else:
        # 2H + 1 pixels come out of the transposed convolution; the even filter makes them 2H.
        y = F.conv_transpose2d(y, weight.transpose(0, 1), stride=2)
        taps = _taps(resample_filter, y)
        y = upfirdn2d(y, taps, padding=taps.numel() // 2 - 1, gain=4.0)
    return y, None if factor is None else factor.to(y.dtype)[:, :, None, None]


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
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    energy = weight.to(wide).square().sum((2, 3))  # [O, I]
    return torch.rsqrt(styles.to(wide).square() @ energy.t() + eps)


def _check(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    up: int,
    resample_filter: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
) -> None:
    for name, tensor in (("x", x), ("weight", weight), ("styles", styles), ("noise", noise),
                         ("bias", bias)):  # fmt: skip
        if tensor is None and name in ("noise", "bias"):
            continue
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            given = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(
                f"modulated_conv2d: {name} must be a floating point tensor, got {given}"
            )
        if tensor.dtype != x.dtype:
            raise TypeError(
                f"modulated_conv2d: {name} is {tensor.dtype} but x is {x.dtype}; "
                "convert one of them"
            )

    def expect(condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(f"modulated_conv2d: {message}")

    expect(x.ndim == 4, f"x must be [N, I, H, W], got {list(x.shape)}")
    n, inputs, height, width = x.shape
    expect(
        weight.ndim == 4 and weight.shape[2] == weight.shape[3] and weight.shape[2] % 2 == 1,
        f"weight must be [O, I, k, k] with odd k, got {list(weight.shape)}",
    )
    outputs, _, side, _ = weight.shape
    expect(
        weight.shape[1] == inputs,
        f"weight {list(weight.shape)} takes {weight.shape[1]} input channels, "
        f"but x {list(x.shape)} has {inputs}",
    )
    expect(
        styles.shape == (n, inputs),
        f"styles must be [N, I] = [{n}, {inputs}] for this x, got {list(styles.shape)}",
    )
    expect(up in (1, 2), f"up must be 1 or 2, got {up!r}")
    expect(up == 1 or side == 3, f"up=2 needs 3x3 weights, got {side}x{side}")
    expect(
        resample_filter is None
        or (resample_filter.ndim == 1 and resample_filter.numel() in range(2, 99, 2)),
        "resample_filter must be [t] with an even number of taps, "
        f"got {None if resample_filter is None else list(resample_filter.shape)}",
    )
    size = (height * up, width * up)
    expect(
        noise is None or noise.shape in ((1, 1, *size), (n, 1, *size)),
        f"noise must be [1 or {n}, 1, {size[0]}, {size[1]}], "
        f"got {None if noise is None else list(noise.shape)}",
    )
    expect(
        bias is None or bias.shape == (outputs,),
        f"bias must be [{outputs}], got {None if bias is None else list(bias.shape)}",
    )
