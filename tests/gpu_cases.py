"""Calls of every op on small odd shapes, with their gradients: for tests that need a GPU and for
sanitizers. Everything random is made on the CPU and copied, so that a tool that follows writes sees
it written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdd_fast.models import StyleGAN2
from sdd_fast.ops import (
    bias_act,
    conv_epilogue,
    demodulation,
    group_norm_silu,
    modulated_conv2d,
    softmax_entropy_l1,
    upfirdn2d,
)

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Call:
    name: str
    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]  # those that require a gradient are differentiated in
    cotangent: Tensor

    def step(self) -> list[Tensor]:
        """The result and the gradients."""
        y = self.function(*self.inputs)
        leaves = [x for x in self.inputs if x.requires_grad]
        return [y.detach(), *torch.autograd.grad(y, leaves, self.cotangent)]

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self.function(*self.inputs)


def random(
    *shape: int, dtype: torch.dtype, device: str, seed: int = 0, layout: str = "contiguous"
) -> Tensor:
    """Normal numbers; layout: contiguous, channels_last or sliced, which is not dense."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last).to(device)
    if layout == "sliced":
        wide = torch.empty(*shape[:-1], 2 * shape[-1] + 1, dtype=dtype)
        wide[..., 1::2] = x
        return wide.to(device)[..., 1::2]
    return x.to(device)


def call(
    name: str, function: Callable[..., Tensor], shape: tuple[int, ...], *inputs: Tensor
) -> Call:
    """With a random cotangent for a result of this shape, in the layout of the first input."""
    x = inputs[0]
    last = x.ndim == len(shape) == 4 and x.is_contiguous(memory_format=torch.channels_last)
    layout = "channels_last" if last and not x.is_contiguous() else "contiguous"
    dtype = torch.float64 if "entropy" in name else x.dtype
    cotangent = random(*shape, dtype=dtype, device=x.device.type, seed=99, layout=layout)
    leaves = tuple(x.detach().requires_grad_() for x in inputs)
    return Call(name, function, leaves, cotangent.to(x.device))


def elementwise_calls(device: str, dtype: torch.dtype) -> Iterator[Call]:
    """bias_act and conv_epilogue."""

    def new(*shape: int, seed: int = 0, layout: str = "contiguous") -> Tensor:
        return random(*shape, dtype=dtype, device=device, seed=seed, layout=layout)

    for shape, layout in (
        ((2, 3, 5, 7), "contiguous"),
        ((2, 3, 5, 7), "channels_last"),
        ((3, 40, 8, 8), "channels_last"),
        ((2, 8, 32, 33), "contiguous"),
        ((1, 5, 1031), "contiguous"),
        ((70, 33), "contiguous"),
        ((2, 3, 5, 7), "sliced"),
    ):
        x, b = new(*shape, layout=layout), new(shape[1], seed=1)
        yield call(
            f"bias_act {list(shape)} {layout}",
            lambda x, b: bias_act(x, b, "lrelu", clamp=1.5), shape, x, b,
        )  # fmt: skip
    for (n, o, h, w), layout in (
        ((2, 3, 5, 7), "contiguous"),
        ((2, 3, 5, 7), "channels_last"),
        ((3, 40, 8, 8), "channels_last"),
        ((2, 8, 32, 33), "contiguous"),
        ((2, 3, 5, 7), "sliced"),
    ):
        x = new(n, o, h, w, layout=layout)
        rest = new(n, o, seed=1), new(n, 1, h, w, seed=2), new(o, seed=3)
        yield call(
            f"conv_epilogue {[n, o, h, w]} {layout}",
            lambda x, f, z, b: conv_epilogue(x, f, z, b, "lrelu", clamp=1.5),
            (n, o, h, w), x, *rest,
        )  # fmt: skip
        one = new(1, 1, h, w, seed=2)
        yield call(
            f"conv_epilogue {[n, o, h, w]} {layout}, one noise",
            lambda x, f, z: conv_epilogue(x, f, z, None, "relu"),
            (n, o, h, w), x, rest[0], one,
        )  # fmt: skip


def filter_calls(device: str, dtype: torch.dtype) -> Iterator[Call]:
    """upfirdn2d."""
    line = (torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8).to(device)
    plane = (torch.arange(1.0, 16.0).view(3, 5) / 100).to(device)
    for up, down, padding, taps in (
        (1, 1, (1, 1, 1, 1), line),
        (2, 1, (2, 1, 2, 1), line),
        (1, 2, (1, 1, 1, 1), line),
        (3, 2, (4, -1, 3, 2), plane),
    ):
        for shape, layout in (
            ((2, 3, 9, 13), "contiguous"),
            ((2, 3, 9, 13), "channels_last"),
            ((1, 40, 33, 34), "channels_last"),
            ((1, 2, 65, 67), "contiguous"),
            ((2, 3, 9, 13), "sliced"),
        ):
            left, right, top, bottom = padding
            height = (shape[2] * up + top + bottom - taps.shape[0]) // down + 1
            width = (shape[3] * up + left + right - taps.shape[-1]) // down + 1
            x = random(*shape, dtype=dtype, device=device, layout=layout)
            yield call(
                f"upfirdn2d {list(shape)} {layout}, up {up}, down {down}",
                lambda x, t=taps, u=up, d=down, p=padding: upfirdn2d(x, t, u, d, p, gain=1.5),
                (*shape[:2], height, width), x,
            )  # fmt: skip


def entropy_calls(device: str, dtype: torch.dtype) -> Iterator[Call]:
    """softmax_entropy_l1."""
    for shape in ((3, 1), (2, 31), (3, 4097), (2, 20011)):
        x = random(*shape, dtype=dtype, device=device) * 0.01
        yield call(
            f"softmax_entropy_l1 {list(shape)}", lambda x: torch.stack(softmax_entropy_l1(x)),
            (3, shape[0]), x,
        )  # fmt: skip
    for maps in ((2, 3, 33), (2, 3, 5003)):
        x = random(*maps, dtype=dtype, device=device) * 0.01
        yield call(
            f"softmax_entropy_l1 {list(maps)}",
            lambda x: torch.stack(softmax_entropy_l1(x, "abs-mean")), (3, maps[0]), x,
        )  # fmt: skip


def demodulation_calls(device: str, dtype: torch.dtype) -> Iterator[Call]:
    """demodulation, of weights in several layouts."""
    for shape, layout in (
        ((40, 33, 3, 3), "contiguous"),
        ((40, 33, 3, 3), "channels_last"),
        ((65, 70, 1, 1), "contiguous"),
        ((3, 5, 11, 9), "contiguous"),
        ((7, 5, 3, 3), "sliced"),
    ):
        w = random(*shape, dtype=dtype, device=device, layout=layout)
        styles = random(2, w.shape[1], dtype=dtype, device=device, seed=1)
        yield call(
            f"demodulation {list(shape)} {layout}",
            lambda w, s: demodulation(w, s, 0.1).to(w.dtype), (2, len(w)), w, styles,
        )  # fmt: skip


def group_norm_calls(device: str, dtype: torch.dtype) -> Iterator[Call]:
    """group_norm_silu, of whose inputs one has a gradient."""
    for shape, groups, layout in (
        ((2, 6, 5, 7), 3, "contiguous"),
        ((2, 6, 5, 7), 3, "channels_last"),
        ((1, 40, 33, 34), 8, "channels_last"),
        ((1, 8, 65, 68), 2, "contiguous"),
        ((2, 6, 5, 7), 2, "sliced"),
    ):
        x = random(*shape, dtype=dtype, device=device, layout=layout)
        w, b = (random(shape[1], dtype=dtype, device=device, seed=s) for s in (1, 2))
        yield call(
            f"group_norm_silu {list(shape)} {layout}",
            lambda x, g=groups, w=w, b=b: group_norm_silu(x, g, w, b), shape, x,
        )  # fmt: skip


def convolution_calls(device: str, dtype: torch.dtype) -> Iterator[Call]:
    """modulated_conv2d, large enough for its native way, and the synthesis of StyleGAN2."""

    def new(*shape: int, seed: int = 0, layout: str = "contiguous") -> Tensor:
        return random(*shape, dtype=dtype, device=device, seed=seed, layout=layout)

    taps = (torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8).to(device)
    n, i, o, side = 2, 32, 24, 17
    for up, filter_, layout in (
        (1, None, "contiguous"),
        (2, taps, "channels_last"),
        (2, None, "channels_last"),
    ):
        x, weight, styles = new(n, i, side, side, layout=layout), new(o, i, 3, 3, seed=1), new(n, i)
        noise, bias = new(1, 1, side * up, side * up, seed=2), new(o, seed=3)
        given = "" if filter_ is None else ", filter given"
        yield call(
            f"modulated_conv2d up {up} {layout}{given}",
            lambda x, w, s, z, b, u=up, f=filter_: modulated_conv2d(
                x, w, s / 17, up=u, resample_filter=f, noise=z, bias=b, act="lrelu"
            ),
            (n, o, side * up, side * up), x, weight, styles, noise, bias,
        )  # fmt: skip
    x, weight, styles = (
        new(n, i, 24, 24, layout="channels_last"),
        new(3, i, 1, 1, seed=1),
        new(n, i),
    )
    yield call(
        "modulated_conv2d to RGB",
        lambda x, w, s, b: modulated_conv2d(x, w, s / 6, demodulate=False, bias=b),
        (n, 3, 24, 24), x, weight, new(n, i), new(3, seed=3),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2(32, w_dim=8, n_mlp=1, channel_base=1024, channel_max=32)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise.weight"):
                parameter.fill_(0.1)
    generator = generator.requires_grad_(False).to(device, dtype)
    yield call("StyleGAN2", generator.synthesis, (2, 3, 32, 32), new(2, generator.num_layers, 8))


def native_calls(device: str, dtype: torch.dtype) -> Iterator[Call]:
    """Of the ops that are kernels of ours and nothing else."""
    yield from elementwise_calls(device, dtype)
    yield from filter_calls(device, dtype)
    yield from demodulation_calls(device, dtype)
    yield from group_norm_calls(device, dtype)
    yield from entropy_calls(device, dtype)
