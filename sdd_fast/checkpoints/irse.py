"""What the files of e4e, pSp and ArcFace have in common: the IR-SE trunk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..models.save import load_exactly, outline

N = TypeVar("N", bound=nn.Module)

_DEPTHS = {(3, 4, 14, 3): "50", (3, 13, 30, 3): "100", (3, 8, 36, 3): "152"}


def shape_of(tensors: Mapping[str, Tensor], key: str, rank: int, source: str) -> tuple[int, ...]:
    """The shape of a tensor that the architecture is told from; ValueError without it."""
    if key not in tensors:
        raise ValueError(f"{source}: missing: {key}, which tells the network's size")
    shape = tuple(tensors[key].shape)
    if len(shape) != rank:
        raise ValueError(f"{source}: {key} must have {rank} dimensions, got {list(shape)}")
    return shape


def count_indexed(tensors: Mapping[str, Tensor], name: str) -> int:
    """How many different i there are in the keys `name.i.…`."""
    matches = (re.match(rf"{name}\.(\d+)\.", key) for key in tensors)
    return len({match[1] for match in matches if match})


def trunk_config(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The arguments of an `IRTrunk`, told from the shapes.

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
    """Such as "IR-SE50"."""
    units = config["units"]
    depth = _DEPTHS.get(tuple(units), f" of {sum(units)} units")
    return ("IR-SE" if config["squeeze_excitation"] else "IR") + depth


def build(network: type[N], config: dict[str, Any], tensors: dict[str, Tensor], source: str) -> N:
    """The network with exactly these tensors: float32, CPU, eval mode, frozen.

    Raises:
        ValueError: a tensor is missing, unexpected, of the wrong shape or not floating point.
    """
    integers = [
        f"{key}: {str(tensor.dtype).removeprefix('torch.')}"
        for key, tensor in tensors.items()
        if not tensor.is_floating_point() and not key.endswith(".num_batches_tracked")
    ]
    if integers:
        raise ValueError(
            f"{source}: expected floating point tensors; a quantised network is not supported, "
            "use the one that it was made from:\n  " + "\n  ".join(integers)
        )
    counters = {
        # How long each normalisation was trained: files from before PyTorch 0.4.1 do not tell, and
        # nothing here reads it.
        key.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for key in tensors
        if key.endswith(".running_mean")
    }
    try:
        built = outline(network, config, tensors)  # drawing initial weights would take seconds
    except ValueError as error:
        raise ValueError(f"{source}: no such network can be built: {error}") from error
    state = counters | tensors
    # A tensor without elements may claim any size: nothing is allocated before all shapes fit.
    load_exactly(built, {key: tensor.to("meta") for key, tensor in state.items()}, source)
    built.to_empty(device="cpu").load_state_dict(state)
    return built.eval().requires_grad_(False)
