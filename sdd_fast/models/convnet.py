"""A small residual convolutional trunk and the two networks that put a head on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import channels_last
from .save import SaveLoadMixin


class ResidualBlock(nn.Module):
    """Pre-activation residual block that halves the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(inputs), inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(_groups(outputs), outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, H, W] -> [B, outputs, H/2, W/2]
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        skip: Tensor = self.skip(F.avg_pool2d(x, 2))
        return skip + y


class ResidualTrunk(nn.Module):
    """Image to feature maps at every halved resolution down to 4x4.

    Args:
        resolution: side of the images, a power of two of at least 8.
        channels: feature channels at `resolution`, `resolution / 2`, ..., 4.
    """

    def __init__(self, resolution: int, channels: Sequence[int]) -> None:
        super().__init__()
        check_resolution(type(self).__name__, resolution, 8)
        if len(channels) != int(math.log2(resolution)) - 1:
            raise ValueError(
                f"ResidualTrunk: resolution {resolution} needs "
                f"{int(math.log2(resolution)) - 1} channel counts, got {list(channels)}"
            )
        self.resolution = resolution
        self.stem = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(inputs, outputs) for inputs, outputs in pairwise(channels)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute maps at resolution/2, ..., 8, 4 of images [B, 3, resolution, resolution]."""
        if images.ndim != 4 or images.shape[1:] != (3, self.resolution, self.resolution):
            raise ValueError(
                f"images must be [B, 3, {self.resolution}, {self.resolution}], "
                f"got {list(images.shape)}; resize them first"
            )
        # Channels last makes the strided convolutions a quarter faster on a CPU, and suits GPUs.
        x = self.stem(channels_last(images))
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return features


class _PooledTrunk(SaveLoadMixin, nn.Module):
    """A trunk, and a linear layer on its last feature map pooled over space."""

    def __init__(self, resolution: int, width: int, outputs: int) -> None:
        super().__init__()
        self.resolution = resolution
        channels = trunk_channels(resolution, width)
        self.trunk = ResidualTrunk(resolution, channels)
        self.norm = nn.GroupNorm(_groups(channels[-1]), channels[-1])
        self.head = nn.Linear(2 * channels[-1], outputs)

    def pooled(self, images: Tensor) -> Tensor:
        """Compute what the last layer sees of images [B, 3, resolution, resolution]: [B, D]."""
        x = F.silu(self.norm(self.trunk(images)[-1]))
        # Mean and maximum: small marks would drown in the mean alone.
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)

    def _outputs(self, images: Tensor) -> Tensor:  # [B, 3, resolution, resolution] -> [B, outputs]
        out: Tensor = self.head(self.pooled(images))
        return out


class ConvClassifier(_PooledTrunk):
    """Several attributes of an image at once.

    Args:
        heads: attribute name to its number of classes.
        resolution: side of the images, a power of two of at least 8.
        width: channels at full resolution; each halving adds as many.
    """

    def __init__(self, heads: Mapping[str, int], resolution: int = 64, width: int = 32) -> None:
        if not heads or any(not isinstance(n, int) or n < 2 for n in heads.values()):
            raise ValueError(
                "ConvClassifier: heads must map at least one name to its number of classes "
                f"(2 or more), got {dict(heads)}"
            )
        super().__init__(resolution, width, sum(heads.values()))
        self.config = {"heads": dict(heads), "resolution": resolution, "width": width}
        self.heads = dict(heads)

    def features(self, images: Tensor) -> list[Tensor]:
        """Compute the trunk's feature maps at resolution/2, ..., 4; for perceptual losses."""
        features: list[Tensor] = self.trunk(images)
        return features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Classify images [B, 3, resolution, resolution]: logits [B, classes] of every head."""
        logits = self._outputs(images).split(list(self.heads.values()), dim=1)
        return dict(zip(self.heads, logits, strict=True))


class ConvEmbedding(_PooledTrunk):
    """A unit vector for an image: an identity, or the image side of a CLIP-like pair.

    Args:
        dim: length of the vector.
        resolution, width: as for `ConvClassifier`.
    """

    def __init__(self, dim: int, resolution: int = 64, width: int = 32) -> None:
        if dim < 1:
            raise ValueError(f"ConvEmbedding: dim must be positive, got {dim}")
        super().__init__(resolution, width, dim)
        self.config = {"dim": dim, "resolution": resolution, "width": width}

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, resolution, resolution] to unit vectors [B, dim]."""
        return F.normalize(self._outputs(images), dim=1)


def trunk_channels(resolution: int, width: int) -> list[int]:
    """Give `width` channels at full resolution, as many more with each halving, at most 8 times."""
    check_resolution("trunk", resolution, 8)
    if width < 1:
        raise ValueError(f"width must be positive, got {width}")
    return [width * min(i + 1, 8) for i in range(int(math.log2(resolution)) - 1)]


def check_resolution(name: str, resolution: int, least: int) -> None:
    if resolution < least or resolution & (resolution - 1):
        raise ValueError(
            f"{name}: resolution must be a power of two of at least {least}, got {resolution}"
        )


def _groups(channels: int) -> int:
    """Find the largest divisor of `channels` of at most 8."""
    return max(g for g in range(1, 9) if channels % g == 0)
