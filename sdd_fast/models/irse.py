"""The residual trunk of ArcFace that e4e and pSp build on: IR-50, or IR-SE-50 with excitation.

The parameters are named as in the files that people hold, so those load without a table. The
networks on this trunk are frozen judges: they normalize by stored statistics in train mode too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch.nn.functional as F
from torch import Tensor, nn

IR50 = (3, 4, 14, 3)
"""Units in each of the four stages of the published networks."""


class IRTrunk(nn.Module):
    """Four stages of residual units; each stage halves the resolution and its channels double.

    Deng et al. 2019, "ArcFace", Sec. 3.2.1 (the improved residual unit: BN-conv-BN-PReLU-conv-BN).

    Args:
        units: units in each of the four stages.
        width: channels of the first stage; the fourth has 8 times as many.
        squeeze_excitation: whether each unit weighs its channels (Hu et al. 2018); the width must
            then be at least 16.
    """

    def __init__(self, units: Sequence[int], width: int, squeeze_excitation: bool) -> None:
        super().__init__()
        if len(units) != 4 or min(units) < 1:
            raise ValueError(f"units must be four positive integers, got {list(units)}")
        if width < (16 if squeeze_excitation else 1):
            raise ValueError(
                "width must be positive, and at least 16 with squeeze_excitation, whose inner "
                f"layer has a sixteenth of the channels; got {width}"
            )
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), FrozenBatchNorm(width), nn.PReLU(width)
        )
        body: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(units):
            for i in range(count):
                outputs = width << stage
                body.append(IRUnit(channels, outputs, 2 if i == 0 else 1, squeeze_excitation))
                channels = outputs
        self.body = nn.Sequential(*body)
        self.stage_ends = [end - 1 for end in accumulate(units)]

    def features(self, images: Tensor) -> list[Tensor]:
        """Compute the stages' results for [B, 3, H, W]: at H/2, H/4, H/8 and H/16, rounded up."""
        x = self.input_layer(images)
        features = []
        for i, unit in enumerate(self.body):
            x = unit(x)
            if i in self.stage_ends:
                features.append(x)
        return features


class IRUnit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, squeeze_excitation: bool) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut_layer = None
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), FrozenBatchNorm(outputs)
            )
        layers = [
            FrozenBatchNorm(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False),
            FrozenBatchNorm(outputs),
        ]
        if squeeze_excitation:
            layers.append(SqueezeExcitation(outputs))
        self.res_layer = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, H, W] -> [B, outputs, H/s, W/s]
        if self.shortcut_layer is None:
            shortcut = x[:, :, :: self.stride, :: self.stride]
        else:
            shortcut = self.shortcut_layer(x)
        out: Tensor = self.res_layer(x) + shortcut
        return out


class SqueezeExcitation(nn.Module):
    """Weigh each channel by a small network of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> the same
        mean = x.mean((2, 3), keepdim=True)
        return x * self.fc2(F.relu(self.fc1(mean))).sigmoid()


class FrozenBatchNorm(nn.BatchNorm2d):
    """Batch normalization by its stored statistics, for feature maps and vectors alike.

    Training around such a network must neither move its statistics nor let the faces of a batch
    influence each other, so train mode makes no difference.
    """

    def forward(self, x: Tensor) -> Tensor:  # [B, C, ...] -> the same
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )
