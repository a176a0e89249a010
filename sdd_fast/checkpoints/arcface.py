"""Identity files: our own, and ArcFace as `model_ir_se50.pth` holds it.

input_layer.*, body.*, output_layer.*      flat, or
{state_dict: …}                            as training code wraps it
"""

from __future__ import annotations

from ..models.arcface import ArcFace
from ..models.convnet import ConvEmbedding
from .content import Found, Layout, below, find_own, shape_of, states_in
from .formats.read import Checkpoint
from .irse import trunk_config, trunk_name, with_counters


def _find(checkpoint: Checkpoint) -> Found | None:
    if own := find_own(checkpoint, ArcFace, ConvEmbedding):
        return own
    source = str(checkpoint.path)
    for state in states_in(checkpoint.content):
        tensors = below(state, "")
        if "input_layer.0.weight" in tensors and "output_layer.3.weight" in tensors:
            dim = shape_of(tensors, "output_layer.3.weight", 2, source)[0]
            config = {"dim": dim, **trunk_config(tensors, source)}
            return Found(source, ArcFace, config, with_counters(tensors))
    return None


def _facts(found: Found, network: ArcFace | ConvEmbedding) -> dict[str, str]:
    config = network.config
    vectors = f"vectors of {config['dim']}"
    if found.network is ConvEmbedding:
        side = config["resolution"]
        return {"identity": f"of this package, {vectors}, input {side} × {side}"}
    return {"identity": f"ArcFace on {trunk_name(config)}, {vectors}"}


IDENTITY = Layout("identity", _find, _facts)
