"""Identity files: our own, and ArcFace as `model_ir_se50.pth` holds it.

input_layer.*, body.*, output_layer.*      flat, or
{state_dict: …}, module.*                  as training code wraps it
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..files import parse_json
from ..models.arcface import ArcFace
from ..models.convnet import ConvEmbedding
from .content import read_own, shape_of
from .formats.read import Checkpoint
from .irse import build, trunk_config, trunk_name


def read(checkpoint: Checkpoint) -> ConvEmbedding | ArcFace | None:
    """Build the identity network in a file, as `load_identity` returns it; None if there is none.

    Raises:
        ValueError: not exactly the tensors of such a network.
    """
    if own := read_own(checkpoint, ArcFace, ConvEmbedding):
        return own
    tensors = _find(checkpoint.content)
    if tensors is None:
        return None
    source = str(checkpoint.path)
    return build(ArcFace, _config(tensors, source), tensors, source)


def describe(checkpoint: Checkpoint) -> dict[str, str] | None:
    """Describe the identity network in a file for `sdd info`; None if there is none."""
    network = checkpoint.metadata.get("network")
    tensors = _find(checkpoint.content)
    try:
        if network in ("ArcFace", "ConvEmbedding"):
            config = parse_json(checkpoint.metadata["config"])
        elif tensors is not None:
            config = _config(tensors, "damaged")
        else:
            return None
        vectors = f"vectors of {config['dim']}"
        if network == "ConvEmbedding":
            side = config["resolution"]
            return {"identity": f"of this package, {vectors}, input {side} × {side}"}
        return {"identity": f"ArcFace on {trunk_name(config)}, {vectors}"}
    except (LookupError, TypeError, ValueError) as error:
        return {"identity": f"with a damaged configuration ({error})"}


def _config(tensors: dict[str, Tensor], source: str) -> dict[str, Any]:
    dim = shape_of(tensors, "output_layer.3.weight", 2, source)[0]
    return {"dim": dim, **trunk_config(tensors, source)}


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
