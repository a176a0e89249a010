"""The latent mappers that distillation trains: W+ or styles in, a change of them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import draws
from .hub_mapper import HubMapper
from .layers import EqualLinear, PixelNorm
from .style_space import is_to_rgb

LEVELS = ("coarse", "medium", "fine")
"""Layers 0-3 (pose, shape), 4-7 (features, expression) and 8 and up (color, texture)."""

ALL = "all"
"""In place of the three: one level of all layers, and so a single MLP for them."""

_NO_END = 2**31  # of a W+ whose number of layers is left open


def level_range(level: str, num_layers: int) -> tuple[int, int]:
    """Return the first and one past the last W+ layer of a level."""
    bounds = {"coarse": (0, 4), "medium": (4, 8), "fine": (8, num_layers), ALL: (0, num_layers)}
    if level not in bounds:
        raise ValueError(f"level must be one of {', '.join((*LEVELS, ALL))}, got {level!r}")
    start, end = bounds[level]
    return min(start, num_layers), min(end, num_layers)


class LevelsMapper(HubMapper, nn.Module):
    """One small MLP per level of W+ layers; a level that is off changes nothing.

    Args:
        num_layers, w_dim: shape of W+; `generator.num_layers` and `generator.w_dim`. The weights do
            not depend on `num_layers`; None takes any number, for a foreign file that does not say.
        levels: which levels have an MLP, of "coarse", "medium" and "fine"; or "all" for one MLP of
            all layers, as StyleCLIP's `SingleMapper` is.
        depth: layers of each MLP, equalized linear with leaky ReLU (0.2, gain √2).
        lr_multiplier: of the equalized linear layers.
        pixel_norm: "channels" normalizes every layer's latent over its channels. "layers"
            normalizes every channel over the layers of the level, as the authors' code does; their
            checkpoints only reproduce with it.
        scale: [num_layers, w_dim] or [1, w_dim], for instance the standard deviation of W+, so that
            the MLPs work in its units; None for 1.
        zero_init: start with a delta of exactly zero, instead of at random.
        output_activation: a leaky ReLU after the last layer too, as in the paper. Without it both
            signs of the delta train equally fast.

    Raises:
        ValueError: an unknown or repeated level, one without layers, or a misshapen `scale`.

    Source: Sec. 4.1 and the authors' code; Patashnik et al. 2021 (StyleCLIP), Sec. 5.
    """

    if TYPE_CHECKING:  # torch.jit.script would try to read a real annotation
        scale: Tensor  # [num_layers, w_dim]

    def __init__(
        self,
        num_layers: int | None,
        w_dim: int = 512,
        levels: Sequence[str] = LEVELS,
        depth: int = 4,
        lr_multiplier: float = 0.01,
        pixel_norm: str = "channels",
        scale: Tensor | None = None,
        zero_init: bool = True,
        output_activation: bool = True,
    ) -> None:
        super().__init__()
        limit = _NO_END if num_layers is None else num_layers
        if min(limit, w_dim, depth) < 1:
            raise ValueError(
                "LevelsMapper: num_layers, w_dim and depth must be positive, "
                f"got {num_layers}, {w_dim}, {depth}"
            )
        if pixel_norm not in ("channels", "layers"):
            raise ValueError(
                f"LevelsMapper: pixel_norm must be 'channels' or 'layers', got {pixel_norm!r}"
            )
        levels = _check_levels(levels, limit)
        self.config = {
            "num_layers": num_layers, "w_dim": w_dim, "levels": levels, "depth": depth,
            "lr_multiplier": lr_multiplier, "pixel_norm": pixel_norm, "zero_init": zero_init,
            "output_activation": output_activation,
        }  # fmt: skip
        self.num_layers, self.w_dim = num_layers, w_dim
        self.levels = levels
        self.starts = {level: level_range(level, limit)[0] for level in levels}
        self.ends = {level: level_range(level, limit)[1] for level in levels}
        self.shape = f"[B, {'any number' if num_layers is None else num_layers}, {w_dim}]"
        norm_dim = -1 if pixel_norm == "channels" else 1
        self.mlps = nn.ModuleDict(
            {
                level: mlp(w_dim, depth, lr_multiplier, norm_dim, zero_init, output_activation)
                for level in levels
            }
        )
        self.register_buffer("scale", _full_scale(scale, num_layers, w_dim))

    def forward(self, w_plus: Tensor, levels: list[str] | None = None) -> Tensor:
        """Compute the delta of W+, [B, num_layers, w_dim]: zeros in layers whose level is off.

        `levels` keeps only some of the mapper's levels for this call; None keeps all of them.
        """
        fits = w_plus.dim() == 3 and w_plus.size(2) == self.w_dim
        if self.num_layers is not None:
            fits = fits and w_plus.size(1) == self.num_layers
        if not fits:
            raise ValueError(f"LevelsMapper: w_plus must be {self.shape}, got {list(w_plus.shape)}")
        if levels is not None:
            for level in levels:
                if level not in self.levels:
                    raise ValueError(
                        f"LevelsMapper: has the levels {self.levels}, so {level} cannot be used"
                    )
        delta = torch.zeros_like(w_plus)
        last = w_plus.size(1)
        for name, net in self.mlps.items():
            if levels is None or name in levels:
                start, end = min(self.starts[name], last), min(self.ends[name], last)
                scale = self.scale if self.num_layers is None else self.scale[start:end]
                change = net(w_plus[:, start:end]) * scale
                delta = delta + F.pad(change, [0, 0, start, last - end])
        return delta

    def subset(self, levels: Sequence[str]) -> LevelsMapper:
        """Make a mapper of only these of its levels; it shares their weights with this one."""
        absent = [level for level in levels if level not in self.levels]
        if absent:
            raise ValueError(f"LevelsMapper: has the levels {self.levels}, not {absent}")
        with draws.private():
            part = LevelsMapper(**{**self.config, "levels": list(levels)}, scale=self.scale)
        for level in part.levels:
            part.mlps[level] = self.mlps[level]
        return part.to(self.scale.device)


class StyleSpaceMapper(HubMapper, nn.Module):
    """One small MLP per style vector (S-space).

    Args:
        style_dims: `generator.style_dims`; their order is that of `generator.style_vectors`.
        to_rgb: whether the toRGB styles change too. Without them colors change less freely.
        depth, lr_multiplier, zero_init, output_activation: as for `LevelsMapper`.

    Source: the S-space mappers of Sec. 4.1's "agnostic" manipulators; Wu et al. 2021.
    """

    of_styles = True  # tells `manipulate` what it takes and changes

    def __init__(
        self,
        style_dims: Sequence[int],
        to_rgb: bool = True,
        depth: int = 4,
        lr_multiplier: float = 0.01,
        zero_init: bool = True,
        output_activation: bool = True,
    ) -> None:
        super().__init__()
        dims = list(style_dims)
        if len(dims) < 2 or len(dims) % 3 != 2 or min(dims) < 1 or depth < 1:
            raise ValueError(
                "StyleSpaceMapper: style_dims must be a generator's style_dims (2 + 3 per "
                f"resolution, all positive) and depth positive, got {dims} and {depth}"
            )
        self.config = {
            "style_dims": dims, "to_rgb": to_rgb, "depth": depth,
            "lr_multiplier": lr_multiplier, "zero_init": zero_init,
            "output_activation": output_activation,
        }  # fmt: skip
        self.style_dims = dims
        self.mlps = nn.ModuleList(
            mlp(dim, depth, lr_multiplier, -1, zero_init, output_activation)
            if to_rgb or not is_to_rgb(i)
            else Zeros()
            for i, dim in enumerate(dims)
        )

    def forward(self, styles: list[Tensor]) -> list[Tensor]:
        """Compute the change of each style vector, [B, style_dims[i]] each, in the same shapes."""
        if len(styles) != len(self.style_dims):
            raise ValueError(
                f"StyleSpaceMapper: needs {len(self.style_dims)} style vectors, got {len(styles)}"
            )
        deltas: list[Tensor] = []
        for i, net in enumerate(self.mlps):
            if styles[i].dim() != 2 or styles[i].size(1) != self.style_dims[i]:
                raise ValueError(
                    f"StyleSpaceMapper: style {i} must be [B, {self.style_dims[i]}], "
                    f"got {list(styles[i].shape)}"
                )
            deltas.append(net(styles[i]))
        return deltas


class Zeros(nn.Module):
    """The MLP of a style that stays as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def mlp(
    dim: int,
    depth: int,
    lr_multiplier: float,
    norm_dim: int,
    zero_init: bool,
    output_activation: bool,
) -> nn.Sequential:
    """Build PixelNorm and `depth` equalized linear layers of one width."""
    layers = [
        EqualLinear(
            dim,
            dim,
            lr_multiplier=lr_multiplier,
            activation=output_activation or i < depth - 1,
        )
        for i in range(depth)
    ]
    if zero_init:
        nn.init.zeros_(layers[-1].weight)
    return nn.Sequential(PixelNorm(norm_dim), *layers)


def _check_levels(levels: Sequence[str], num_layers: int) -> list[str]:
    levels = [levels] if isinstance(levels, str) else list(levels)
    if not levels or len(set(levels)) != len(levels) or (ALL in levels and len(levels) > 1):
        raise ValueError(
            f"LevelsMapper: levels must name one or more of {', '.join(LEVELS)}, each once, "
            f"or {ALL} alone, got {levels}"
        )
    for level in levels:
        start, end = level_range(level, num_layers)
        if start == end:
            raise ValueError(
                f"LevelsMapper: level {level!r} is empty, W+ has only {num_layers} layers"
            )
    return [level for level in (*LEVELS, ALL) if level in levels]


def _full_scale(scale: Tensor | None, num_layers: int | None, w_dim: int) -> Tensor:
    rows = num_layers or 1
    if scale is None:
        return torch.ones(rows, w_dim)
    if scale.ndim != 2 or scale.shape[1] != w_dim or scale.shape[0] not in (1, rows):
        sizes = f"[{rows}, {w_dim}] or [1, {w_dim}]" if rows > 1 else f"[1, {w_dim}]"
        raise ValueError(f"LevelsMapper: scale must be {sizes}, got {list(scale.shape)}")
    return scale.detach().float().expand(rows, w_dim).clone()
