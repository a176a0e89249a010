"""z, and for a conditional network a label, to w: the mapping network of StyleGAN2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import EqualLinear, PixelNorm


class MappingNetwork(nn.Module):
    """z [B, z_dim] and labels [B, c_dim] to w [B, w_dim].

    z is normalised to unit mean square; so is the label's embedding, a linear layer without
    activation, and the two are concatenated (Karras et al. 2020, ADA). The layers are submodules
    called "1", "2", …, which gives the parameter names of the widespread PyTorch naming.

    Args:
        z_dim, w_dim: dimensions of z and w.
        depth: number of layers, each with a leaky ReLU.
        lr_multiplier: of those layers; the stored weights are larger by its inverse. The
            embedding's is always 1.
        c_dim: length of a label; 0 for a network without labels.
    """

    def __init__(
        self, z_dim: int, w_dim: int, depth: int, lr_multiplier: float, c_dim: int
    ) -> None:
        super().__init__()
        self.depth, self.c_dim = depth, c_dim
        self.norm = PixelNorm()
        width = z_dim + (w_dim if c_dim else 0)
        for i in range(1, depth + 1):
            layer = EqualLinear(width, w_dim, lr_multiplier=lr_multiplier, activation=True)
            self.add_module(str(i), layer)
            width = w_dim
        if c_dim:
            self.embed = EqualLinear(c_dim, w_dim)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x: Tensor = self.norm(z)
        if self.c_dim:
            x = torch.cat([x, self.norm(self.embed(self._checked(labels, z)))], 1)
        elif labels is not None:
            raise ValueError(
                "StyleGAN2: this network has no classes (c_dim is 0); leave labels out"
            )
        for i in range(1, self.depth + 1):
            x = self.get_submodule(str(i))(x)
        return x

    def _checked(self, labels: Tensor | None, z: Tensor) -> Tensor:
        if labels is None:
            raise ValueError(
                f"StyleGAN2: this network is conditional and needs labels [B, {self.c_dim}], "
                "usually one-hot classes"
            )
        if labels.shape != (z.shape[0], self.c_dim):
            raise ValueError(
                f"StyleGAN2: labels must be [B, {self.c_dim}] with B = {z.shape[0]} as for z, "
                f"got {list(labels.shape)}"
            )
        return labels.to(z)
