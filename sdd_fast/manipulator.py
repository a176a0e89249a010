"""The image manipulator f_φ: latents → mapper(s) → generator → edited image, and the mapper's file.

    ŵ = w + Σ_i λ_i M_i(w),   ŷ = G(ŵ)          (Sec. 4.1; several edits simply add up)

Mappers of W+ and of S-space (style vectors) can be combined. Every mapper sees the unedited
latents, so what one of them contributes depends neither on the order nor on the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .files import PathLike, save_tensors
from .models.mapper import LEVELS, StyleSpaceMapper, level_range


@dataclass(frozen=True)
class MapperInfo:
    """What a mapper file says about its mapper.

    Args:
        prompt: the text that it was distilled with.
        lam: λ, the factor on the mapper's output that makes strength 1.
        levels: the levels it changes.
        timesteps: the set S that it was distilled with.
        domain: name of the domain whose generator it belongs to; "" if it has none.
    """

    prompt: str = ""
    lam: float = 1.0
    levels: tuple[str, ...] = LEVELS
    timesteps: tuple[int, ...] = ()
    domain: str = ""


@dataclass(frozen=True)
class Manipulated:
    """Result of `manipulate`.

    Args:
        images: [B, 3, R, R], about [-1, 1], not clamped.
        delta: [B, num_layers, w_dim], ŵ − w; None if no mapper changes W+.
        style_deltas: the change of every style, [B, style_dims[i]]; None if no mapper changes them.
    """

    images: Tensor
    delta: Tensor | None
    style_deltas: list[Tensor] | None


def manipulate(
    generator: Any,
    w_plus: Tensor,
    mappers: Sequence[tuple[nn.Module, float]],
    levels: Sequence[str] | None = None,
) -> Manipulated:
    """Render edited latents; differentiable with respect to latents and mappers.

    Args:
        generator: a `StyleGAN2`.
        w_plus: [B, num_layers, w_dim].
        mappers: (module, factor) pairs; the factor is λ·strength and may be negative. A
            `StyleSpaceMapper` changes styles; any other module takes W+ and returns its change.
        levels: edit only these of "coarse", "medium" and "fine"; None edits all.

    Raises:
        ValueError: an unknown level, or a mapper whose output does not fit W+.
    """
    on = _layers_on(levels, w_plus.shape[1])
    delta: Tensor | None = None
    style_deltas: list[Tensor] | None = None
    styles = None
    for mapper, factor in mappers:
        if isinstance(mapper, StyleSpaceMapper):
            styles = generator.style_vectors(w_plus) if styles is None else styles
            changes = [
                change * (factor * on[style_layer(i)]) for i, change in enumerate(mapper(styles))
            ]
            if style_deltas is not None:
                changes = [a + b for a, b in zip(style_deltas, changes, strict=True)]
            style_deltas = changes
        else:
            change = mapper(w_plus)
            if change.shape != w_plus.shape:
                raise ValueError(
                    f"the mapper returned {list(change.shape)} for W+ latents of shape "
                    f"{list(w_plus.shape)}; it must return the change, of the same shape"
                )
            if levels is not None:
                change = change * torch.tensor(on, device=change.device)[:, None]
            delta = factor * change if delta is None else delta + factor * change
    w_hat = w_plus if delta is None else w_plus + delta
    if style_deltas is None:
        return Manipulated(generator.synthesis(w_hat), delta, None)
    if delta is not None or styles is None:
        styles = generator.style_vectors(w_hat)
    edited = [style + change for style, change in zip(styles, style_deltas, strict=True)]
    return Manipulated(generator.synthesis_from_styles(edited), delta, style_deltas)


def style_layer(index: int) -> int:
    """The W+ layer that style vector `index` comes from: 0, 1, then 1 2 3, 3 4 5, 5 6 7, …"""
    if index < 2:
        return index
    block, position = divmod(index - 2, 3)
    return 2 * block + 1 + position


def _layers_on(levels: Sequence[str] | None, num_layers: int) -> list[float]:
    """1 for each W+ layer that is edited, 0 for the others."""
    if levels is None:
        return [1.0] * num_layers
    if isinstance(levels, str):
        raise ValueError(f"levels must be a list such as [{levels!r}], got the text {levels!r}")
    on = [0.0] * num_layers
    for level in levels:
        start, end = level_range(level, num_layers)
        on[start:end] = [1.0] * (end - start)
    return on


@contextmanager
def frozen(*modules: Any) -> Iterator[None]:
    """Within it, the modules are in eval mode and none of their weights collects a gradient.

    Flags are restored afterwards. Arguments that are no `nn.Module` (None, a function) are skipped.
    """
    networks = [m for module in modules if isinstance(module, nn.Module) for m in module.modules()]
    modes = [(m, m.training) for m in networks]
    # A set of ids: modules may share parameters, and each must be restored to its first state.
    parameters = {id(p): (p, p.requires_grad) for m in networks for p in m.parameters(False)}
    try:
        for network, _ in modes:
            network.training = False
        for parameter, _ in parameters.values():
            parameter.requires_grad_(False)
        yield
    finally:
        for network, mode in modes:
            network.training = mode
        for parameter, flag in parameters.values():
            parameter.requires_grad_(flag)


@contextmanager
def float32_layers(generator: Any) -> Iterator[None]:
    """Within it, a float32 generator computes its float16 layers in float32 too, see `StyleGAN2`.

    For whatever takes a gradient: that of a mean over a million pixels vanishes in float16.
    """
    if not hasattr(generator, "fp16"):
        yield
        return
    before = generator.fp16
    generator.fp16 = False
    try:
        yield
    finally:
        generator.fp16 = before


def save_mapper(
    path: PathLike,
    mapper: nn.Module,
    info: MapperInfo,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a mapper and what it is for as one safetensors file, atomically.

    `metadata` goes into the file's header beside what `info` says.
    `checkpoints.load_mapper` reads it; so do `LevelsMapper.load` and `StyleSpaceMapper.load`.
    """
    described = {
        "network": type(mapper).__name__,
        "config": json.dumps(getattr(mapper, "config", {})),
        **{key: json.dumps(value, ensure_ascii=False) for key, value in asdict(info).items()},
    }
    save_tensors(path, mapper.state_dict(), {**(metadata or {}), **described})
