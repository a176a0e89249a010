"""Image to W+: a residual trunk, one latent shared by all layers, and a small change per layer."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convnet import ResidualTrunk, check_resolution
from .save import SaveLoadMixin

POOLED = 4  # every head looks at a 4x4 grid


def check_encoder(encoder: nn.Module, generator: Any) -> None:
    """Raise ValueError unless an encoder gives the W+ that a generator takes.

    One that does not say what it gives, by `num_layers` and `w_dim`, is taken as it is.
    """
    gives = [getattr(encoder, name, None) for name in ("num_layers", "w_dim")]
    takes = [getattr(generator, name, None) for name in ("num_layers", "w_dim")]
    if None not in (*gives, *takes) and gives != takes:
        raise ValueError(
            f"the encoder gives W+ of {gives[0]} styles × {gives[1]}, but the generator takes "
            f"{takes[0]} × {takes[1]}, that of another resolution or width; use the encoder that "
            "was trained for this generator, or the generator that it was trained for"
        )


class Encoder(SaveLoadMixin, nn.Module):
    """Encode an image as `w_plus = latent_avg + base + delta`.

    The base w is the same for every layer, which keeps the code in the part of W+ where edits
    behave (Tov et al. 2021, Sec. 4); the deltas add detail. As in feature-pyramid encoders the
    coarse layers (0-3) read the 4x4 features, the medium ones (4-7) the 8x8, the fine ones the
    16x16.

    Args:
        resolution: side of the images, a power of two of at least 32.
        num_layers, w_dim: shape of W+; `generator.num_layers` and `generator.w_dim`.
        channel_base, channel_max: the trunk has `min(channel_base // res, channel_max)` channels
            at `res`.
        head_channels: channels of each head's 4x4 grid.
    """

    latent_avg: Tensor  # [w_dim], where training starts: the generator's; zeros until it is set

    def __init__(
        self,
        resolution: int,
        num_layers: int,
        w_dim: int,
        channel_base: int = 2048,
        channel_max: int = 160,
        head_channels: int = 24,
    ) -> None:
        super().__init__()
        check_resolution("Encoder", resolution, 32)
        if min(num_layers, w_dim, channel_max, head_channels) < 1 or channel_base < resolution:
            raise ValueError(
                "Encoder: num_layers, w_dim, channel_max and head_channels must be positive and "
                f"channel_base at least the resolution, got num_layers={num_layers}, "
                f"w_dim={w_dim}, channel_base={channel_base}, channel_max={channel_max}, "
                f"head_channels={head_channels}"
            )
        self.config = {
            "resolution": resolution, "num_layers": num_layers, "w_dim": w_dim,
            "channel_base": channel_base, "channel_max": channel_max,
            "head_channels": head_channels,
        }  # fmt: skip
        self.resolution, self.num_layers, self.w_dim = resolution, num_layers, w_dim
        resolutions = [resolution >> i for i in range(int(math.log2(resolution)) - 1)]
        channels = {res: min(channel_base // res, channel_max) for res in resolutions}
        self.trunk = ResidualTrunk(resolution, list(channels.values()))
        self.base = LatentHead(channels[4], 2 * head_channels, w_dim)
        coarse = min(4, num_layers)
        medium = min(8, num_layers) - coarse
        fine = num_layers - coarse - medium
        self.deltas = nn.ModuleList(
            LatentHead(channels[res], head_channels, count * w_dim)
            for res, count in ((4, coarse), (8, medium), (16, fine))
            if count
        )
        for head in self.deltas:
            nn.init.zeros_(head.linear.weight)  # type: ignore[union-attr,arg-type]
        self.register_buffer("latent_avg", torch.zeros(w_dim))

    @overload
    def forward(self, images: Tensor, return_base: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, images: Tensor, return_base: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def forward(self, images: Tensor, return_base: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Encode images [B, 3, resolution, resolution] in [-1, 1] to W+ [B, num_layers, w_dim].

        With `return_base`, also the shared part `latent_avg + base` [B, w_dim]; the difference of
        the two is the delta, which training should keep small.
        """
        features = self.trunk(images)  # ..., 16x16, 8x8, 4x4
        base = self.latent_avg + self.base(features[-1])  # [B, w_dim]
        deltas = [
            head(features[-1 - i]).reshape(base.shape[0], -1, self.w_dim)
            for i, head in enumerate(self.deltas)
        ]
        w_plus = base[:, None] + torch.cat(deltas, 1)
        return (w_plus, base) if return_base else w_plus


class LatentHead(nn.Module):
    """Feature map -> few channels on a 4x4 grid -> vector, cheap in parameters."""

    def __init__(self, inputs: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(inputs, channels, 1)
        self.linear = nn.Linear(channels * POOLED * POOLED, outputs)

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, H, W] -> [B, outputs]
        x = F.silu(self.reduce(x))
        x = F.adaptive_avg_pool2d(x, POOLED)
        out: Tensor = self.linear(x.flatten(1))
        return out
