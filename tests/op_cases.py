"""Inputs, independent references and tolerances of the ops, for tests and benchmarks alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class MapStatistics:
    """[N] float64 each, see ops.softmax_entropy_l1."""

    entropy: np.ndarray
    l1: np.ndarray
    deficit: np.ndarray


# Relative error of a deficit, by the dtype of x, against the reference on the very same numbers:
# the 16-bit types are widened exactly, so their tolerance is that of float32.
DEFICIT_TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 2e-6,
    torch.bfloat16: 2e-6,
    torch.float16: 2e-6,
}


def entropy_reference(x: Tensor) -> MapStatistics:
    """The definition itself, p = softmax(x), H = -sum p log p, D = log n - H, in extended precision
    (80-bit on x86: log n is rounded at 1e-19, far below the smallest deficit of the tests)."""
    y = x.detach().to(torch.float64).numpy().astype(np.longdouble)
    y = y - y.mean(-1, keepdims=True)
    y = y - y.max(-1, keepdims=True)
    z = np.exp(y)
    total = z.sum(-1, keepdims=True)
    entropy = np.log(total[:, 0]) - (z / total * y).sum(-1)
    deficit = np.log(np.longdouble(x.shape[-1])) - entropy
    l1 = np.abs(x.detach().to(torch.float64).numpy()).sum(-1)
    return MapStatistics(entropy.astype(np.float64), l1, deficit.astype(np.float64))


# Of a gradient: the norm of its error as a share of its norm.
ENTROPY_GRADIENT_TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 1e-6,
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
}


def entropy_gradient_reference(
    x: Tensor, of_deficit: float, of_l1: float = 0.0, abs_mean: bool = False
) -> Tensor:
    """The gradient of of_deficit * D + of_l1 * L1 in x, [N, n] or [N, C, n]: p (log p + H) and the
    signs, in extended precision (80-bit on x86), where log p + H has digits to spare."""
    wide = x.detach().to(torch.float64).numpy().astype(np.longdouble)
    y = np.abs(wide).mean(1) if abs_mean else wide
    z = y - y.max(-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    p = np.exp(log_p)
    grad = of_deficit * p * (log_p - (p * log_p).sum(-1, keepdims=True)) + of_l1 * np.sign(y)
    if abs_mean:
        grad = grad[:, None] * np.sign(wide) / x.shape[1]
    return torch.from_numpy(grad.astype(np.float64))


def norm_error(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference as a share of the norm."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    return float((actual.detach().cpu().double() - expected).norm() / expected.norm())


def entropy_reference_small(x: Tensor) -> np.ndarray:
    """Deficits [N] of maps with |x - mean| << 1, from the cumulants of x in float64:
    D = k2 / 2 + k3 / 3 + k4 / 8 + ..., the Taylor series of the definition at the uniform softmax.
    """

    def deficit(row: Tensor) -> float:
        y = row.to(torch.float64)
        y -= y.mean()
        square = y * y
        k2, k3, m4 = (float((square * f).mean()) for f in (torch.ones(()), y, square))
        return k2 / 2 + k3 / 3 + (m4 - 3 * k2**2) / 8

    return np.array([deficit(row) for row in x.detach()])


def gradient_rows(
    rows: int,
    n: int,
    std: float,
    *,
    offset: float = 0.0,
    spread: float = 2.0,
    seed: int = 0,
    device: str = "cpu",
) -> Tensor:
    """[rows, n] float32 like the guidance gradients of a curve over `rows` timesteps: normal, the
    standard deviation growing from `std` to `spread * std`, around a mean `offset`."""
    rng = torch.Generator(device).manual_seed(seed)
    scale = torch.linspace(std, spread * std, rows, device=device)[:, None]
    return torch.randn(rows, n, generator=rng, device=device) * scale + offset


def feature_maps(
    shape: tuple[int, ...],
    kind: str = "float32",
    *,
    count: int = 2,
    gradients: bool = False,
    device: str = "cpu",
) -> list[Tensor]:
    """Normal tensors; kind: a dtype, for four dimensions perhaps followed by " channels_last"."""
    layout = torch.channels_last if "channels_last" in kind else torch.contiguous_format
    dtype = getattr(torch, kind.split()[0])
    rng = torch.Generator(device).manual_seed(0)
    maps = [torch.randn(shape, generator=rng, device=device).to(dtype) for _ in range(count)]
    return [x.contiguous(memory_format=layout).requires_grad_(gradients) for x in maps]


def curve_error(measured: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference of two curves after min-max normalization of each."""

    def normalized(v: np.ndarray) -> np.ndarray:
        return (v - v.min()) / (v.max() - v.min())

    return float(np.abs(normalized(measured) - normalized(expected)).max())


# Largest error of bias_act and conv_epilogue relative to the largest value that occurs, by the
# dtype of x: a few roundings of float64 and float32; one of the 16-bit types, computed in float32.
FEATURE_TOLERANCE = {
    torch.float64: 4 * 2.0**-53,
    torch.float32: 4 * 2.0**-24,
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
}


@dataclass(frozen=True)
class FeatureGradients:
    """Float64 arrays of the shapes of the inputs; None for an input that is not there. magnitude:
    the largest gain * (|x * factor| + |noise| + |bias|), which roundings are relative to."""

    magnitude: float
    y: np.ndarray
    x: np.ndarray
    factor: np.ndarray | None
    noise: np.ndarray | None
    bias: np.ndarray | None


def epilogue_reference(
    x: Tensor,  # [N, O, ...]
    factor: Tensor | None,  # [N, O]
    noise: Tensor | None,  # [1 or N, 1, ...]
    bias: Tensor | None,  # [O]
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    grad: Tensor | None = None,  # [N, O, ...]; None: ones
) -> FeatureGradients:
    """clamp(gain * act(x * factor + noise + bias)) and its gradients in float64 NumPy, by the
    definition: every operand expanded, every derivative from the unrounded pre-activation."""

    def wide(t: Tensor | None, default: float) -> np.ndarray:
        return np.array(default) if t is None else t.detach().to(torch.float64).numpy()

    values = wide(x, 0.0)
    rest = (1,) * (values.ndim - 2)
    f = wide(factor, 1.0).reshape(() if factor is None else (*factor.shape, *rest))
    f = np.broadcast_to(f, values.shape)
    b = np.broadcast_to(wide(bias, 0.0).reshape(1, -1, *rest), values.shape)
    z = np.broadcast_to(wide(noise, 0.0), values.shape)
    u = values * f + z + b
    below = {"linear": 1.0, "relu": 0.0, "lrelu": alpha}[act]
    v = gain * np.where(u > 0, u, below * u)
    y = v if clamp is None else np.minimum(np.maximum(v, -clamp), clamp)
    h = gain * np.where(u > 0, 1.0, below) * (1.0 if grad is None else wide(grad, 0.0))
    if clamp is not None:
        h = np.where(np.abs(v) >= clamp, 0.0, h)
    pixels = tuple(range(2, values.ndim))
    return FeatureGradients(
        magnitude=float(gain * (np.abs(values * f) + np.abs(z) + np.abs(b)).max(initial=0)),
        y=y,
        x=h * f,
        factor=None if factor is None else (h * values).sum(pixels),
        noise=None if noise is None else _sum_to(h, tuple(noise.shape)),
        bias=None if bias is None else h.sum((0, *pixels)),
    )


def _sum_to(h: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    axes = tuple(i for i, (a, b) in enumerate(zip(h.shape, shape, strict=True)) if b == 1 != a)
    return h.sum(axes, keepdims=True)


def relative_error(actual: Tensor, expected: np.ndarray, scale: float = 0.0) -> float:
    """Largest error as a share of `scale`, by default the largest expected value; 0 for empty
    tensors. Of sums, `scale` should be the sum of the absolute values of the summands."""
    assert tuple(actual.shape) == expected.shape, (actual.shape, expected.shape)
    if expected.size == 0:
        return 0.0
    difference = np.abs(actual.detach().to(torch.float64).numpy() - expected).max()
    return float(difference / max(scale, np.abs(expected).max(), 1e-300))


@dataclass(frozen=True)
class Resampled:
    """What upfirdn2d is to give, and sum |f| |x| for each of its numbers: the scale of rounding."""

    y: np.ndarray
    magnitude: np.ndarray


def upfirdn2d_reference(
    x: Tensor,
    f: Tensor,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Resampled:
    """The definition of ops.upfirdn2d, step by step in float64 (extended precision for float64 x):
    insert zeros, pad or crop, slide the filter, keep every `down`-th."""
    wide = np.longdouble if x.dtype == torch.float64 else np.float64
    values = x.detach().to(torch.float64).numpy().astype(wide)
    taps = f.to(torch.float64).numpy().astype(wide)
    kernel = np.outer(taps, taps) if taps.ndim == 1 else taps
    if not flip_filter:
        kernel = kernel[::-1, ::-1]
    n, c, height, width = values.shape
    left, right, top, bottom = padding
    inserted = np.zeros((n, c, height * up, width * up), wide)
    inserted[:, :, ::up, ::up] = values
    around = [(0, 0), (0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))]
    padded = np.pad(inserted, around)
    padded = padded[:, :, max(-top, 0) :, max(-left, 0) :]
    padded = padded[:, :, : height * up + top + bottom, : width * up + left + right]
    rows = padded.shape[2] - kernel.shape[0] + 1
    columns = padded.shape[3] - kernel.shape[1] + 1
    y = np.zeros((n, c, -(-rows // down), -(-columns // down)), wide)
    magnitude, term = np.zeros_like(y), np.empty_like(y)  # one term: fresh memory takes longest
    for i, j in np.ndindex(*kernel.shape):
        seen = padded[:, :, i : i + rows : down, j : j + columns : down]
        y += np.multiply(kernel[i, j], seen, out=term)
        magnitude += np.abs(term, out=term)
    return Resampled((gain * y).astype(np.float64), (abs(gain) * magnitude).astype(np.float64))


# Unit roundoff of what upfirdn2d computes in and of what it stores, and the spacing of the smallest
# numbers it stores, by the dtype of x.
UPFIRDN2D_ROUNDING = {
    torch.float64: (2.0**-53, 2.0**-53, 0.0),
    torch.float32: (2.0**-24, 2.0**-24, 2.0**-149),
    torch.bfloat16: (2.0**-24, 2.0**-8, 2.0**-133),
    torch.float16: (2.0**-24, 2.0**-11, 2.0**-24),
}


def upfirdn2d_error(y: Tensor, f: Tensor, expected: Resampled) -> float:
    """The largest error, as a share of what rounding may cause: one unit for each tap on the way to
    a number, three for the taps themselves and the gain, and storing the result."""
    assert tuple(y.shape) == expected.y.shape, (tuple(y.shape), expected.y.shape)
    compute, store, smallest = UPFIRDN2D_ROUNDING[y.dtype]
    terms = (2 * f.numel() if f.ndim == 1 else f.numel()) + 3
    allowed = 1.01 * terms * compute * expected.magnitude + 1.01 * store * np.abs(expected.y)
    error = np.abs(y.detach().to(torch.float64).numpy() - expected.y)
    share = error / (allowed + smallest + 1e-300)
    return float(share.max()) if share.size else 0.0


def modulated_conv2d_reference(
    x: Tensor, weight: Tensor, styles: Tensor, up: int, demodulate: bool, taps: Tensor
) -> Tensor:
    """Karras et al. 2020, Eq. 1 and 3, one sample at a time; upsampling by inserting zeros."""
    out = []
    for image, style in zip(x, styles, strict=True):
        kernel = weight * style[None, :, None, None]
        if demodulate:
            kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up == 1:
            out.append(F.conv2d(image[None], kernel, padding=kernel.shape[-1] // 2))
            continue
        channels, height, width = image.shape
        spread = image.new_zeros(channels, 2 * height, 2 * width)
        spread[:, ::2, ::2] = image
        # One true convolution with kernel * blur; the blur is 4 times as strong, since only one
        # pixel in four is not zero, and its 4 taps are centered between two pixels.
        blur = 4 * torch.outer(taps, taps)
        merged = F.conv2d(
            F.pad(kernel, (3, 3, 3, 3)).flatten(0, 1)[:, None], blur.flip(0, 1)[None, None]
        ).reshape(*kernel.shape[:2], 6, 6)
        padded = F.pad(spread, (3, 2, 3, 2))
        out.append(F.conv2d(padded[None], merged.flip(2, 3)))
    return torch.cat(out)


# Relative error of demodulation's factors and energies: units of the precision they are computed
# in. All summands are positive, and of at most 64 neighbors in a sum most roundings cancel.
DEMODULATION_TOLERANCE = {
    torch.float64: 16 * 2.0**-53,
    torch.float32: 16 * 2.0**-24,
    torch.bfloat16: 16 * 2.0**-24,
    torch.float16: 16 * 2.0**-24,
}


def demodulation_reference(
    weight: Tensor, styles: Tensor, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Factors [N, O] by Karras et al. 2020, Eq. 3, from the scaled kernel of one sample after the
    other, and energies [O, I], in extended precision."""
    w = weight.detach().cpu().to(torch.float64).numpy().astype(np.longdouble)
    s = styles.detach().cpu().to(torch.float64).numpy().astype(np.longdouble)
    factor = np.zeros((len(s), len(w)), np.longdouble)
    with np.errstate(divide="ignore"):
        for n, style in enumerate(s):
            scaled = w * style[None, :, None, None]
            factor[n] = 1 / np.sqrt((scaled * scaled).sum((1, 2, 3)) + np.longdouble(eps))
    return factor.astype(np.float64), (w * w).sum((2, 3)).astype(np.float64)


def largest_share(actual: Tensor, expected: np.ndarray) -> float:
    """The largest relative error of any number; 0 where there are none."""
    assert tuple(actual.shape) == expected.shape, (actual.shape, expected.shape)
    difference = np.abs(actual.detach().cpu().to(torch.float64).numpy() - expected)
    return float((difference / np.maximum(np.abs(expected), 1e-300)).max(initial=0))


# Largest error of group_norm_silu relative to the largest value that occurs, and of its gradient to
# the largest that occurs in its sum, by the dtype of x: a few roundings, and of the 16-bit types
# one of their own.
GROUP_NORM_TOLERANCE = {
    torch.float64: 16 * 2.0**-53,
    torch.float32: 8 * 2.0**-24,
    torch.bfloat16: 1.01 * 2.0**-8,
    torch.float16: 1.01 * 2.0**-11,
}


@dataclass(frozen=True)
class Normalized:
    """The result, the gradient, and the largest of the three terms that the gradient is made of."""

    y: np.ndarray
    x_grad: np.ndarray
    magnitude: float


def group_norm_silu_reference(
    x: Tensor,  # [N, C, ...]
    groups: int,
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float,
    silu: bool,
    grad: Tensor | None = None,  # [N, C, ...]
) -> Normalized:
    """The result and the gradient in x of sum(grad * y), by the definition and the chain rule in
    extended precision, of one group of one sample after the other. grad=None: of sum(y)."""

    def wide(t: Tensor) -> np.ndarray:
        return t.detach().cpu().to(torch.float64).numpy().astype(np.longdouble)

    values, w, b = wide(x), wide(weight), wide(bias)
    y, x_grad = np.zeros_like(values), np.zeros_like(values)
    magnitude = np.longdouble(0)
    g = np.ones_like(values) if grad is None else wide(grad)
    per_group = values.shape[1] // groups
    for n, k in np.ndindex(len(values), groups):
        channels = slice(k * per_group, (k + 1) * per_group)
        if y[n, channels].size == 0:
            continue
        rows = values[n, channels].reshape(per_group, -1)
        centered = rows - rows.mean()
        inverse = 1 / np.sqrt((centered * centered).mean() + np.longdouble(eps))
        normal, scale = centered * inverse, w[channels, None]
        z = normal * scale + b[channels, None]
        sigmoid = 1 / (1 + np.exp(-z))
        y[n, channels] = (z * sigmoid if silu else z).reshape(y[n, channels].shape)
        slope = sigmoid * (1 + z * (1 - sigmoid)) if silu else np.ones_like(z)
        h = g[n, channels].reshape(rows.shape) * slope * scale  # of the normalized
        terms = h, h.mean(), normal * (h * normal).mean()
        of_x = inverse * (terms[0] - terms[1] - terms[2])
        x_grad[n, channels] = of_x.reshape(x_grad[n, channels].shape)
        magnitude = max(magnitude, *(inverse * np.abs(term).max() for term in terms))
    return Normalized(y.astype(np.float64), x_grad.astype(np.float64), float(magnitude))
