"""Every op in one graph of inductor, which compiles what stands before and behind them.

One graph, since its compiler takes seconds for each; with aot_eager every op is tested by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdd_fast.ops import (
    bias_act,
    conv_epilogue,
    demodulation,
    group_norm_silu,
    modulated_conv2d,
    softmax_entropy_l1,
    upfirdn2d,
)
from sdd_fast.ops._register import NATIVE

TAPS = torch.tensor([1.0, 3, 3, 1])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def leaves() -> list[Tensor]:
    """Images in both layouts, a kernel, its styles, what belongs to channels; and in 16 bits."""
    x, flat = numbers(2, 6, 5, 7), (numbers(2, 6, seed=2), numbers(6, seed=3), numbers(6, seed=4))
    turned = x.contiguous(memory_format=torch.channels_last)
    tensors = [x, turned, numbers(3, 6, 3, 3, seed=1), *flat]
    tensors += [t.bfloat16() for t in (x, flat[0], flat[2])]
    return [t.requires_grad_() for t in tensors]


def every_op(
    x: Tensor, turned: Tensor, weight: Tensor, styles: Tensor, a: Tensor, b: Tensor, *small: Tensor
) -> dict[str, Tensor]:
    results = {"demodulation": demodulation(weight * 2, styles)}
    noise = x[:1, :1].detach()
    for layout, y in (("contiguous", x * 2), ("channels_last", turned * 2)):
        results |= {
            f"bias_act, {layout}": bias_act(y, b, clamp=1.0),
            f"conv_epilogue, {layout}": conv_epilogue(y, styles, noise, b, "lrelu", 0.2, 1.4, 1.0),
            f"group_norm_silu, {layout}": group_norm_silu(y, 3, a.detach(), b.detach()) + 1,
            f"upfirdn2d, {layout}": upfirdn2d(y, TAPS, 1, 2, 1) + 1,
        }
    for up in (1, 2):
        results[f"modulated_conv2d, up {up}"] = modulated_conv2d(
            turned * 2, weight, styles, up=up, act="lrelu", bias=a[:3], clamp=2.0
        )
    results["softmax_entropy_l1"] = softmax_entropy_l1(x.flatten(1) * 2).deficit + 1
    if NATIVE.path is not None:  # fused, the reference would round less often than by itself
        y, factor, bias = small
        results["bias_act, 16 bits"] = bias_act(y, bias, clamp=1.0)
        results["conv_epilogue, 16 bits"] = conv_epilogue(
            y, factor, noise.bfloat16(), bias, "lrelu", 0.2, 1.4, 1.0
        )
    return results


def test_compile_every_op_forward_and_backward() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(every_op, fullgraph=True)
    found = []
    for function in (every_op, compiled):
        given = leaves()
        results = function(*given)
        torch.stack([y.float().square().sum() for y in results.values()]).sum().backward()
        found.append((results, [leaf.grad for leaf in given]))
    (wanted, gradients), (results, others) = found
    assert results.keys() == wanted.keys()
    for name, y in results.items():
        torch.testing.assert_close(y, wanted[name], msg=lambda told, name=name: f"{name}: {told}")
        assert y.stride() == wanted[name].stride(), name
    for gradient, other in zip(gradients, others, strict=True):
        if gradient is None or gradient.dtype == torch.bfloat16:
            torch.testing.assert_close(other, gradient)
        else:  # the sum of what comes from many ops, in another order
            torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-4)
