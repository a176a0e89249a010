"""What networks take of memory, measured once for all that a test asks of a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from sdd_fast import memory_budget
from sdd_fast.memory_counter import Cost

_TOLD = (bool, str, tuple, nn.Module, type(None))  # not texts, which change no size


def measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is measured of each network, for as long as the patch lasts."""
    for name in ("_encoder", "row_cost", "_generator", "_rendered"):
        monkeypatch.setattr(memory_budget, name, _once(getattr(memory_budget, name)))


def _once(function: Callable[..., Cost]) -> Callable[..., Cost]:
    found: dict[str, Cost] = {}

    def call(network: Any, *args: Any, **kwargs: Any) -> Cost:
        told = [id(a) if isinstance(a, nn.Module) else a for a in args if isinstance(a, _TOLD)]
        key = f"{id(network)} {told} {kwargs}"
        if key not in found:
            found[key] = function(network, *args, **kwargs)
        return found[key]

    return call
