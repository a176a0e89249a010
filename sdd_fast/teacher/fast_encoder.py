"""The encoder of Stable Diffusion's autoencoder, made for gradients at the image.

It reads the weights of diffusers' module and computes the same function in fewer passes over the
feature maps: normalization and SiLU are one (`group_norm_silu`), nothing is divided by 1, sums are
written in place. The gradient goes to the image and to no weight, so that autograd has to keep only
what enters each normalization, a third of what it keeps of diffusers' module.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.checkpoint import checkpoint

from ..ops.group_norm_silu import group_norm_silu
from .precision import memory_format


def encode_mean(vae: Any, y: Tensor, again: bool = False) -> Tensor:
    """Encode images to the mean of the posterior, which is its mode.

    Args:
        vae: a frozen AutoencoderKL of which `unknown_to_fast_encoder` knows everything.
        y: [B, 3, H, W] in the dtype and on the device of the weights; H and W multiples of its
            scale factor.
        again: keep for the gradient only what enters each layer of the first level, the largest,
            and the level below it, and compute the rest again.

    Returns:
        [B, C, H/s, W/s], differentiable in `y`.
    """
    run = partial(checkpoint, use_reentrant=False) if again else _call
    first, *others = vae.encoder.down_blocks[0].resnets
    y = y.contiguous(memory_format=memory_format("vae", y.device, y.dtype))
    x = run(lambda y: _resnet(first, _conv(vae.encoder.conv_in, y)), y)
    for resnet in others:
        x = run(_resnet, resnet, x)
    return run(_below_first_level, vae, x)


def _call(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return function(*arguments)


def _below_first_level(vae: Any, x: Tensor) -> Tensor:
    encoder = vae.encoder
    for level, block in enumerate(encoder.down_blocks):
        for resnet in block.resnets if level else ():
            x = _resnet(resnet, x)
        for downsampler in block.downsamplers or ():
            x = _conv(downsampler.conv, F.pad(x, (0, 1, 0, 1)))
    first, *others = encoder.mid_block.resnets
    x = _resnet(first, x)
    for attention, resnet in zip(encoder.mid_block.attentions, others, strict=True):
        x = x if attention is None else attention(x)
        x = _resnet(resnet, x)
    x = _conv(encoder.conv_out, _norm_silu(encoder.conv_norm_out, x))
    if vae.quant_conv is not None:
        x = _conv(vae.quant_conv, x)
    return x[:, : vae.config.latent_channels]


def unknown_to_fast_encoder(vae: Any) -> str:
    """Return what the encoder of a VAE has that `encode_mean` does not know; "" if nothing.

    It calls no module but attention, so that nothing may hang on a call: no hook, no other forward.
    """
    from diffusers import AutoencoderKL
    from diffusers.models.attention_processor import Attention
    from diffusers.models.autoencoders.vae import Encoder
    from diffusers.models.downsampling import Downsample2D
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UNetMidBlock2D

    known = {
        Encoder, DownEncoderBlock2D, UNetMidBlock2D, ResnetBlock2D, Downsample2D, Attention,
        nn.Conv2d, nn.GroupNorm, nn.SiLU, nn.Dropout, nn.ModuleList,
    }  # fmt: skip
    if type(vae) is not AutoencoderKL:
        return type(vae).__name__
    if _is_changed(vae) or _has_any_global_hook():
        return "hooks or a forward of its own"
    of_attention: tuple[str, ...] = ()  # called as it is, whatever it is made of
    for name, module in [*vae.encoder.named_modules(), ("quant_conv", vae.quant_conv)]:
        if module is None or name.startswith(of_attention):
            continue
        if type(module) not in known:
            return f"{type(module).__name__} ({name})"
        if isinstance(module, Attention):
            of_attention += (name + ".",)
            continue
        if _is_changed(module):
            return f"hooks or a forward of its own ({name})"
        for parameter in module.parameters(recurse=False):
            if type(parameter.data) is not Tensor:
                return f"weights kept as {type(parameter.data).__name__} ({name})"
        if isinstance(module, ResnetBlock2D) and module.output_scale_factor != 1:
            return f"output_scale_factor {module.output_scale_factor} ({name})"
        if isinstance(module, Downsample2D) and module.padding != 0:
            return f"padding {module.padding} ({name})"
        if isinstance(module, nn.Conv2d):
            if module.padding_mode != "zeros":
                return f"padding_mode {module.padding_mode} ({name})"
            if (module.dilation, module.groups) != ((1, 1), 1):
                return f"dilation {module.dilation}, groups {module.groups} ({name})"
    return ""


def _is_changed(module: nn.Module) -> bool:
    """Whether calling a module does more, or something else, than its class says."""
    return "forward" in vars(module) or any(
        (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
    )


def _resnet(block: Any, x: Tensor) -> Tensor:
    h = _conv(block.conv1, _norm_silu(block.norm1, x))
    h = _conv(block.conv2, _norm_silu(block.norm2, h))
    # In place: the result of a convolution is kept by nothing.
    return h.add_(x if block.conv_shortcut is None else _conv(block.conv_shortcut, x))


def _norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    return group_norm_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def _conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    y: Tensor = _FrozenConv2d.apply(x, conv.weight, conv.bias, conv.stride, conv.padding)
    return y


class _FrozenConv2d(torch.autograd.Function):
    """A convolution whose weights get no gradient, so that its input need not be kept.

    That of PyTorch keeps it even then.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,  # [B, I, H, W]
        weight: Tensor,  # [O, I, k, k]
        bias: Tensor | None,  # [O]
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:  # [B, O, H', W']
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        # Of the size of x: its sides are odd where the stride is 2.
        x_grad = F.conv_transpose2d(grad, weight, None, ctx.stride, ctx.padding)
        return x_grad, None, None, None, None
