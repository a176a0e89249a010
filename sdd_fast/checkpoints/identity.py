"""Identity files: our own, and ArcFace as `model_ir_se50.pth` holds it.

input_layer.*, body.*, output_layer.*      flat, or
{state_dict: …}, module.*                  as training code wraps it
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import PathLike, parse_json
from ..models.arcface import ArcFace
from ..models.convnet import ConvEmbedding
from .formats.read import Checkpoint, read_checkpoint
from .inspect import what_is
from .irse import build, shape_of, trunk_config, trunk_name


def load_identity(path: PathLike) -> ConvEmbedding | ArcFace:
    """Load a network from faces to unit vectors that are equal for the same person.

    Args:
        path: a file of `ConvEmbedding.save` or `ArcFace.save`, or ArcFace with an IR or IR-SE
            trunk, such as `model_ir_se50.pth`.

    Returns:
        The network on the CPU, float32, eval mode, frozen.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or tensors that are not exactly those of the
            network; every missing, unexpected and misshapen one is named.
    """
    checkpoint = read_checkpoint(path)
    network = checkpoint.metadata.get("network")
    if network == "ArcFace":
        return ArcFace.load(Path(path)).eval().requires_grad_(False)
    if network == "ConvEmbedding":
        return ConvEmbedding.load(Path(path)).eval().requires_grad_(False)
    tensors = _find(checkpoint.content)
    if tensors is None:
        raise ValueError(
            f"{path} is {what_is(checkpoint)}; expected an identity network: ArcFace (such as "
            "model_ir_se50.pth) or one saved by this package"
        )
    source = str(path)
    dim = shape_of(tensors, "output_layer.3.weight", 2, source)[0]
    return build(ArcFace, {"dim": dim, **trunk_config(tensors, source)}, tensors, source)


def describe(checkpoint: Checkpoint) -> dict[str, str] | None:
    """Facts about the identity network in a file; None if there is none."""
    network = checkpoint.metadata.get("network")
    tensors = _find(checkpoint.content)
    try:
        if network == "ConvEmbedding":
            config = parse_json(checkpoint.metadata["config"])
            side = config["resolution"]
            text = f"of this package, vectors of {config['dim']}, input {side} × {side}"
        elif network == "ArcFace":
            config = parse_json(checkpoint.metadata["config"])
            text = f"ArcFace on {trunk_name(config)}, vectors of {config['dim']}"
        elif tensors is not None:
            dim = shape_of(tensors, "output_layer.3.weight", 2, "damaged")[0]
            trunk = trunk_name(trunk_config(tensors, "damaged"))
            text = f"ArcFace on {trunk}, vectors of {dim}"
        else:
            return None
    except (LookupError, TypeError, ValueError) as error:
        text = f"with a damaged configuration ({error})"
    return {"identity": text}


def _find(content: Any) -> dict[str, Tensor] | None:
    """The tensors of an ArcFace by their plain names; None if there is none."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        return None
    named = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    prefix = "module." if all(key.startswith("module.") for key in named) else ""
    tensors = {key.removeprefix(prefix): value for key, value in named.items()}
    found = "input_layer.0.weight" in tensors and "output_layer.3.weight" in tensors
    return tensors if found else None
