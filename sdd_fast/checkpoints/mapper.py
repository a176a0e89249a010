"""Latent mappers: our files, StyleCLIP's and those of the authors of the paper.

    StyleCLIP    {"state_dict": mapper.* and decoder.* (its generator), "opts": {"description", …}}
    the authors  {"mapper" or "name" or "model": …, "optimizer"}
    bare         the names below

    three levels    {course,medium,fine}_mapping.mapping.{1-4}.{weight,bias}     (their spelling)
    one MLP         mapping.mapping.{1-4}.…     for all layers of W+: StyleCLIP's SingleMapper
    S-space         mapper_{i}.mapping.{1-4}.…  for style i; one without toRGB lacks i = 1, 4, 7, …

All of them compute w + 0.1 M(w), where M is PixelNorm over *dimension 1* and four equalized linear
layers (lr multiplier 0.01), a leaky ReLU (0.2, gain √2) after each. In W+ [B, L, 512] dimension 1
is the layers of the level; of a style [B, n] it is the channels, as it should be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..files import parse_json
from ..manipulator import MapperInfo
from ..models.mapper import ALL, LEVELS, LevelsMapper, StyleSpaceMapper
from ..models.save import build_exactly
from ..models.style_space import is_to_rgb
from .content import attributes, holds_tensors, read_own
from .formats.read import Checkpoint

LAM = 0.1
"""λ of the foreign mappers: fixed in StyleCLIP's code, in every configuration of the authors."""

_OURS: dict[str, type[Any]] = {c.__name__: c for c in (LevelsMapper, StyleSpaceMapper)}
_LEVELS = {
    "course_mapping": "coarse",
    "medium_mapping": "medium",
    "fine_mapping": "fine",
    "mapping": ALL,
}
_KEY = re.compile(
    r"(course_mapping|medium_mapping|fine_mapping|mapping|mapper_(?:0|[1-9]\d?))"
    r"\.mapping\.([1-9])\.(weight|bias)"
)


def read(checkpoint: Checkpoint) -> tuple[nn.Module, MapperInfo] | None:
    """Build the mapper in a file, as `load_mapper` returns it; None if there is none.

    Raises:
        ValueError: a damaged description, or not exactly the tensors of a mapper.
    """
    source = str(checkpoint.path)
    if own := read_own(checkpoint, LevelsMapper, StyleSpaceMapper):
        try:
            return own, _info(checkpoint.metadata)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{source}: the description of its mapper is damaged: {error}"
            ) from error
    found = _find(checkpoint.content)
    return None if found is None else _build(found, source)


def describe(checkpoint: Checkpoint) -> dict[str, str] | None:
    """Describe the mapper in a file for `sdd info`, with its prompt; None if there is none."""
    name = checkpoint.metadata.get("network")
    if name in _OURS:
        config, prompt = (_parsed(checkpoint.metadata, key) for key in ("config", "prompt"))
        config = config if isinstance(config, dict) else {}
        origin = "sdd_fast"
    else:
        found = _find(checkpoint.content)
        if found is None:
            return None
        name, config, prompt, origin = found.network, found.config, found.prompt, found.origin
    try:
        text = _text(str(name), config)
    except TypeError:
        text = "with a damaged configuration"
    facts = {"mapper": f"{text} ({origin})"}
    return {**facts, "prompt": prompt} if isinstance(prompt, str) and prompt else facts


def _text(name: str, config: Mapping[str, Any]) -> str:
    if name == "LevelsMapper":
        layers = config.get("num_layers") or "any number"
        return f"{', '.join(config.get('levels', LEVELS))} of W+ {layers} × {config.get('w_dim')}"
    rgb = "" if config.get("to_rgb", True) else ", without toRGB"
    return f"{len(config.get('style_dims', ()))} style vectors{rgb}"


def _parsed(metadata: Mapping[str, str], key: str) -> Any:
    try:
        return parse_json(metadata.get(key, "null"))
    except ValueError:
        return None


def _info(metadata: Mapping[str, str]) -> MapperInfo:
    fields: dict[str, Any] = {
        key: parse_json(metadata[key]) for key in asdict(MapperInfo()) if key in metadata
    }
    for key, kind in (("levels", str), ("timesteps", int)):
        fields[key] = tuple(fields.get(key, ()))
        if not all(isinstance(item, kind) for item in fields[key]):
            raise ValueError(f"{key} must be a list of {kind.__name__}")
    info = MapperInfo(**fields)
    if not (isinstance(info.prompt, str) and isinstance(info.domain, str)):
        raise ValueError("prompt and domain must be texts")
    if not isinstance(info.lam, (int, float)) or not abs(info.lam) < math.inf:
        raise ValueError("lam must be a finite number")
    return info


@dataclass(frozen=True)
class _Foreign:
    """A mapper found in a foreign file.

    Args:
        origin: who writes such files.
        prefix: of the mapper's names in the file.
        tensors: the mapper's, by their names without the prefix.
        others: full names of tensors that belong to nothing known.
        network, config: the class that computes the same, and its arguments.
        prompt: "" where the file does not tell.
    """

    origin: str
    prefix: str
    tensors: dict[str, Tensor]
    others: list[str]
    network: str
    config: dict[str, Any]
    prompt: str = ""


def _build(found: _Foreign, source: str) -> tuple[nn.Module, MapperInfo]:
    network: type[Any] = _OURS[found.network]
    tensors = {_our_name(key): value for key, value in found.tensors.items()}
    if network is LevelsMapper:  # theirs work in the units of W+
        rows = found.config["num_layers"] or 1
        tensors["scale"] = torch.ones(1).expand(rows, found.config["w_dim"])
    tensors |= {name: torch.empty(0) for name in found.others}  # to be listed as unexpected
    mapper = build_exactly(
        network, found.config, tensors, source, lambda name: _their_name(name, found.prefix)
    )
    levels = tuple(mapper.levels) if isinstance(mapper, LevelsMapper) else LEVELS
    return mapper.eval().requires_grad_(False), MapperInfo(found.prompt, LAM, levels)


def _find(content: Any) -> _Foreign | None:
    """The mapper in the content of a foreign file; None if there is none."""
    content = attributes(content)
    if not isinstance(content, Mapping):
        return None
    if isinstance(content.get("state_dict"), Mapping):
        return _styleclip(content)
    for part in ("name", "mapper", "model"):  # in the order in which the authors' loader tries them
        if isinstance(content.get(part), Mapping) and _weights(content[part]):
            others = _besides(content, part, "optimizer")
            return _tell("the SDD authors' code", "", content[part], others)
    return _tell("bare weights", "", content, []) if _weights(content) else None


def _styleclip(content: Mapping[str, Any]) -> _Foreign | None:
    state = {str(key): value for key, value in content["state_dict"].items()}
    prefix = "mapper."
    mapper = {key[7:]: value for key, value in state.items() if key.startswith(prefix)}
    if not _weights(mapper):
        return None
    others = _besides(content, "state_dict", "opts")
    others += [key for key in state if not key.startswith((prefix, "decoder."))]
    options = attributes(content.get("opts"))
    options = options if isinstance(options, Mapping) else {}
    size, num_layers = options.get("stylegan_size"), None
    convs = [key for key in state if re.fullmatch(r"decoder\.convs\.\d+\.conv\.weight", key)]
    if convs:  # two for each resolution above 4 × 4, where there are two W+ layers more
        num_layers = len(convs) + 2
    elif isinstance(size, int) and size >= 8 and size & (size - 1) == 0:
        num_layers = 2 * int(math.log2(size)) - 2
    on = [level for level in LEVELS if options.get(f"no_{level}_mapper") is False]
    found = _tell("StyleCLIP", prefix, mapper, others, num_layers, on)
    prompt = options.get("description")
    return replace(found, prompt=prompt) if isinstance(prompt, str) else found


def _tell(
    origin: str,
    prefix: str,
    state: Mapping[str, Any],
    others: list[str],
    num_layers: int | None = None,
    on: Sequence[str] = (),
) -> _Foreign:
    """The architecture, from names and shapes. `on`: levels that the file says it has."""
    tensors = _weights(state)
    others = others + [f"{prefix}{key}" for key in state if key not in tensors]
    widths: dict[str, int] = {}
    depth = 0
    for key, value in tensors.items():
        mlp, layer, _ = _parts(key)
        widths.setdefault(mlp, value.shape[0])
        depth = max(depth, layer)
    common = {
        "depth": depth, "lr_multiplier": 0.01, "zero_init": False, "output_activation": True,
    }  # fmt: skip
    levels = [_LEVELS[mlp] for mlp in widths if mlp in _LEVELS]
    config: dict[str, Any]
    if levels:
        others += [prefix + key for key in tensors if key.startswith("mapper_")]
        tensors = {key: value for key, value in tensors.items() if not key.startswith("mapper_")}
        levels += [level for level in on if level not in levels and ALL not in levels]
        config = {
            "num_layers": num_layers, "w_dim": next(w for m, w in widths.items() if m in _LEVELS),
            "levels": levels, "pixel_norm": "layers", **common,
        }  # fmt: skip
        return _Foreign(origin, prefix, tensors, others, "LevelsMapper", config)
    styles = {int(mlp[7:]): width for mlp, width in widths.items()}
    count = max(styles) + 1
    count += (2 - count) % 3  # the last is a toRGB, which may be left out
    dims: list[int] = []
    for i in range(count):  # a toRGB is as wide as the convolution before it
        dims.append(styles.get(i) or (dims[-1] if dims else next(iter(styles.values()))))
    config = {"style_dims": dims, "to_rgb": any(map(is_to_rgb, styles)), **common}
    return _Foreign(origin, prefix, tensors, others, "StyleSpaceMapper", config)


def _parts(key: str) -> tuple[str, int, str]:
    match = _KEY.fullmatch(key)
    assert match
    return match[1], int(match[2]), match[3]


def _our_name(key: str) -> str:  # course_mapping.mapping.1.weight → mlps.coarse.1.weight
    mlp, layer, kind = _parts(key)
    return f"mlps.{_LEVELS.get(mlp) or int(mlp[7:])}.{layer}.{kind}"


def _their_name(name: str, prefix: str) -> str:
    if not name.startswith("mlps."):
        return name
    _, mlp, rest = name.split(".", 2)
    theirs = {level: mlp for mlp, level in _LEVELS.items()}.get(mlp, f"mapper_{mlp}")
    return f"{prefix}{theirs}.mapping.{rest}"


def _weights(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Those of the entries that are tensors of a mapper."""
    return {
        key: value
        for key, value in state.items()
        if isinstance(key, str) and _KEY.fullmatch(key) and isinstance(value, Tensor) and value.ndim
    }


def _besides(content: Mapping[str, Any], *known: str) -> list[str]:
    """The other entries that hold tensors."""
    return [str(key) for key in content if key not in known and holds_tensors(content[key])]
