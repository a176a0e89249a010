"""Operators, one file each: a checked function and beside it its `_ref` in plain PyTorch."""

from __future__ import annotations

from .bias_act import bias_act, bias_act_ref
from .modulated_conv2d import modulated_conv2d, modulated_conv2d_ref
from .upfirdn2d import upfirdn2d, upfirdn2d_ref

__all__ = [
    "bias_act",
    "bias_act_ref",
    "modulated_conv2d",
    "modulated_conv2d_ref",
    "upfirdn2d",
    "upfirdn2d_ref",
]
