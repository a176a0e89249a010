"""The Inception network that FID is defined by: that of TensorFlow's file of 2015-12-05.

Szegedy et al. 2016, "Rethinking the Inception Architecture". It differs from other Inception v3
networks in its 1008 classes, in average pooling that leaves the padding out, and in a maximum in
the place of the last average: figures by another one are not comparable with published FID.

The parameters are named as in the files that people hold.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 299
CLASSES = 1008


class _Conv(NamedTuple):
    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1

    def module(self, inputs: int) -> ConvNormReLU:
        # A stride goes without padding; all others keep the size.
        padding = (0, 0) if self.stride > 1 else (self.kernel[0] // 2, self.kernel[1] // 2)
        return ConvNormReLU(inputs, self.channels, self.kernel, self.stride, padding)


_Fork = tuple[_Conv, _Conv]
"""Two convolutions of the same maps, side by side."""
_Branch = tuple["str | _Conv | _Fork", ...]
"""Steps in order; "average" and "maximum" pool 3 × 3, in steps of 2 if nothing follows."""

_K3, _K5, _ROW, _COLUMN = (3, 3), (5, 5), (1, 7), (7, 1)
_DOUBLE_3X3 = (_Conv("branch3x3dbl_1", 64), _Conv("branch3x3dbl_2", 96, _K3))


def _block_a(pooled: int) -> tuple[_Branch, ...]:
    return (
        (_Conv("branch1x1", 64),),
        (_Conv("branch5x5_1", 48), _Conv("branch5x5_2", 64, _K5)),
        (*_DOUBLE_3X3, _Conv("branch3x3dbl_3", 96, _K3)),
        ("average", _Conv("branch_pool", pooled)),
    )


_BLOCK_B: tuple[_Branch, ...] = (
    (_Conv("branch3x3", 384, _K3, 2),),
    (*_DOUBLE_3X3, _Conv("branch3x3dbl_3", 96, _K3, 2)),
    ("maximum",),
)


def _block_c(inner: int) -> tuple[_Branch, ...]:
    return (
        (_Conv("branch1x1", 192),),
        (
            _Conv("branch7x7_1", inner),
            _Conv("branch7x7_2", inner, _ROW),
            _Conv("branch7x7_3", 192, _COLUMN),
        ),
        (
            _Conv("branch7x7dbl_1", inner),
            _Conv("branch7x7dbl_2", inner, _COLUMN),
            _Conv("branch7x7dbl_3", inner, _ROW),
            _Conv("branch7x7dbl_4", inner, _COLUMN),
            _Conv("branch7x7dbl_5", 192, _ROW),
        ),
        ("average", _Conv("branch_pool", 192)),
    )


_BLOCK_D: tuple[_Branch, ...] = (
    (_Conv("branch3x3_1", 192), _Conv("branch3x3_2", 320, _K3, 2)),
    (
        _Conv("branch7x7x3_1", 192),
        _Conv("branch7x7x3_2", 192, _ROW),
        _Conv("branch7x7x3_3", 192, _COLUMN),
        _Conv("branch7x7x3_4", 192, _K3, 2),
    ),
    ("maximum",),
)


def _fork(name: str) -> _Fork:
    return _Conv(f"{name}a", 384, (1, 3)), _Conv(f"{name}b", 384, (3, 1))


def _block_e(pooling: str) -> tuple[_Branch, ...]:
    return (
        (_Conv("branch1x1", 320),),
        (_Conv("branch3x3_1", 384), _fork("branch3x3_2")),
        (
            _Conv("branch3x3dbl_1", 448),
            _Conv("branch3x3dbl_2", 384, _K3),
            _fork("branch3x3dbl_3"),
        ),
        (pooling, _Conv("branch_pool", 192)),
    )


class Inception(nn.Module):
    """Images to the 2048 features of FID."""

    name = "Inception (2015-12-05)"
    """For tables."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNormReLU(3, 32, _K3, 2)
        self.Conv2d_2a_3x3 = ConvNormReLU(32, 32, _K3)
        self.Conv2d_2b_3x3 = ConvNormReLU(32, 64, _K3, padding=(1, 1))
        self.Conv2d_3b_1x1 = ConvNormReLU(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = ConvNormReLU(80, 192, _K3)
        self.Mixed_5b = _Mixed(192, _block_a(32))
        self.Mixed_5c = _Mixed(256, _block_a(64))
        self.Mixed_5d = _Mixed(288, _block_a(64))
        self.Mixed_6a = _Mixed(288, _BLOCK_B)
        self.Mixed_6b = _Mixed(768, _block_c(128))
        self.Mixed_6c = _Mixed(768, _block_c(160))
        self.Mixed_6d = _Mixed(768, _block_c(160))
        self.Mixed_6e = _Mixed(768, _block_c(192))
        self.Mixed_7a = _Mixed(768, _BLOCK_D)
        self.Mixed_7b = _Mixed(1280, _block_e("average"))
        self.Mixed_7c = _Mixed(2048, _block_e("maximum"))
        self.fc = nn.Linear(2048, CLASSES)  # not used by FID, but in every file

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, 2048] of images [B, 3, H, W] in [-1, 1].

        As published: the images are rounded to bytes and resized to 299 pixels without
        antialiasing.
        """
        in_bytes = ((images.float().clamp(-1, 1) + 1) * 127.5).round()
        resized = resize_like_tensorflow(in_bytes, SIDE).to(self.fc.weight.dtype)
        x = (resized - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, 2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, 2)
        for name, part in self.named_children():
            if name.startswith("Mixed"):
                x = part(x)
        return x.mean((2, 3))


class ConvNormReLU(nn.Module):
    """A convolution, normalized by stored statistics."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        normalized: Tensor = self.bn(self.conv(x))
        return normalized.relu_()


class _Mixed(nn.Module):
    """Branches of the same maps, side by side."""

    def __init__(self, inputs: int, branches: tuple[_Branch, ...]) -> None:
        super().__init__()
        self.branches = branches
        for branch in branches:
            channels = inputs
            for step in branch:
                if isinstance(step, str):
                    continue
                if isinstance(step, _Conv):
                    self.add_module(step.name, step.module(channels))
                    channels = step.channels
                else:
                    for one in step:
                        self.add_module(one.name, one.module(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._through(branch, x) for branch in self.branches], 1)

    def _through(self, branch: _Branch, x: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, str):
                x = _pooled(step, x, alone=len(branch) == 1)
            elif isinstance(step, _Conv):
                x = self.get_submodule(step.name)(x)
            else:
                x = torch.cat([self.get_submodule(one.name)(x) for one in step], 1)
        return x


def _pooled(kind: str, x: Tensor, alone: bool) -> Tensor:
    if kind == "average":
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return F.max_pool2d(x, 3, 2) if alone else F.max_pool2d(x, 3, 1, 1)


def resize_like_tensorflow(images: Tensor, side: int) -> Tensor:
    """Resize [B, C, H, W] to [B, C, side, side] as TensorFlow 1 did: bilinear, corner to corner.

    The place of output pixel i is i · H / side, not that of its center: all published figures of
    FID are of images that are shifted by a fraction of a pixel.
    """
    for dim in (2, 3):
        size = images.shape[dim]
        place = torch.arange(side, device=images.device, dtype=images.dtype) * (size / side)
        low = place.long()
        high = (low + 1).clamp(max=size - 1)
        share = (place - low).view([-1 if d == dim else 1 for d in range(4)])
        below, above = images.index_select(dim, low), images.index_select(dim, high)
        images = below + share * (above - below)
    return images
