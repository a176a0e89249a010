"""The networks of an edit under `torch.compile`, for batches of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..manipulator import layers_on, manipulate
from ..teacher.compiled import call_anew, check_compiler


class CompiledEdit:
    """Encoder, mappers and generator, compiled once for batches of `batch_size`.

    Smaller batches are filled up; strengths and levels are inputs: nothing is compiled again.

    Args:
        options: of `torch.compile`.

    Raises:
        ValueError: torch.compile does not work here.
    """

    def __init__(
        self,
        generator: Any,
        mappers: Sequence[nn.Module],
        encoder: nn.Module | None,
        batch_size: int,
        options: dict[str, Any],
    ) -> None:
        options = {"backend": "inductor", "dynamic": False} | options
        backend = options["backend"]
        if isinstance(backend, str):
            check_compiler(backend, next(generator.parameters()).device)
        self.batch_size = batch_size
        self._num_layers = generator.num_layers
        self._networks = (encoder, _Manipulator(generator, mappers))
        compile: Any = torch.compile  # to a type checker it takes no unpacked options
        self._encode, self._manipulate = (compile(call_anew(), **options) for _ in range(2))

    def encode(self, images: Tensor) -> Tensor:
        """Images [b, 3, H, W], b at most `batch_size`, → W+ [b, num_layers, w_dim]."""
        w_plus: Tensor = self._encode(self._networks[0], self._filled(images))
        return w_plus[: len(images)].clone()  # a captured graph writes its next result there

    def render(self, w_plus: Tensor, factors: Tensor, levels: Sequence[str] | None) -> Tensor:
        """W+ [b, num_layers, w_dim], factors [b, mappers] → images [b, 3, *image_size]."""
        on = torch.tensor(layers_on(levels, self._num_layers), device=w_plus.device)
        numbers = self._filled(factors.to(w_plus.device))
        images: Tensor = self._manipulate(self._networks[1], self._filled(w_plus), numbers, on)
        return images[: len(w_plus)].clone()

    def _filled(self, batch: Tensor) -> Tensor:
        """[b, …] → [batch_size, …], always of one kind: dense, without a gradient."""
        filled = batch.new_zeros(self.batch_size, *batch.shape[1:])
        filled[: len(batch)] = batch
        return filled


class _Manipulator(nn.Module):
    def __init__(self, generator: Any, mappers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.generator, self.mappers = generator, nn.ModuleList(mappers)

    def forward(self, w_plus: Tensor, factors: Tensor, on: Tensor) -> Tensor:
        """W+ [B, num_layers, w_dim], factors [B, mappers], on [num_layers] → [B, 3, H, W]."""
        pairs = list(zip(self.mappers, factors.unbind(1), strict=True))
        return manipulate(self.generator, w_plus, pairs, on).images
