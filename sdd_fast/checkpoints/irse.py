"""What the files of e4e, pSp and ArcFace have in common: the IR-SE trunk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .content import count_indexed, shape_of

_DEPTHS = {(3, 4, 14, 3): "50", (3, 13, 30, 3): "100", (3, 8, 36, 3): "152"}


def trunk_config(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Tell the arguments of an `IRTrunk` from the shapes.

    Raises:
        ValueError: the units of the body do not form four stages of doubling channels.
    """
    width = shape_of(tensors, "input_layer.0.weight", 4, source)[0]
    # A unit's layer 3 is its second convolution, [channels, channels, 3, 3].
    channels = [
        shape_of(tensors, f"body.{i}.res_layer.3.weight", 4, source)[0]
        for i in range(count_indexed(tensors, "body"))
    ]
    units = [channels.count(width << stage) for stage in range(4)]
    if min(units) < 1 or channels != [width << s for s in range(4) for _ in range(units[s])]:
        raise ValueError(
            f"{source}: expected a trunk in four stages of "
            f"{', '.join(str(width << stage) for stage in range(4))} channels, "
            f"its units have {channels}"
        )
    squeeze_excitation = any(re.match(r"body\.\d+\.res_layer\.5\.", key) for key in tensors)
    return {"units": units, "width": width, "squeeze_excitation": squeeze_excitation}


def trunk_name(config: Mapping[str, Any]) -> str:
    """Name a trunk, such as "IR-SE50"."""
    units = config["units"]
    depth = _DEPTHS.get(tuple(units), f" of {sum(units)} units")
    return ("IR-SE" if config["squeeze_excitation"] else "IR") + depth


def with_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add how long each normalization was trained, where that is missing.

    Files from before PyTorch 0.4.1 do not tell it, and nothing here reads it.
    """
    counters = {
        key.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for key in tensors
        if key.endswith(".running_mean")
    }
    return counters | dict(tensors)
