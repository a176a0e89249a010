"""Mappers of several prompts as one: their weights stacked, one batched product per layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..manipulator import config_of

Latents = Tensor | list[Tensor]


def stacked(mappers: Sequence[nn.Module]) -> nn.Module:
    """Make one mapper of P; of one, that mapper itself.

    It takes P·B latents, images or styles, those of the first mapper first.

    Raises:
        ValueError: some of them change styles and others W+.
    """
    if len({getattr(mapper, "of_styles", False) for mapper in mappers}) > 1:
        raise ValueError("mappers of styles and of W+ cannot be trained together")
    return mappers[0] if len(mappers) == 1 else _Stacked(mappers)


class _Stacked(nn.Module):
    def __init__(self, mappers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.of_styles = getattr(mappers[0], "of_styles", False)
        self.mappers = nn.ModuleList(mappers)
        # Those of other levels are other functions: one batched product for each kind.
        kinds: dict[str, list[int]] = {}
        for i, mapper in enumerate(mappers):
            shapes = {name: list(value.shape) for name, value in mapper.state_dict().items()}
            told = json.dumps([type(mapper).__name__, config_of(mapper), shapes])
            kinds.setdefault(told, []).append(i)
        self.kinds = list(kinds.values())

    def forward(self, x: Latents) -> Latents:
        given: list[Tensor] = x if isinstance(x, list) else [x]
        each = [one.unflatten(0, (len(self.mappers), -1)) for one in given]  # [P, B, …]
        found: list[Any] = [None] * len(self.mappers)
        for members in self.kinds:
            inputs: Latents = each
            if len(members) < len(self.mappers):  # an index of numbers would be sent to a GPU
                inputs = [torch.stack([one[i] for i in members]) for one in each]
            inputs = inputs if isinstance(x, list) else inputs[0]
            changes = self._of_kind(members, inputs)
            for i, change in zip(members, zip(*changes, strict=True), strict=True):
                found[i] = change
        joined = [torch.cat(changes) for changes in zip(*found, strict=True)]
        return joined if isinstance(x, list) else joined[0]

    def _of_kind(self, members: Sequence[int], x: Latents) -> list[Tensor]:
        """Apply mappers of one kind to [p, B, …]; return their changes, [p, B, …]."""
        some = [self.mappers[i] for i in members]
        named = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in some]
        weights = {name: torch.stack([one[name] for one in named]) for name in named[0]}

        def call(weights: dict[str, Tensor], x: Latents) -> Latents:
            changed: Latents = functional_call(some[0], weights, (x,))
            return changed

        changes: Latents = vmap(call)(weights, x)
        return changes if isinstance(changes, list) else [changes]
