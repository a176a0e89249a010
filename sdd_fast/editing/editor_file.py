"""What `Editor.load` reads: the mapper of a run, and what `Editor.save` wrote.

An editor's file is safetensors: the tensors of all its networks, named generator.…, encoder.… and
mapper0.…, and in its metadata what builds them again. It needs no domain; nothing in it can run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from ..files import (
    PathLike,
    expanded,
    load_tensors,
    parse_json,
    read_metadata,
    safetensors_path,
    save_tensors,
)
from ..hub.contents import EDITOR_FILE
from ..hub.download import local_source
from ..inversion.face_crop import FaceCrop
from ..manipulator import MapperInfo
from ..models import Encoder, LevelsMapper, StyleGAN2, StyleSpaceMapper
from ..models.psp import PyramidEncoder
from ..models.save import SaveLoadMixin
from ..run_folder import MAPPER_FILE, check_mapper_is_own

if TYPE_CHECKING:
    from .edit_inputs import Align

NETWORK = "Editor"
"""In the place of a network's name in the metadata."""

VERSION = 1

_NETWORKS: tuple[type[SaveLoadMixin], ...] = (
    StyleGAN2, Encoder, PyramidEncoder, LevelsMapper, StyleSpaceMapper,
)  # fmt: skip
_KNOWN = {kind.__name__: kind for kind in _NETWORKS}


class SavedEditor(NamedTuple):
    """What an `Editor` is made of."""

    generator: Any
    edits: list[tuple[nn.Module, MapperInfo]]
    encoder: nn.Module | None
    align: Align | None


def save_editor(
    path: PathLike,
    generator: Any,
    edits: Sequence[tuple[nn.Module, MapperInfo]],
    encoder: nn.Module | None,
    aligns: bool,
    *,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write an editor as one file, atomically; see `Editor.save`.

    Args:
        aligns: whether photographs are to be cropped to a face first.
        metadata: goes into the file's header, too.

    Raises:
        ValueError, FileExistsError: as of `Editor.save`.
    """
    target = safetensors_path(path)
    if target.exists() and not target.is_dir() and not is_editor(target):
        raise FileExistsError(
            f"{target} is not a file of Editor.save and would be replaced; choose another name, or "
            "delete it first"
        )
    parts: dict[str, Any] = {"generator": generator}
    parts |= {} if encoder is None else {"encoder": encoder}
    parts |= {f"mapper{i}": mapper for i, (mapper, _) in enumerate(edits)}
    tensors: dict[str, Tensor] = {}
    networks = {}
    for name, network in parts.items():
        kind = type(network).__name__
        if type(network) not in _NETWORKS:
            raise ValueError(
                f"the {name} is of class {kind}, and a file cannot tell how to build that again; "
                f"an Editor can be saved if all of it is {', '.join(_KNOWN)}"
            )
        networks[name] = {"network": kind, "config": network.config}
        tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
    told = {
        "version": VERSION,
        "networks": networks,
        "edits": [asdict(info) for _, info in edits],
        "aligns": aligns,
    }
    described = {
        "network": NETWORK,
        "config": json.dumps(told, ensure_ascii=False),
        "prompt": json.dumps([info.prompt for _, info in edits], ensure_ascii=False),
    }
    save_tensors(target, tensors, {**(metadata or {}), **described})
    return target


def read_editor(
    paths: Sequence[PathLike], domain: object, parts: Mapping[str, Any]
) -> SavedEditor | None:
    """Read a file of `save_editor`; None if the paths are other sources.

    Args:
        domain, parts: as of `Editor.load`; a whole editor takes none but a detector.

    Raises:
        ValueError: one among other sources, a domain or parts for it, or a damaged file.
    """
    found = [path for path in map(expanded, paths) if is_editor(path)]
    if not found:
        return None
    if len(paths) > 1:
        raise ValueError(
            f"{found[0]} is a whole editor, with a generator of its own; load it alone, or load "
            "the mappers of the others with the domain that all belong to"
        )
    others = [*(["domain"] if domain is not None else []), *(name for name in parts)]
    if others := [name for name in others if name != "detector"]:
        raise ValueError(
            f"{found[0]} is a whole editor and takes no other {', '.join(others)}; leave that out, "
            "or load the run that it was made of"
        )
    return _read(found[0], parts.get("detector"))


def is_editor(path: Path) -> bool:
    """Tell whether a file is one of `save_editor`, by its header alone."""
    if not path.is_file():
        return False
    with path.open("rb") as file:  # cheap, for a mapper in any other format
        if file.read(9)[8:] != b"{":
            return False
    try:
        return read_metadata(path).get("network") == NETWORK
    except ValueError:
        return False  # what is wrong with it is said where it is read as a mapper


def _read(path: Path, detector: PathLike | None) -> SavedEditor:
    tensors, metadata = load_tensors(path)
    try:
        told = parse_json(metadata["config"])
        if told["version"] != VERSION:
            raise ValueError(f"version {told['version']!r:.20} of an editor, known is {VERSION}")
        networks: dict[str, Any] = dict(told["networks"])
        infos = [_info(one) for one in told["edits"]]
        wanted = {"generator", *(f"mapper{i}" for i in range(len(infos)))}
        if not infos or not wanted <= set(networks) <= wanted | {"encoder"}:
            raise ValueError(f"networks {', '.join(map(str, networks))} for {len(infos)} edits")
        kinds = {name: _KNOWN[one["network"]] for name, one in networks.items()}
        configs = {name: json.dumps(one["config"]) for name, one in networks.items()}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged, or of a later version: what it says of its networks cannot be "
            f"read ({error!r:.200})"
        ) from error
    built: dict[str, Any] = {}
    for name, kind in kinds.items():
        some = {
            key.removeprefix(f"{name}."): value
            for key, value in tensors.items()
            if key.startswith(f"{name}.")
        }
        about = {"network": kind.__name__, "config": configs[name]}
        network: Any = kind.from_tensors(some, about, f"{path} ({name})")
        built[name] = network.eval().requires_grad_(False)
    left = [key for key in tensors if key.partition(".")[0] not in built]
    if left:
        raise ValueError(f"{path} holds tensors of no network of its editor, such as {left[0]!r}")
    crop = FaceCrop(detector, built["generator"].image_size[0])
    align = crop.align_photo if told.get("aligns") is True else None
    edits = [(built[f"mapper{i}"], info) for i, info in enumerate(infos)]
    return SavedEditor(built["generator"], edits, built.get("encoder"), align)


def _info(told: Mapping[str, Any]) -> MapperInfo:
    info = MapperInfo(
        str(told["prompt"]),
        float(told["lam"]),
        tuple(map(str, told["levels"])),
        tuple(map(int, told["timesteps"])),
        str(told["domain"]),
    )
    if not abs(info.lam) < float("inf"):  # of NaN as well
        raise ValueError(f"λ is {info.lam}")
    return info


def mapper_file(given: PathLike) -> Path:
    """Return the file of an edit: of a run's folder, one of `save_pretrained`, or a hub name.

    A file is itself, and so is what does not exist and is no name on the hub.

    Raises:
        FileNotFoundError: the folder holds no mapper, or the hub has no such name.
        ValueError: the mapper is not that of its run, or the hub holds no edit there.
    """
    source = local_source(given)
    if not source.is_dir():
        return source
    if not (source / MAPPER_FILE).exists():
        if (source / EDITOR_FILE).exists():
            return source / EDITOR_FILE
        raise FileNotFoundError(
            f"{source} holds no {MAPPER_FILE}: the distillation there has not finished, or it is "
            "no run folder. Run the same distillation again to resume it"
        )
    check_mapper_is_own(source)
    return source / MAPPER_FILE
