"""Encoder files: our own, e4e and pSp.

{state_dict: encoder.* + decoder.*, opts, latent_avg}     as their training code writes them
encoder.* + decoder.*                                     the state dict alone
input_layer.*, body.*, styles.*, latlayer1.*, latlayer2.* the encoder alone
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..files import parse_json
from ..models.encoder import Encoder
from ..models.psp import PyramidEncoder
from .content import attributes, count_indexed, read_own, shape_of, tensors_in
from .formats.read import Checkpoint
from .irse import build, trunk_config, trunk_name

_DELTAS = {"Encoder4Editing": True, "GradualStyleEncoder": False}  # opts.encoder_type
KINDS = {"e4e": True, "psp": False}
_NAMES = {True: "e4e", False: "pSp", None: "e4e or pSp (the file does not say)"}  # by deltas
_SUPPORTED = "supported are e4e (Encoder4Editing) and pSp (GradualStyleEncoder)"
# What e4e and pSp write beside the weights, for training to continue.
_BESIDE = {
    "opts", "latent_avg", "global_step", "best_val_loss", "optimizer",
    "discriminator_state_dict", "discriminator_optimizer_state_dict",
}  # fmt: skip


def read(checkpoint: Checkpoint, kind: str | None = None) -> Encoder | PyramidEncoder | None:
    """Build the encoder in a file, as `load_encoder` returns it; None if there is none.

    Raises:
        ValueError: an encoder of another kind, not exactly its tensors, or `kind` is needed.
    """
    if own := read_own(checkpoint, PyramidEncoder, Encoder):
        return own
    found = _find(checkpoint.content)
    if found is None:
        return None
    source = str(checkpoint.path)
    config = _config(found, source) | {"deltas": _deltas(found.opts, kind, source)}
    latent_avg = _latent_avg(found, config["num_layers"], config["w_dim"], source)
    tensors = found.tensors | found.unknown | {"latent_avg": latent_avg}
    return build(PyramidEncoder, config, tensors, source)


def describe(checkpoint: Checkpoint) -> dict[str, str] | None:
    """Describe the encoder in a file for `sdd info`; None if there is none."""
    network, found = checkpoint.metadata.get("network"), None
    try:
        if network in ("Encoder", "PyramidEncoder"):
            config = parse_json(checkpoint.metadata["config"])
        elif found := _find(checkpoint.content):
            deltas = _DELTAS.get(_encoder_type(found.opts) or "")
            config = _config(found, "not supported") | {"deltas": deltas}
        else:
            return None
        shape = f"W+ {config['num_layers']} × {config['w_dim']}"
        if network == "Encoder":
            side = config["resolution"]
            return {"encoder": f"of this package, {shape}, input {side} × {side}"}
        height, width = config["input_size"]
        kind = _NAMES[config["deltas"]]
        text = f"{kind} on {trunk_name(config)}, {shape}, input {height} × {width}"
    except (LookupError, TypeError, ValueError) as error:
        damaged = "of this package, with a damaged configuration"
        return {"encoder": str(error) if found else damaged}
    if found:
        average = isinstance(found.latent_avg, Tensor) and _starts_from_average(found.opts)
        text += ", added to the average latent" if average else ", without an average latent"
    return {"encoder": text}


@dataclass(frozen=True)
class _Found:
    tensors: dict[str, Tensor]  # of the encoder, without their prefix
    unknown: dict[str, Tensor]  # of nothing that belongs into such a file
    opts: dict[str, Any]  # of the training; empty where the file has none
    latent_avg: Any


def _find(content: Any) -> _Found | None:
    if not isinstance(content, dict):
        return None
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        return None
    outside = {} if state is content else {k: v for k, v in content.items() if k != "state_dict"}
    named = {k: v for k, v in state.items() if isinstance(k, str) and k not in _BESIDE}
    prefix = "encoder." if any(key.startswith("encoder.") for key in named) else ""
    tensors = {
        key.removeprefix(prefix): value
        for key, value in named.items()
        if key.startswith(prefix) and isinstance(value, Tensor)
    }
    trunk = "input_layer.0.weight" in tensors and "output_layer.3.weight" not in tensors
    if not trunk and "styles.0.linear.weight" not in tensors:
        return None
    used = {prefix + key for key in tensors}
    rest = {k: v for k, v in named.items() if k not in used and not k.startswith("decoder.")}
    rest |= {k: v for k, v in outside.items() if k not in _BESIDE}
    unknown = dict(item for key, value in rest.items() for item in tensors_in(value, str(key)))
    opts = attributes(content.get("opts"))
    latent_avg = content.get("latent_avg", state.get("latent_avg"))
    return _Found(tensors, unknown, opts if isinstance(opts, dict) else {}, latent_avg)


def _config(found: _Found, source: str) -> dict[str, Any]:
    """The arguments of `PyramidEncoder` but for `deltas`."""
    _check_kind(found, source)
    return {
        "num_layers": count_indexed(found.tensors, "styles"),
        "w_dim": shape_of(found.tensors, "styles.0.linear.weight", 2, source)[0],
        "input_size": _input_size(found.opts),
        **trunk_config(found.tensors, source),
    }


def _check_kind(found: _Found, source: str) -> None:
    """ValueError for the encoders that are kin to e4e and pSp but take or give something else."""
    first = "conv1.weight" if "conv1.weight" in found.tensors else "input_layer.0.weight"
    channels = shape_of(found.tensors, first, 4, source)[1]
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
    kind = _encoder_type(found.opts)
    pyramid = any(key.startswith("latlayer") for key in found.tensors)
    if kind is None and (first == "conv1.weight" or not pyramid):
        kind = "without a feature pyramid"
    if kind is not None and kind not in _DELTAS:
        raise ValueError(f"{source}: an encoder of the kind {kind}; {_SUPPORTED}")


def _encoder_type(opts: dict[str, Any]) -> str | None:
    kind = opts.get("encoder_type")
    return kind if isinstance(kind, str) or kind is None else f"<{type(kind).__name__}>"


def _deltas(opts: dict[str, Any], kind: str | None, source: str) -> bool:
    told = _DELTAS.get(_encoder_type(opts) or "")
    given = None if kind is None else KINDS[kind]
    if told is None and given is None:
        raise ValueError(
            f"{source}: e4e or pSp? Their tensors are alike, and this file lacks the opts that "
            'say which; call load_encoder(path, kind="e4e") or kind="psp"'
        )
    if told is not None and given is not None and told != given:
        raise ValueError(
            f'{source}: kind="{kind}", but the file says that its encoder is '
            f"{opts['encoder_type']}; leave kind out"
        )
    return bool(told if told is not None else given)


def _input_size(opts: dict[str, Any]) -> tuple[int, int]:
    """No tensor depends on it, since the encoder is convolutional; the training data tell it."""
    kind = opts.get("dataset_type")
    cars = isinstance(kind, str) and kind.startswith("cars")
    return (192, 256) if cars else (256, 256)


def _starts_from_average(opts: dict[str, Any]) -> bool:
    return opts.get("start_from_latent_avg") is not False


def _latent_avg(found: _Found, num_layers: int, w_dim: int, source: str) -> Tensor:
    """[num_layers, w_dim] that the styles are added to."""
    value = found.latent_avg
    if not _starts_from_average(found.opts):
        return torch.zeros(1).expand(num_layers, w_dim)
    if not isinstance(value, Tensor):
        if found.opts:
            raise ValueError(f"{source}: missing: latent_avg, which this encoder starts from")
        warnings.warn(
            f"{source} has no latent_avg. Unless its encoder was trained without, set "
            "encoder.latent_avg to the average latent of its generator",
            stacklevel=4,
        )
        return torch.zeros(1).expand(num_layers, w_dim)
    if tuple(value.shape) not in ((w_dim,), (1, w_dim), (num_layers, w_dim)):
        raise ValueError(
            f"{source}: shape of latent_avg: the file has {list(value.shape)}, "
            f"expected [{w_dim}] or [{num_layers}, {w_dim}]"
        )
    return value.expand(num_layers, w_dim)
