"""The image manipulator f_φ: latents → mapper(s) → generator → edited image, and the mapper's file.

    ŵ = w + Σ_i λ_i M_i(w),   ŷ = G(ŵ)          (Sec. 4.1; several edits simply add up)

Mappers of W+ and of S-space (style vectors) can be combined. Every mapper sees the unedited
latents, so what one of them contributes depends neither on the order nor on the others.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .files import PathLike, save_tensors
from .models.mapper import LEVELS, LevelsMapper, StyleSpaceMapper, level_range
from .models.save import check_finite
from .out_of_memory import check_ran_out

STRONGEST = 1e6
"""Magnitude of a strength; images are saturated long before."""

Strength = float | Sequence[float] | Sequence[Sequence[float]] | np.ndarray | Tensor
"""One for all, one for each edit, or a table [images, edits]; see `strengths_of`."""


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


class LatentGenerator(Protocol):
    """What `hqs`, `distill` and `Editor` need of a generator: an `nn.Module` with these.

    A `StyleGAN2` has them. One that takes a single vector has `num_layers` 1; its latents are then
    [B, 1, w_dim].
    """

    @property
    def num_layers(self) -> int: ...

    @property
    def w_dim(self) -> int: ...

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""

    def synthesis(self, w_plus: Tensor, /) -> Tensor:
        """Render images [B, 3, *image_size], about [-1, 1], of latents [B, num_layers, w_dim].

        Differentiable, and each image a function of its own latent alone.
        """

    def parameters(self) -> Iterator[nn.Parameter]: ...


_NEEDED = ("num_layers", "w_dim", "image_size", "synthesis", "parameters", "state_dict")


def check_generator(generator: Any, needed: Sequence[str] = _NEEDED) -> None:
    """Raise TypeError, naming what is missing, unless `generator` is a `LatentGenerator`."""
    missing = [name for name in needed if not hasattr(generator, name)]
    if missing:
        raise TypeError(
            f"the generator ({type(generator).__name__}) has no {' and no '.join(missing)}; a "
            "generator of your own is an nn.Module that has num_layers, w_dim, image_size and "
            "synthesis(w_plus), see sdd_fast.LatentGenerator"
        )


def try_generator(generator: Any, w_plus: Tensor) -> None:
    """Raise ValueError unless the generator makes of w_plus [1, num_layers, w_dim] what it says."""
    w_plus = w_plus.detach().requires_grad_()
    with frozen(generator):
        images = generator.synthesis(w_plus)
    wanted = [1, 3, *generator.image_size]
    if list(images.shape) != wanted:
        raise ValueError(
            f"the generator's synthesis makes {list(images.shape)} of one latent, its image_size "
            f"promises {wanted}"
        )
    if not images.requires_grad:
        raise ValueError(
            "the generator's images carry no gradient back to the latents, so nothing can be "
            "distilled through it; leave out no_grad and detach in its synthesis"
        )


def try_network(name: str, network: Callable[[Tensor], Any], images: Tensor) -> None:
    """Raise ValueError, with its name, unless a network takes `images` [1, 3, H, W].

    For those that judge what a generator makes, and are needed only when there is something to
    judge.
    """
    try:
        with torch.no_grad(), frozen(network):
            network(images)
    except (RuntimeError, ValueError) as error:
        check_ran_out(error, name)
        raise ValueError(
            f"the {name} does not take the generator's images, {list(images.shape[2:])}: {error}. "
            "Name one that does, or do without it"
        ) from error


def check_mapper(mapper: nn.Module, info: MapperInfo, generator: Any) -> None:
    """Raise ValueError unless a mapper fits a generator and its weights are finite."""
    name = f"the mapper for {info.prompt!r}" if info.prompt else "the mapper"
    check_finite(name, mapper.state_dict())
    if isinstance(mapper, LevelsMapper):
        # A mapper of any number of layers, of a file that does not tell it, fits all of them.
        has = [mapper.num_layers or generator.num_layers, mapper.w_dim]
        needs = [generator.num_layers, generator.w_dim]
        if has != needs:
            raise ValueError(
                f"{name} edits W+ of shape {has}, but the generator's is {needs}; it belongs to "
                f"another generator{f' (domain {info.domain})' if info.domain else ''}"
            )
    elif isinstance(mapper, StyleSpaceMapper):
        styles = getattr(generator, "style_dims", "none")
        if mapper.style_dims != styles:
            raise ValueError(
                f"{name} edits styles of lengths {mapper.style_dims}, but the generator's are "
                f"{styles}; it belongs to another generator"
            )


def strengths_of(strength: Strength, edits: int, count: int) -> Tensor:
    """Return the strength of each edit for each image, [count, edits] float64.

    Args:
        strength: see `Editor.edit`.

    Raises:
        ValueError: another number of strengths, or one beyond `STRONGEST` or NaN.
    """
    try:
        told = strength.detach().cpu() if isinstance(strength, Tensor) else strength
        given = np.asarray(told, dtype=np.float64)  # no tensor: reading those waits for a GPU
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"strength must be a number, or a list or table of numbers, got {strength!r:.80}"
        ) from error
    table = given
    if given.ndim == 1 and len(given) != edits == 1:
        table = given[:, None]
    if table.ndim > 2 or list(table.shape) not in ([], [edits], [count, edits]):
        images = f"{count} image" + ("s" if count > 1 else "")
        raise ValueError(
            f"expected one strength, or one for each of {edits} edits, or a table of them for "
            f"{images}, [{count}, {edits}]; got {list(given.shape)}: {strength!r:.80}"
        )
    if not (np.abs(table) <= STRONGEST).all():  # of NaN as well
        raise ValueError(
            f"strength must be finite, and at most {STRONGEST:,.0f} either way (1 is as trained), "
            f"got {strength!r:.80}"
        )
    return torch.from_numpy(table).expand(count, edits)


def factors_of(strength: Strength, infos: Sequence[MapperInfo], count: int) -> Tensor:
    """Return λ·strength of each mapper for each image, [count, mappers] float32.

    Raises:
        ValueError: see `strengths_of`.
    """
    lam = torch.tensor([info.lam for info in infos], dtype=torch.float64, device="cpu")
    return (strengths_of(strength, len(infos), count) * lam).float()


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
    mappers: Sequence[tuple[nn.Module, float | Tensor]],
    levels: Sequence[str] | Tensor | None = None,
) -> Manipulated:
    """Render edited latents; differentiable with respect to latents and mappers.

    Args:
        generator: a `LatentGenerator`; mappers of styles need a `StyleGAN2`.
        w_plus: [B, num_layers, w_dim].
        mappers: (module, factor) pairs; the factor is λ·strength and may be negative, [B] where
            it is another for each latent. A `StyleSpaceMapper` changes styles; any other module
            takes W+ and returns its change.
        levels: edit only these of "coarse", "medium" and "fine"; None edits all. Or `layers_on` of
            them as a tensor [num_layers], where they must be no constants of a compiled function;
            or such a row for each image, [B, num_layers].

    Raises:
        ValueError: an unknown level, or a mapper whose output does not fit W+.
    """
    on = levels if isinstance(levels, Tensor) else layers_on(levels, w_plus.shape[1])
    delta: Tensor | None = None
    style_deltas: list[Tensor] | None = None
    styles = None
    for mapper, factor in mappers:
        if getattr(mapper, "of_styles", False):
            styles = generator.style_vectors(w_plus) if styles is None else styles
            rows = _rows(factor, 2)
            changes = [
                change * (rows * _of_layer(on, style_layer(i)))
                for i, change in enumerate(mapper(styles))
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
                change = change * torch.as_tensor(on, device=change.device)[..., None]
            rows = _rows(factor, 3)
            delta = rows * change if delta is None else delta + rows * change
    w_hat = w_plus if delta is None else w_plus + delta
    if style_deltas is None:
        return Manipulated(generator.synthesis(w_hat), delta, None)
    if delta is not None or styles is None:
        styles = generator.style_vectors(w_hat)
    edited = [style + change for style, change in zip(styles, style_deltas, strict=True)]
    return Manipulated(generator.synthesis_from_styles(edited), delta, style_deltas)


def _rows(factor: float | Tensor, dims: int) -> float | Tensor:
    """A factor that multiplies [B, …] of so many dimensions: [B] becomes [B, 1, …]."""
    if isinstance(factor, Tensor) and factor.ndim:
        return factor.reshape(-1, *[1] * (dims - 1))
    return factor


def _of_layer(on: list[float] | Tensor, index: int) -> float | Tensor:
    return _rows(on[..., index], 2) if isinstance(on, Tensor) else on[index]


def style_layer(index: int) -> int:
    """The W+ layer that style vector `index` comes from: 0, 1, then 1 2 3, 3 4 5, 5 6 7, …"""
    if index < 2:
        return index
    block, position = divmod(index - 2, 3)
    return 2 * block + 1 + position


def layers_on(levels: Sequence[str] | None, num_layers: int) -> list[float]:
    """Return 1 for each W+ layer that is edited, 0 for the others; see `manipulate`."""
    if levels is None:
        return [1.0] * num_layers
    if isinstance(levels, str):
        raise ValueError(f"levels must be a list such as [{levels!r}], got the text {levels!r}")
    on = [0.0] * num_layers
    for level in levels:
        start, end = level_range(level, num_layers)
        on[start:end] = [1.0] * (end - start)
    return on


def frozen(*modules: Any) -> AbstractContextManager[None]:
    """Within it, the modules are in eval mode and none of their weights collects a gradient.

    Flags are restored afterwards. Arguments that are no `nn.Module` (None, a function) are skipped.
    """
    networks = [m for module in modules if isinstance(module, nn.Module) for m in module.modules()]
    parameters = [p for network in networks for p in network.parameters(recurse=False)]
    return _held(
        [(network, "training", False) for network in networks]
        + [(parameter, "requires_grad", False) for parameter in parameters]
    )


def float32_layers(generator: Any) -> AbstractContextManager[None]:
    """Within it, a float32 generator computes its float16 layers in float32 too, see `StyleGAN2`.

    For whatever takes a gradient: that of a mean over a million pixels vanishes in float16.
    """
    return _held([(generator, "fp16", False)] if hasattr(generator, "fp16") else [])


_holding = threading.Lock()
_holders: dict[tuple[int, str], list[Any]] = {}
"""(id of an object, attribute) → how often it is held, and the value that it had before."""


@contextmanager
def _held(settings: Sequence[tuple[Any, str, bool]]) -> Iterator[None]:
    """Set attributes; the last to leave restores them, as other threads may hold them as well."""
    taken: list[tuple[Any, str]] = []
    try:
        with _holding:
            for owner, name, value in settings:
                holders = _holders.setdefault((id(owner), name), [0, getattr(owner, name)])
                holders[0] += 1
                taken.append((owner, name))
                setattr(owner, name, value)
        yield
    finally:
        with _holding:
            for owner, name in taken:
                holders = _holders[id(owner), name]
                holders[0] -= 1
                if holders[0] == 0:
                    setattr(owner, name, holders[1])
                    del _holders[id(owner), name]


def config_of(mapper: nn.Module) -> Any:
    """Return the arguments that a mapper tells in its attribute `config`; {} if JSON cannot."""
    config = getattr(mapper, "config", {})
    try:
        json.dumps(config)
    except (TypeError, ValueError):
        return {}
    return config


def save_mapper(
    path: PathLike,
    mapper: nn.Module,
    info: MapperInfo,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a mapper and what it is for as one .safetensors file, atomically.

    `metadata` goes into the file's header beside what `info` says.
    `load_mapper` reads it; a mapper of your own it fills in, given as `into`.

    Raises:
        ValueError: another ending, or a weight is NaN or infinite; a file that is there stays as
            it is.
    """
    for name, value in mapper.state_dict().items():
        if not bool(value.isfinite().all()):
            raise ValueError(
                f"the mapper was not written to {path}: its {name} has values that are NaN or "
                "infinite; take the mapper of an earlier checkpoint"
            )
    described = {
        "network": type(mapper).__name__,
        "config": json.dumps(config_of(mapper)),
        **{key: json.dumps(value, ensure_ascii=False) for key, value in asdict(info).items()},
    }
    save_tensors(path, mapper.state_dict(), {**(metadata or {}), **described})
