"""LPIPS: how different two images look to a person, learned from judgments of people.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric". The
convolutions are those of VGG-16 (Simonyan and Zisserman 2015) or AlexNet (Krizhevsky 2014, "One
weird trick"), trained on ImageNet; what LPIPS learned is how much each channel counts.

The parameters are named as in the files that people hold: `features.N` as in torchvision's, `linN`
as in those of LPIPS.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for values in [0, 1]


class _Convolution(NamedTuple):
    channels: int
    kernel: int
    stride: int
    padding: int


class _Pool(NamedTuple):
    kernel: int
    stride: int


def _vgg() -> list[_Convolution | _Pool]:
    blocks = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    layers: list[_Convolution | _Pool] = []
    for channels, count in blocks:
        layers += [_Convolution(channels, 3, 1, 1)] * count + [_Pool(2, 2)]
    return layers[:-1]


_ALEX: list[_Convolution | _Pool] = [
    _Convolution(64, 11, 4, 2), _Pool(3, 2), _Convolution(192, 5, 1, 2), _Pool(3, 2),
    _Convolution(384, 3, 1, 1), _Convolution(256, 3, 1, 1), _Convolution(256, 3, 1, 1),
]  # fmt: skip

# network → its layers, the places in `features` whose results are compared, the least side
_NETWORKS: dict[str, tuple[list[_Convolution | _Pool], tuple[int, ...], int]] = {
    "vgg": (_vgg(), (3, 8, 15, 22, 29), 16),
    "alex": (_ALEX, (1, 4, 7, 9, 11), 31),
}
NETWORKS = tuple(_NETWORKS)


class LPIPS(nn.Module):
    """The distance of images by weighted features.

    Args:
        network: "vgg" or "alex". The authors compare images by "alex", and train by "vgg".
    """

    def __init__(self, network: str) -> None:
        super().__init__()
        if network not in _NETWORKS:
            raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {network!r}")
        self.network = network
        layers, self.taps, self.least_side = _NETWORKS[network]
        parts: list[nn.Module] = []
        channels, tapped = 3, []
        for layer in layers:
            if isinstance(layer, _Pool):
                parts.append(nn.MaxPool2d(layer.kernel, layer.stride))
                continue
            parts += [nn.Conv2d(channels, *layer), nn.ReLU()]
            channels = layer.channels
            if len(parts) - 1 in self.taps:
                tapped.append(channels)
        self.features = nn.Sequential(*parts)
        for i, width in enumerate(tapped):
            setattr(self, f"lin{i}", _ChannelWeights(width))

    @property
    def name(self) -> str:
        """For tables, such as "LPIPS (alex)"."""
        return f"LPIPS ({self.network})"

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance [B] of images [B, 3, H, W] in [-1, 1]; differentiable.

        Raises:
            ValueError: images smaller than the network's pooling allows.
        """
        if min(a.shape[-2:]) < self.least_side:
            raise ValueError(
                f"{self.name} needs images of at least {self.least_side} pixels a side, got "
                f"{list(a.shape)}; enlarge them first, and say so beside the figure"
            )
        total = a.new_zeros(len(a))
        for i, (x, y) in enumerate(zip(self._maps(a), self._maps(b), strict=True)):
            squared = (_unit(x) - _unit(y)).square()
            total = total + getattr(self, f"lin{i}")(squared).mean((1, 2, 3))
        return total

    def _maps(self, images: Tensor) -> list[Tensor]:
        mean, std = (images.new_tensor(v)[:, None, None] for v in (_MEAN, _STD))
        x = ((images + 1) / 2 - mean) / std
        found = []
        for i, part in enumerate(self.features):
            x = part(x)
            if i in self.taps:
                found.append(x)
        return found


class _ChannelWeights(nn.Module):
    """How much each channel counts: a 1×1 convolution, named as in the files of LPIPS."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The first was for training only: dropout.
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, 1, H, W]
        out: Tensor = self.model(x)
        return out


def _unit(maps: Tensor) -> Tensor:
    """Vectors of length 1 at every place of maps [B, C, h, w]."""
    return maps / (maps.square().sum(1, keepdim=True) + 1e-10).sqrt()
