"""The styled convolution of StyleGAN2: modulate, convolve, demodulate, add noise and bias, activate.

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

from .bias_act import check_activation
from .upfirdn2d import upfirdn2d_ref


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
        Feature maps of the dtype of `x`. In float16 the styles and weights are normalised before
        the convolution, which cancels exactly in the demodulation and keeps the sums in range.
        Differentiable any number of times in every tensor.

    Raises:
        TypeError: a tensor is not floating point, or dtypes differ.
        ValueError: a wrong shape or an unsupported `up`, `act`, `gain` or `clamp`.

    Source: Karras et al. 2020, Sec. 2.2, Eq. 1-3.
    """
    _check_tensors(x, weight, styles, noise, bias)
    if up not in (1, 2):
        raise ValueError(f"modulated_conv2d: up must be 1 or 2, got {up!r}")
    n, inputs, height, width = x.shape
    outputs, _, side, _ = weight.shape
    if up == 2 and side != 3:
        raise ValueError(f"modulated_conv2d: up=2 needs 3x3 weights, got {side}x{side}")
    if resample_filter is not None and (
        resample_filter.ndim != 1 or resample_filter.numel() % 2 or resample_filter.numel() == 0
    ):
        raise ValueError(
            "modulated_conv2d: resample_filter must be [t] with an even number of taps, "
            f"got {list(resample_filter.shape)}"
        )
    if styles.shape != (n, inputs):
        raise ValueError(
            f"modulated_conv2d: styles must be [N, I] = [{n}, {inputs}] for this x, "
            f"got {list(styles.shape)}"
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"modulated_conv2d: bias must be [{outputs}], got {list(bias.shape)}")
    size = (height * up, width * up)
    if noise is not None and noise.shape not in ((1, 1, *size), (n, 1, *size)):
        raise ValueError(
            f"modulated_conv2d: noise must be [1 or {n}, 1, {size[0]}, {size[1]}], "
            f"got {list(noise.shape)}"
        )
    gain = check_activation("modulated_conv2d", act, alpha, gain, clamp)
    return modulated_conv2d_ref(
        x, weight, styles, demodulate=demodulate, up=up, resample_filter=resample_filter,
        noise=noise, bias=bias, act=act, alpha=alpha, gain=gain, clamp=clamp, eps=eps,
    )  # fmt: skip


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
    """`modulated_conv2d` in plain PyTorch, without argument checks."""
    gain = check_activation("modulated_conv2d", act, alpha, gain, clamp)
    style_scale: Tensor | None = None  # [N, 1]
    weight_scale: Tensor | None = None  # [O, 1, 1, 1]
    if x.dtype == torch.float16:
        tiny = 1e-4
        style_scale = styles.detach().abs().amax(1, keepdim=True).clamp_min(tiny)
        styles = styles / style_scale
        if demodulate:
            weight_scale = weight.detach().float().square().sum((1, 2, 3), keepdim=True).sqrt()
            weight_scale = weight_scale.clamp_min(tiny).to(weight.dtype)
            weight = weight / weight_scale

    y = x * styles[:, :, None, None]
    if up == 1:
        y = F.conv2d(y, weight, padding=weight.shape[2] // 2)
    else:
        y = F.conv_transpose2d(y, weight.transpose(0, 1), stride=2)
        taps = 8 if resample_filter is None else 0
        if resample_filter is None:
            resample_filter = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=y.dtype, device=y.device)
            resample_filter = resample_filter / taps
        # 2H + 1 pixels come out of the transposed convolution; the even filter brings them to 2H.
        y = upfirdn2d_ref(y, resample_filter, padding=resample_filter.numel() // 2 - 1, gain=4.0)

    # relu and leaky relu are positively homogeneous, gain * act(u) = act(gain * u), so the gain
    # goes into the small factors instead of a pass over the feature map.
    factor: Tensor | None = None  # [N or 1, O or 1, 1, 1]
    if demodulate:
        factor = _demodulation(weight, styles, style_scale, weight_scale, eps).to(y.dtype)
        factor = (factor * gain)[:, :, None, None]
    elif style_scale is not None:
        factor = (style_scale * gain)[:, :, None, None]
    shift: Tensor | None = None  # [1 or N, 1 or O, 1 or H', 1 or W']
    if noise is not None:
        shift = noise * gain
    if bias is not None:
        scaled = (bias * gain).reshape(1, -1, 1, 1)
        shift = scaled if shift is None else shift + scaled

    if factor is not None and shift is not None:
        y = torch.addcmul(shift, y, factor)
    elif factor is not None:
        y = y * factor
    else:
        y = y if gain == 1.0 else y * gain
        y = y if shift is None else y + shift
    if act == "lrelu":
        y = F.leaky_relu(y, alpha)
    elif act == "relu":
        y = F.relu(y)
    return y if clamp is None else y.clamp(-clamp, clamp)


def _demodulation(
    weight: Tensor,  # [O, I, k, k]
    styles: Tensor,  # [N, I]
    style_scale: Tensor | None,  # [N, 1]
    weight_scale: Tensor | None,  # [O, 1, 1, 1]
    eps: float,
) -> Tensor:  # [N, O]
    """rsqrt(Σ_i s_i² Σ_k w²_{oik} + eps), in float32 or wider."""
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    energy = weight.to(wide).square().sum((2, 3))  # [O, I]
    squares = styles.to(wide).square() @ energy.t()  # [N, O]
    if style_scale is not None and weight_scale is not None:
        # The scales were divided out of s and w, so eps is divided by them too: nothing changes.
        common = style_scale.to(wide) * weight_scale.to(wide).reshape(1, -1)
        return torch.rsqrt(squares + eps / common.square())
    return torch.rsqrt(squares + eps)


def _check_tensors(
    x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor | None, bias: Tensor | None
) -> None:
    tensors = {"x": x, "weight": weight, "styles": styles, "noise": noise, "bias": bias}
    for name, tensor in tensors.items():
        if tensor is None and name in ("noise", "bias"):
            continue
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            given = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(
                f"modulated_conv2d: {name} must be a floating point tensor, got {given}"
            )
        if tensor.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(
                f"modulated_conv2d: {name} is {tensor.dtype} but x is {x.dtype}; "
                "convert one of them"
            )
    if x.ndim != 4:
        raise ValueError(f"modulated_conv2d: x must be [N, I, H, W], got {list(x.shape)}")
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        raise ValueError(
            f"modulated_conv2d: weight must be [O, I, k, k] with odd k, got {list(weight.shape)}"
        )
    if weight.shape[1] != x.shape[1]:
        raise ValueError(
            f"modulated_conv2d: weight takes {weight.shape[1]} input channels but x has "
            f"{x.shape[1]}: weight {list(weight.shape)}, x {list(x.shape)}"
        )
