"""Networks only; nothing here trains."""

from __future__ import annotations

from .convnet import ConvClassifier, ConvEmbedding
from .encoder import Encoder
from .mapper import LevelsMapper, StyleSpaceMapper
from .stylegan2 import StyleGAN2

__all__ = [
    "ConvClassifier",
    "ConvEmbedding",
    "Encoder",
    "LevelsMapper",
    "StyleGAN2",
    "StyleSpaceMapper",
]
