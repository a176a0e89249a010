"""What can be exported: the mapper, the encoder, mappers with generator, and all of them.

mapper     W+ (or styles)              → their change at strength 1, not yet times λ
encoder    images                      → W+
renderer   W+, strengths(, levels)     → edited images
editor     images, strengths(, levels) → edited images
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import draws
from ..editing.editor import Editor
from ..manipulator import MapperInfo, layers_on, manipulate
from ..models import LevelsMapper, StyleGAN2, StyleSpaceMapper
from ..models.mapper import ALL, LEVELS, level_range
from .plain_stylegan2 import PlainStyleGAN2
from .torchscript import script

PARTS = ("editor", "mapper", "encoder", "renderer")

WEAKEST, STRONGEST = -1.5, 2.0
"""The strengths that exports are tried with, and that a page offers."""


@dataclass(frozen=True)
class Slot:
    """An input or output: its name, and its shape after the number of images."""

    name: str
    shape: tuple[int, ...]
    meaning: str


@dataclass
class Part:
    """A network to export, in eval mode on the CPU.

    Args:
        network: takes `inputs` by position; those of a mapper of styles as one list.
        infos: the edits in it.
        levels: those that it changes; None: they are an input.
        editor: of those edits, for the parts that hold more than a mapper.
        listed: whether it takes and returns lists.
        any_layers: whether it takes W+ of any number of layers.
    """

    name: str
    network: nn.Module
    inputs: list[Slot]
    outputs: list[Slot]
    infos: list[MapperInfo]
    levels: list[str] | None
    editor: Editor | None = None
    listed: bool = False
    any_layers: bool = False

    def examples(self, count: int) -> dict[str, Tensor]:
        """Inputs for `count` images: noise, of more than two latents the last ones zeros,
        strengths of all sizes, some of the levels off."""
        values = {}
        for k, slot in enumerate(self.inputs):
            value = draws.noise((count, *slot.shape), count, k)
            if slot.name == "images":
                value = value.mul(0.5).clamp(-1, 1)
            if slot.name == "w_plus" or self.listed:
                value[2:] = 0.0  # where only what keeps from dividing by zero is left
            if slot.name == "strengths":
                value = (value + 0.5).clamp(WEAKEST, STRONGEST)
            if slot.name == "levels":
                value = torch.ones_like(value)
                value[1::2, 0] = 0.0
            values[slot.name] = value
        return values

    def arguments(self, values: dict[str, Tensor]) -> tuple[Any, ...]:
        """`values` as `network` takes them."""
        listed = [values[slot.name] for slot in self.inputs]
        return (listed,) if self.listed else tuple(listed)


def mapper_part(mapper: nn.Module, info: MapperInfo, levels: Sequence[str] | None) -> Part:
    """A mapper alone, of it only some `levels`; None: all.

    Raises:
        ValueError: the mapper lacks one of the levels.
    """
    if levels is not None:
        if not isinstance(mapper, LevelsMapper):
            raise ValueError("the edit holds no mapper with levels, so no levels can be chosen")
        mapper = mapper.subset(levels)
        info = replace(info, levels=tuple(mapper.levels))
    network, kept = _frozen(mapper), list(info.levels)
    if isinstance(mapper, StyleSpaceMapper):
        styles = [Slot(f"style_{i}", (n,), "a style") for i, n in enumerate(mapper.style_dims)]
        deltas = [Slot(f"delta_{i}", (n,), "its change") for i, n in enumerate(mapper.style_dims)]
        return Part("mapper", network, styles, deltas, [info], kept, listed=True)
    layers, width = getattr(mapper, "num_layers", None), getattr(mapper, "w_dim", None)
    if width is None:
        raise ValueError(
            f"the mapper ({type(mapper).__name__}) does not tell its w_dim and num_layers, which "
            "the file has to; give it these attributes"
        )
    shape = (layers or _USUAL_LAYERS, width)
    return Part(
        "mapper", network, [Slot("w_plus", shape, "latents")],
        [Slot("delta", shape, "their change at strength 1, to be multiplied by lam")],
        [info], kept, any_layers=layers is None,
    )  # fmt: skip


_USUAL_LAYERS = 18  # of W+ at 1024 pixels, where a foreign mapper is tried without its generator


def editor_part(
    name: str,
    editor: Editor,
    levels: Sequence[str] | None = None,
    levels_as_input: bool = False,
    scripted: bool = False,
) -> Part:
    """The editor, or its encoder or renderer, without a change to its networks.

    Args:
        levels: change only these; None: all.
        levels_as_input: which levels change is an input instead, [B, 3] of 1 and 0.
        scripted: mappers as TorchScript, of which a trace keeps all numbers of images and devices.

    Raises:
        ValueError: an unknown level, or there is no encoder.
    """
    if name in ("editor", "encoder") and editor.encoder is None:
        raise ValueError(
            f"the {name} needs an encoder, and this domain has none: name one (encoder=…, on the "
            'command line --encoder), or export the part "renderer", which takes latents'
        )
    images = Slot("images", (3, *editor.input_size), "from -1 to 1, RGB")
    w_plus = Slot("w_plus", (editor.generator.num_layers, editor.generator.w_dim), "latents")
    edited = Slot("edited", (3, *editor.image_size), "from -1 to 1, RGB")
    if name == "encoder":
        return Part(name, _frozen(editor.encoder), [images], [w_plus], editor.infos, [], editor)
    if levels is not None:
        layers_on(levels, editor.generator.num_layers)  # an unknown one raises
        edits = zip(editor.mappers, editor.infos, strict=True)
        kept = [_with_levels(mapper, info, levels) for mapper, info in edits]
        editor = Editor(editor.generator, kept, editor.encoder)
    count = len(editor.infos)
    strengths = Slot("strengths", (count,), "0 reconstructs, 1 is the edit as distilled")
    inputs = [w_plus if name == "renderer" else images, strengths]
    if levels_as_input:
        inputs.append(Slot("levels", (len(LEVELS),), f"1 or 0 for {', '.join(LEVELS)}"))
    network: nn.Module = _Renderer(editor, levels, levels_as_input, scripted)
    if name == "editor":
        network = _Editor(_frozen(editor.encoder), network)
    changed = {level for info in editor.infos for level in info.levels}
    told = [level for level in (*LEVELS, ALL) if level in changed]
    return Part(
        name, network.eval(), inputs, [edited], editor.infos,
        None if levels_as_input else told, editor,
    )  # fmt: skip


def _with_levels(
    mapper: nn.Module, info: MapperInfo, levels: Sequence[str]
) -> tuple[nn.Module, MapperInfo]:
    """Of a mapper with several levels those of `levels`; of any other its info alone."""
    some = [level for level in info.levels if level in levels] or list(levels)
    if isinstance(mapper, LevelsMapper) and set(some) < set(mapper.levels):
        mapper = mapper.subset(some)
    return mapper, replace(info, levels=tuple(some))


class _Renderer(nn.Module):
    """W+ [B, num_layers, w_dim], strengths [B, mappers](, levels [B, 3]) → images."""

    lam: Tensor  # [mappers]
    on: Tensor | None  # [num_layers]
    members: Tensor  # [3, num_layers]

    def __init__(
        self, editor: Editor, levels: Sequence[str] | None, as_input: bool, scripted: bool
    ) -> None:
        super().__init__()
        generator, count = editor.generator, editor.generator.num_layers
        plain = isinstance(generator, StyleGAN2)
        self.generator = PlainStyleGAN2(generator).cpu() if plain else _frozen(generator)
        mappers = [_frozen(mapper) for mapper in editor.mappers]
        self.mappers = nn.ModuleList(_Scripted(m) if scripted else m for m in mappers)
        self.register_buffer("lam", torch.tensor([info.lam for info in editor.infos]))
        on = None if levels is None else torch.tensor(layers_on(levels, count))
        self.register_buffer("on", on)
        members = torch.zeros(len(LEVELS), count)
        for row, level in zip(members, LEVELS, strict=True):
            row[slice(*level_range(level, count))] = 1.0
        self.register_buffer("members", members if as_input else None)

    def forward(self, w_plus: Tensor, strengths: Tensor, levels: Tensor | None = None) -> Tensor:
        factors = strengths * self.lam
        on = self.on if levels is None else levels @ self.members
        pairs = [(mapper, factors[:, i]) for i, mapper in enumerate(self.mappers)]
        return manipulate(self.generator, w_plus, pairs, on).images.clamp(-1, 1)


class _Editor(nn.Module):
    def __init__(self, encoder: nn.Module, renderer: nn.Module) -> None:
        super().__init__()
        self.encoder, self.renderer = encoder, renderer

    def forward(self, images: Tensor, strengths: Tensor, levels: Tensor | None = None) -> Tensor:
        edited: Tensor = self.renderer(self.encoder(images), strengths, levels)
        return edited


class _Scripted(nn.Module):
    """A mapper as TorchScript, and what `manipulate` asks about it."""

    def __init__(self, mapper: nn.Module) -> None:
        super().__init__()
        self.of_styles = getattr(mapper, "of_styles", False)
        own = isinstance(mapper, (LevelsMapper, StyleSpaceMapper))
        self.mapper = script(mapper) if own else mapper

    def forward(self, latents: Any) -> Any:
        return self.mapper(latents)


def _frozen(network: nn.Module | None) -> nn.Module:
    """A copy on the CPU, of which the weights need no gradient; they are shared where they can."""
    assert network is not None
    memo = {
        id(tensor): nn.Parameter(tensor.detach().cpu(), requires_grad=False)
        if isinstance(tensor, nn.Parameter)
        else tensor.detach().cpu()
        for tensor in (*network.parameters(), *network.buffers())
    }
    return copy.deepcopy(network, memo).eval()
