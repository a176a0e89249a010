"""Image to W+ by a feature pyramid: e4e, and pSp, which it came from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .irse import IR50, IRTrunk
from .layers import EqualLinear
from .save import SaveLoadMixin

COARSE, MEDIUM = 3, 7  # layers before these read the 16x16, the 32x32 and the 64x64 map


class PyramidEncoder(SaveLoadMixin, IRTrunk):
    """Encode an image as `w_plus = latent_avg + style(i)` for every layer i of W+.

    pSp (Richardson et al. 2021) has a style for each layer. e4e (Tov et al. 2021, Sec. 4) has one
    for all layers, `style(0)`, and adds small deltas to it for the others, which keeps the code in
    the part of W+ where edits behave. The tensors of the two are alike.

    Args:
        num_layers, w_dim: shape of W+.
        deltas: True: e4e; False: pSp.
        input_size: (height, width) of the images, at most 256; e4e for cars has (192, 256).
        units, width, squeeze_excitation: see `IRTrunk`; the defaults are the published ones.
    """

    latent_avg: Tensor  # [num_layers, w_dim]

    def __init__(
        self,
        num_layers: int,
        w_dim: int = 512,
        deltas: bool = True,
        input_size: Sequence[int] = (256, 256),
        units: Sequence[int] = IR50,
        width: int = 64,
        squeeze_excitation: bool = True,
    ) -> None:
        super().__init__(units, width, squeeze_excitation)
        if min(num_layers, w_dim) < 1:
            raise ValueError(
                "PyramidEncoder: num_layers and w_dim must be positive, "
                f"got num_layers={num_layers}, w_dim={w_dim}"
            )
        if len(input_size) != 2 or min(input_size) < 16 or max(input_size) > 256:
            # Beyond 256 the style blocks would not end in a single pixel.
            raise ValueError(
                "PyramidEncoder: input_size must be (height, width) of 16 to 256 pixels, "
                f"got {tuple(input_size)}"
            )
        self.config = {
            "num_layers": num_layers, "w_dim": w_dim, "deltas": deltas,
            "input_size": list(input_size), "units": list(units), "width": width,
            "squeeze_excitation": squeeze_excitation,
        }  # fmt: skip
        self.num_layers, self.w_dim, self.deltas = num_layers, w_dim, deltas
        self.input_size: tuple[int, int] = (input_size[0], input_size[1])
        channels = 8 * width
        halvings = (4 if i < COARSE else 5 if i < MEDIUM else 6 for i in range(num_layers))
        self.styles = nn.ModuleList(StyleBlock(channels, w_dim, count) for count in halvings)
        self.latlayer1 = nn.Conv2d(4 * width, channels, 1)
        self.latlayer2 = nn.Conv2d(2 * width, channels, 1)
        self.register_buffer("latent_avg", torch.zeros(num_layers, w_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Encode images [B, 3, *input_size] in [-1, 1] to W+ [B, num_layers, w_dim]."""
        if images.ndim != 4 or images.shape[1:] != (3, *self.input_size):
            height, width = self.input_size
            raise ValueError(
                f"images must be [B, 3, {height}, {width}], got {list(images.shape)}; "
                "resize them first"
            )
        _, fine, medium, coarse = self.features(images)
        medium = _upsample_add(coarse, self.latlayer1(medium))
        fine = _upsample_add(medium, self.latlayer2(fine))
        maps = [
            coarse if i < COARSE else medium if i < MEDIUM else fine for i in range(self.num_layers)
        ]
        styles = torch.stack([style(x) for style, x in zip(self.styles, maps, strict=True)], 1)
        if self.deltas:
            styles = torch.cat([styles[:, :1], styles[:, :1] + styles[:, 1:]], 1)
        return self.latent_avg + styles


class StyleBlock(nn.Module):
    """Halve a feature map until one pixel is left, then a linear layer."""

    def __init__(self, channels: int, w_dim: int, halvings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(halvings):
            layers.append(nn.Conv2d(channels if i == 0 else w_dim, w_dim, 3, 2, padding=1))
            layers.append(nn.LeakyReLU(0.01))
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(w_dim, w_dim)

    def forward(self, x: Tensor) -> Tensor:  # [B, channels, H, W] -> [B, w_dim]
        out: Tensor = self.linear(self.convs(x).flatten(1))
        return out


def _upsample_add(x: Tensor, y: Tensor) -> Tensor:
    # Corners on corners, as the published weights were trained.
    return y + F.interpolate(x, size=y.shape[2:], mode="bilinear", align_corners=True)
