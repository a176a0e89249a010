"""The StyleGAN2-1024 generator, from W+ to images and back to the gradient of W+.

eager: the same factored network in PyTorch's own operations, in the same dtype and channels_last.
grouped: the formulation of the paper, a grouped convolution with a kernel for each sample, in
float32. graph: ours, replayed as one CUDA graph. The weights are random and frozen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from baselines.stylegan2 import factored, factored_to_rgb, grouped, grouped_to_rgb, synthesis
from torch import Tensor

from sdd_fast.models import StyleGAN2

TINY = {"resolution": 16, "w_dim": 8, "channel_base": 128, "channel_max": 8, "n_mlp": 1}

CASES: list[Any] = []  # seconds for each call on a CPU
# batch, dtype, gradient of W+, resolution
GPU_CASES = [
    (1, "float16", False, 1024),
    (8, "float16", False, 1024),
    (1, "float16", True, 1024),
    (8, "float16", True, 1024),
    (1, "float32", False, 1024),
    (8, "float32", False, 1024),
    (8, "float32", True, 1024),
]
# Its backward pass keeps maps of some 15 GiB, and those of the CUDA graph stay beside.
LARGE, LARGE_NEEDS = (8, "float32", True, 1024), 48  # GiB


@functools.cache
def network(resolution: int, dtype: torch.dtype, device: str) -> StyleGAN2:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = StyleGAN2(resolution) if resolution > 16 else StyleGAN2(**TINY)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith(("noise.weight", "activate.bias")):
                parameter.fill_(0.1)
    return generator.requires_grad_(False).to(device, dtype)


def multiplications(generator: StyleGAN2) -> int:
    """Of the convolutions, for one image."""
    total, side = 0, 4
    for layer, _ in generator._plan:
        total += layer.conv.weight.numel() * side**2
        side *= getattr(layer, "up", 1)
    return total


def replayed(step: Callable[[Tensor], Tensor], w_plus: Tensor) -> Callable[[Tensor], Tensor]:
    """The step as a CUDA graph; on the CPU of a dry run, as it is."""
    if w_plus.device.type != "cuda":
        return step
    given = w_plus.detach().clone().requires_grad_(w_plus.requires_grad)
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            step(given)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step(given)

    def replay(w_plus: Tensor) -> Tensor:
        with torch.no_grad():
            given.copy_(w_plus)
        graph.replay()
        return result

    return replay


def test_stylegan2(compare: Any, device: str, case: tuple[int, str, bool, int]) -> None:
    if device == "cuda" and case == LARGE:
        memory = torch.cuda.get_device_properties(0).total_memory
        if memory < LARGE_NEEDS * 2**30:
            pytest.skip(f"needs {LARGE_NEEDS} GiB on a GPU")
    batch, kind, gradient, resolution = case
    dtype = getattr(torch, kind)
    generator, wide = (network(resolution, d, device) for d in (dtype, torch.float32))
    shape = (batch, generator.num_layers, generator.w_dim)
    w_plus = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    w_wide = w_plus.float().requires_grad_(gradient)
    w_plus.requires_grad_(gradient)

    def eager(w_plus: Tensor) -> Tensor:
        return synthesis(generator, w_plus, factored, factored_to_rgb)

    def recipe(w_plus: Tensor) -> Tensor:
        return synthesis(wide, w_plus, grouped, grouped_to_rgb)

    # Of a million pixels float16 does not hold the gradient, unless that of each is small.
    cotangent = torch.randn_like(generator.synthesis(w_plus.detach())) / 128

    def step(w_plus: Tensor) -> Tensor:
        image = generator.synthesis(w_plus)
        return torch.autograd.grad(image, w_plus, cotangent)[0] if gradient else image

    graph = replayed(step, w_plus)
    expected = step(w_plus).float()
    assert (graph(w_plus).float() - expected).abs().max() <= 0.02 * expected.abs().max()
    compare(
        f"batch {batch}, {kind}{', gradient of W+' if gradient else ''}",
        {"eager": eager, "grouped": recipe, "ours": generator.synthesis},
        [(w_plus,)],
        own_inputs={"grouped": [(w_wide,)]},
        flops=2 * batch * multiplications(generator) * (2 if gradient else 1),
        ready={"graph": graph},
    )
