"""Operators, one file each: a checked function and beside it its `_ref` in plain PyTorch."""

from __future__ import annotations

from .bias_act import bias_act, bias_act_ref
from .conv_epilogue import conv_epilogue, conv_epilogue_ref
from .demodulation import demodulation, demodulation_ref
from .group_norm_silu import group_norm_silu, group_norm_silu_ref
from .modulated_conv2d import modulated_conv2d, modulated_conv2d_ref
from .softmax_entropy_l1 import EntropyL1, softmax_entropy_l1, softmax_entropy_l1_ref
from .upfirdn2d import upfirdn2d, upfirdn2d_ref

__all__ = [
    "EntropyL1",
    "bias_act",
    "bias_act_ref",
    "conv_epilogue",
    "conv_epilogue_ref",
    "demodulation",
    "demodulation_ref",
    "group_norm_silu",
    "group_norm_silu_ref",
    "modulated_conv2d",
    "modulated_conv2d_ref",
    "softmax_entropy_l1",
    "softmax_entropy_l1_ref",
    "upfirdn2d",
    "upfirdn2d_ref",
]
