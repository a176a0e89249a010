"""A whole editor's weights as one safetensors file, for programs that have the networks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ..edit import Editor
from ..files import load_tensors, parse_json, save_tensors
from ..manipulator import MapperInfo, config_of
from ..models import Encoder, LevelsMapper, StyleGAN2, StyleSpaceMapper
from ..models.psp import PyramidEncoder
from ..models.save import build_exactly
from .about import NAME

NETWORKS: dict[str, type[nn.Module]] = {
    network.__name__: network
    for network in (StyleGAN2, Encoder, PyramidEncoder, LevelsMapper, StyleSpaceMapper)
}


def save_editor(path: Path, editor: Editor, about: str) -> None:
    """Write `generator.*`, `encoder.*` and `mappers.0.*` …, with what builds their networks.

    Raises:
        ValueError: a network of the editor is none of this package's.
    """
    networks = {"generator": editor.generator}
    if editor.encoder is not None:
        networks["encoder"] = editor.encoder
    networks |= {f"mappers.{i}": mapper for i, mapper in enumerate(editor.mappers)}
    foreign = [name for name, one in networks.items() if type(one).__name__ not in NETWORKS]
    if foreign:
        kinds = ", ".join(f"{name}: {type(networks[name]).__name__}" for name in foreign)
        raise ValueError(
            f"safetensors holds weights alone, so that only networks of this package can be built "
            f"of it again, not {kinds}; choose another format"
        )
    tensors = {
        f"{name}.{key}": value
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    described = {
        name: {"network": type(network).__name__, "config": config_of(network)}
        for name, network in networks.items()
    }
    save_tensors(path, tensors, {NAME: about, "networks": json.dumps(described)})


def load_editor(path: Path) -> Editor:
    """Build the editor of a file of `save_editor`, on the CPU.

    Raises:
        ValueError: the file is another, or its tensors do not fit its networks.
    """
    tensors, metadata = load_tensors(path)
    if NAME not in metadata or "networks" not in metadata:
        raise ValueError(f"{path} holds no editor: its metadata has no {NAME} and no networks")
    described, about = parse_json(metadata["networks"]), parse_json(metadata[NAME])
    networks = {name: _build(name, entry, tensors, str(path)) for name, entry in described.items()}
    edits = [
        (networks[f"mappers.{i}"], MapperInfo(
            edit["prompt"], edit["lam"], tuple(edit["levels"]), tuple(edit["timesteps"]),
            edit["domain"],
        ))
        for i, edit in enumerate(about["edits"])
    ]  # fmt: skip
    return Editor(networks["generator"], edits, networks.get("encoder"))


def _build(name: str, entry: Mapping[str, object], tensors: Mapping[str, Tensor], source: str):  # type: ignore[no-untyped-def]
    kind = str(entry["network"])
    if kind not in NETWORKS:
        raise ValueError(f"{source}: unknown network {kind!r}")
    own = {
        key.removeprefix(f"{name}."): value
        for key, value in tensors.items()
        if key.startswith(f"{name}.")
    }
    config = entry["config"]
    assert isinstance(config, Mapping)
    return build_exactly(NETWORKS[kind], config, own, source, lambda key: f"{name}.{key}").eval()
