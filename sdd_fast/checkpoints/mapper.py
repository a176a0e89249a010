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
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..files import parse_json
from ..manipulator import MapperInfo
from ..models.mapper import ALL, LEVELS, LevelsMapper, StyleSpaceMapper
from ..models.save import load_exactly
from ..models.style_space import is_to_rgb
from ..schema import Rule, is_list_of, is_number, is_whole, problems
from .content import Found, Layout, attributes, below, find_own, states_in, strangers
from .formats.read import Checkpoint

LAM = 0.1
"""λ of the foreign mappers: fixed in StyleCLIP's code, in every configuration of the authors."""

_ORIGINS = {"state_dict": "StyleCLIP", "": "bare weights"}  # by what the state dict is called
_AUTHORS = "the SDD authors' code"
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


def _find(checkpoint: Checkpoint) -> Found | None:
    source = str(checkpoint.path)
    if own := find_own(checkpoint, LevelsMapper, StyleSpaceMapper):
        told = {"info": _info(checkpoint.metadata, source), "origin": "sdd_fast"}
        return replace(own, told=told)
    if {"network", "prompt", "lam"} <= set(checkpoint.metadata):
        name = checkpoint.metadata["network"]
        raise ValueError(
            f"{source} holds a mapper of a class of its maker, {name}, which is not known here: "
            f"give one to be filled in, load_mapper(path, into={name}(…))"
        )
    for state in states_in(checkpoint.content):
        for prefix in ("mapper.", ""):
            named = below(state, prefix)
            tensors = {k: v for k, v in named.items() if _KEY.fullmatch(k) and v.ndim}
            if tensors:
                others = {prefix + k: v for k, v in named.items() if k not in tensors}
                options = attributes(state.beside.get("opts"))
                options = options if isinstance(options, Mapping) else {}
                found = _told(source, prefix, tensors, others | strangers(state, prefix), options,
                              _num_layers(below(state, "decoder."), options))  # fmt: skip
                levels = found.config.get("levels", LEVELS)
                levels = tuple(level for level in (*LEVELS, ALL) if level in levels)
                prompt = options.get("description")
                info = MapperInfo(prompt if isinstance(prompt, str) else "", LAM, levels)
                origin = _ORIGINS.get(state.name, _AUTHORS)
                return replace(found, told={"info": info, "origin": origin})
    return None


def fill(mapper: nn.Module, checkpoint: Checkpoint) -> MapperInfo:
    """Give a mapper of a user's own class the weights in a file of `save_mapper`, frozen.

    Raises:
        ValueError: the file holds a mapper of another class, or not exactly its tensors.
    """
    source, kind = str(checkpoint.path), type(mapper).__name__
    if checkpoint.metadata.get("network") != kind:
        held = checkpoint.metadata.get("network", "no mapper of save_mapper")
        raise ValueError(f"{source} holds {held}, not the {kind} that is to be filled in")
    info = _info(checkpoint.metadata, source)
    load_exactly(mapper, checkpoint.content, source)
    mapper.eval().requires_grad_(False)
    return info


def _facts(found: Found, mapper: LevelsMapper | StyleSpaceMapper) -> dict[str, str]:
    config = mapper.config
    if isinstance(mapper, LevelsMapper):
        layers = config["num_layers"] or "any number"
        text = f"{', '.join(mapper.levels)} of W+ {layers} × {config['w_dim']}"
    else:
        rgb = "" if config["to_rgb"] else ", without toRGB"
        text = f"{len(mapper.style_dims)} style vectors{rgb}"
    facts = {"mapper": f"{text} ({found.told['origin']})"}
    prompt = found.told["info"].prompt
    return {**facts, "prompt": prompt} if prompt else facts


MAPPER = Layout("mapper", _find, _facts)

_RULES = {
    "prompt": Rule(lambda value: isinstance(value, str), "text"),
    "lam": Rule(is_number, "a finite number"),
    "levels": Rule(is_list_of(lambda value: isinstance(value, str)), "a list of levels"),
    "timesteps": Rule(is_list_of(is_whole), "a list of timesteps"),
    "domain": Rule(lambda value: isinstance(value, str), "text"),
}


def _info(metadata: Mapping[str, str], source: str) -> MapperInfo:
    """What a file of ours says that its mapper is for."""
    try:
        told = {key: parse_json(metadata[key]) for key in asdict(MapperInfo()) if key in metadata}
        if found := [f"{key} is null" for key in told if told[key] is None] or problems(
            told, _RULES
        ):
            raise ValueError("; ".join(found))
    except ValueError as error:
        raise ValueError(f"{source}: the description of its mapper is damaged: {error}") from error
    return MapperInfo(**told | {key: tuple(told.get(key, ())) for key in ("levels", "timesteps")})


def _num_layers(decoder: Mapping[str, Tensor], options: Mapping[str, Any]) -> int | None:
    """How many layers W+ has, told by the generator in the file or the options; None: neither."""
    convs = sum(bool(re.fullmatch(r"convs\.\d+\.conv\.weight", key)) for key in decoder)
    size = options.get("stylegan_size")
    if convs:  # two for each resolution above 4 × 4, where there are two W+ layers more
        return convs + 2
    if isinstance(size, int) and size >= 8 and size & (size - 1) == 0:
        return 2 * int(math.log2(size)) - 2
    return None


def _told(
    source: str,
    prefix: str,
    tensors: dict[str, Tensor],
    others: dict[str, Tensor],
    options: Mapping[str, Any],
    num_layers: int | None,
) -> Found:
    """Tell the architecture, from names and shapes.

    Args:
        prefix: of the mapper's names in the file. tensors: the mapper's, without it.
        others: tensors that belong to nothing known, by their full names.
        options: of the training, which tell the levels that there should be.
    """
    widths: dict[str, int] = {}
    depth = 0
    for key, value in tensors.items():
        mlp, layer, _ = _parts(key)
        widths.setdefault(mlp, value.shape[0])
        depth = max(depth, layer)
    config: dict[str, Any] = {
        "depth": depth, "lr_multiplier": 0.01, "zero_init": False, "output_activation": True,
    }  # fmt: skip
    renamed = {_our_name(key): value for key, value in tensors.items()}

    def names(name: str) -> str:
        return _their_name(name, prefix)

    levels = [_LEVELS[mlp] for mlp in widths if mlp in _LEVELS]
    if levels:
        w_dim = next(w for m, w in widths.items() if m in _LEVELS)
        promised = [level for level in LEVELS if options.get(f"no_{level}_mapper") is False]
        levels += [level for level in promised if level not in levels and ALL not in levels]
        config |= {
            "num_layers": num_layers, "w_dim": w_dim, "levels": levels, "pixel_norm": "layers",
        }  # fmt: skip
        renamed["scale"] = torch.ones(1).expand(num_layers or 1, w_dim)  # theirs are in units of W+
        return Found(source, LevelsMapper, config, renamed | others, names)
    styles = {int(mlp[7:]): width for mlp, width in widths.items()}
    count = max(styles) + 1
    count += (2 - count) % 3  # the last is a toRGB, which may be left out
    dims: list[int] = []
    for i in range(count):  # a toRGB is as wide as the convolution before it
        dims.append(styles.get(i) or (dims[-1] if dims else next(iter(styles.values()))))
    config |= {"style_dims": dims, "to_rgb": any(map(is_to_rgb, styles))}
    return Found(source, StyleSpaceMapper, config, renamed | others, names)


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
