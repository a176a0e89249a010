"""Encoder files: our own, e4e and pSp.

{state_dict: encoder.* + decoder.*, opts, latent_avg}     as their training code writes them
encoder.* + decoder.*                                     the state dict alone
input_layer.*, body.*, styles.*, latlayer1.*, latlayer2.* the encoder alone
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..models.encoder import Encoder
from ..models.psp import PyramidEncoder
from .content import (
    Found,
    Layout,
    State,
    attributes,
    below,
    count_indexed,
    find_own,
    shape_of,
    states_in,
    strangers,
)
from .formats.read import Checkpoint, shown
from .irse import trunk_config, trunk_name, with_counters
from .stylegan2 import GENERATOR

_DELTAS = {"Encoder4Editing": True, "GradualStyleEncoder": False}  # opts.encoder_type
KINDS = {"e4e": True, "psp": False}
_NAMES = {True: "e4e", False: "pSp"}  # by deltas
_SUPPORTED = "supported are e4e (Encoder4Editing) and pSp (GradualStyleEncoder)"


def _find(
    checkpoint: Checkpoint, kind: str | None = None, latent_avg: Tensor | None = None
) -> Found | None:
    if own := find_own(checkpoint, PyramidEncoder, Encoder):
        return own
    for state in states_in(checkpoint.content):
        for prefix in ("encoder.", ""):
            tensors = below(state, prefix)
            trunk = "input_layer.0.weight" in tensors and "output_layer.3.weight" not in tensors
            if trunk or "styles.0.linear.weight" in tensors:
                found = _told(str(checkpoint.path), tensors, state, kind)
                found = _with_average(found, checkpoint, state, latent_avg)
                return replace(found, tensors={**found.tensors, **strangers(state, prefix)})
    return None


def _facts(found: Found, network: Encoder | PyramidEncoder) -> dict[str, str]:
    config = network.config
    shape = f"W+ {config['num_layers']} × {config['w_dim']}"
    if found.network is Encoder:
        side = config["resolution"]
        return {"encoder": f"of this package, {shape}, input {side} × {side}"}
    height, width = config["input_size"]
    text = f"{_NAMES[config['deltas']]} on {trunk_name(config)}, {shape}, input {height} × {width}"
    return {"encoder": text + found.told.get("average", "")}


def _told(source: str, tensors: dict[str, Tensor], state: State, kind: str | None) -> Found:
    """Tell the architecture, but for the average latent."""
    opts = _options(state)
    _check_kind(tensors, opts, source)
    config = {
        "num_layers": count_indexed(tensors, "styles"),
        "w_dim": shape_of(tensors, "styles.0.linear.weight", 2, source)[0],
        "input_size": _input_size(opts),
        **trunk_config(tensors, source),
    }
    config["deltas"] = _deltas(config, opts, kind, source)
    return Found(source, PyramidEncoder, config, with_counters(tensors))


def _options(state: State) -> dict[str, Any]:
    """Those of the training; empty where the file has none."""
    opts = attributes(state.beside.get("opts"))
    return opts if isinstance(opts, dict) else {}


def _check_kind(tensors: Mapping[str, Tensor], opts: dict[str, Any], source: str) -> None:
    """ValueError for the encoders that are kin to e4e and pSp but take or give something else."""
    first = "conv1.weight" if "conv1.weight" in tensors else "input_layer.0.weight"
    channels = shape_of(tensors, first, 4, source)[1]
    if channels == 6:
        raise ValueError(
            f"{source}: a ReStyle encoder, whose 6 input channels are the image and its last "
            f"reconstruction; {_SUPPORTED}"
        )
    if channels != 3:
        raise ValueError(
            f"{source}: an encoder of {channels} input channels, such as sketches or label maps; "
            f"expected one of color images: {_SUPPORTED}"
        )
    kind = _encoder_type(opts)
    pyramid = any(key.startswith("latlayer") for key in tensors)
    if kind is None and (first == "conv1.weight" or not pyramid):
        kind = "without a feature pyramid"
    if kind is not None and kind not in _DELTAS:
        raise ValueError(f"{source}: an encoder of the kind {kind}; {_SUPPORTED}")


def _encoder_type(opts: dict[str, Any]) -> str | None:
    kind = opts.get("encoder_type")
    if isinstance(kind, str):
        return shown(kind)
    return None if kind is None else f"<{type(kind).__name__}>"


def _deltas(config: dict[str, Any], opts: dict[str, Any], kind: str | None, source: str) -> bool:
    told = _DELTAS.get(_encoder_type(opts) or "")
    given = None if kind is None else KINDS[kind]
    if told is None and given is None:
        raise ValueError(
            f"{source}: e4e or pSp? Their tensors are alike (on {trunk_name(config)}, W+ "
            f"{config['num_layers']} × {config['w_dim']}), and this file lacks the opts that say "
            'which; call load_encoder(path, kind="e4e") or kind="psp" (sdd convert --part e4e)'
        )
    if told is not None and given is not None and told != given:
        raise ValueError(
            f'{source}: kind="{kind}", but the file says that its encoder is '
            f"{_encoder_type(opts)}; leave kind out"
        )
    return bool(told if told is not None else given)


def _input_size(opts: dict[str, Any]) -> tuple[int, int]:
    """No tensor depends on it, since the encoder is convolutional; the training data tell it."""
    kind = opts.get("dataset_type")
    cars = isinstance(kind, str) and kind.startswith("cars")
    return (192, 256) if cars else (256, 256)


def _with_average(
    found: Found, checkpoint: Checkpoint, state: State, given: Tensor | None
) -> Found:
    """Add the [num_layers, w_dim] that the styles are added to.

    It is none, that of the file, of the generator in the file, or the one that is `given`.
    """
    rows, w_dim = found.config["num_layers"], found.config["w_dim"]
    stored, told = state.beside.get("latent_avg"), ", added to the average latent"
    none = torch.zeros(1, 1).expand(1, w_dim)
    decoder = None
    if _options(state).get("start_from_latent_avg") is False:
        value, told = none, ", without an average latent"
    elif stored is not None:
        value = stored
    elif decoder := _decoder(checkpoint, w_dim):
        value, told = none, told + " of the generator beside it"  # which `finish` fills in
    elif given is not None:
        value = given
    else:
        raise ValueError(
            f"{found.source}: missing: latent_avg, which this encoder starts from: the average "
            "latent of its generator. Give it as load_encoder(path, latent_avg="
            "load_generator(GENERATOR).latent_avg), or zeros if it was trained without (sdd "
            "convert --generator GENERATOR)"
        )
    shape = (
        list(value.shape)
        if isinstance(value, Tensor)
        else f"an object of type {type(value).__name__}"
    )
    if shape not in ([w_dim], [1, w_dim], [rows, w_dim]):
        raise ValueError(
            f"{found.source}: shape of latent_avg: the file has {shape}, expected [{w_dim}] or "
            f"[{rows}, {w_dim}]"
        )

    def start_from_decoder(encoder: PyramidEncoder) -> None:
        if decoder is not None:
            encoder.latent_avg.copy_(decoder.build().latent_avg.expand(rows, -1))

    return replace(
        found,
        tensors={**found.tensors, "latent_avg": value.expand(rows, w_dim)},
        told={"average": told},
        finish=start_from_decoder,
    )


def _decoder(checkpoint: Checkpoint, w_dim: int) -> Found | None:
    """The generator that the encoder was trained with, if it stands in the same file, complete."""
    try:
        decoder = GENERATOR.find(checkpoint)
        return decoder if decoder and decoder.check().w_dim == w_dim else None
    except ValueError:
        return None


ENCODER = Layout("encoder", _find, _facts)
