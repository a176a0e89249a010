"""StyleGAN2 generators: this package's files, the PyTorch port's and NVIDIA's.

    our safetensors          written by `StyleGAN2.save`
    the PyTorch port         {g_ema, latent_avg}; training checkpoints; a bare state dict;
                             `decoder.*` in the files of e4e, pSp and StyleCLIP
    NVIDIA                   .pkl of StyleGAN2-ADA, and of the StyleGAN3 repository's StyleGAN2

What the port's files lack is made up as the port itself does it. Its first files have no noise
maps, which are random numbers that are never trained: they are drawn with a fixed seed. Most hold
no `latent_avg`: it is estimated from 10,000 z.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import draws
from ..files import parse_json
from ..models.save import build_exactly
from ..models.stylegan2 import StyleGAN2
from .content import holds_tensors
from .filters import USUAL, resampling_taps
from .formats.read import Checkpoint, PickledObject
from .nvidia import generator_in, read_generator

_MARKS = ("input.input", "conv1.conv.weight", "to_rgb1.conv.weight", "convs.0.conv.weight")
_KERNEL = re.compile(r"convs\.\d*[02468]\.conv\.blur\.kernel|to_rgbs\.\d+\.upsample\.kernel")
_SIZES = ("resolution", "w_dim", "z_dim", "n_mlp", "channel_base", "channel_max")
_MOST_BLOCKS = 8  # 1024 pixels
_OURS = "StyleGAN2 of this package"
_OTHER_PARTS = {  # what stands beside a generator, by layout; None: a bare state dict
    "g_ema": ("g", "d", "g_optim", "d_optim", "args", "ada_aug_p", "latent_avg"),
    "state_dict": (
        "opts", "latent_avg", "optimizer", "discriminator_state_dict",
        "discriminator_optimizer_state_dict",
    ),
    "G_ema": ("G", "D", "training_set_kwargs", "augment_pipe"),
}  # fmt: skip


@dataclass(frozen=True)
class _Found:
    """A generator in a file: its arguments, its tensors under our names, and remarks on it."""

    layout: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def read(checkpoint: Checkpoint, content_rows: tuple[int, int] | None = None) -> StyleGAN2 | None:
    """Build the generator in a file, as `load_generator` returns it; None if there is none.

    Raises:
        ValueError: a generator that cannot be reproduced, or not exactly its tensors.
    """
    source = str(checkpoint.path)
    try:
        found = _find(checkpoint)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if found is None:
        return None
    config, tensors = found.config, dict(found.tensors)
    integers = [f"{k} ({v.dtype})" for k, v in tensors.items() if not v.is_floating_point()]
    if integers:
        raise ValueError(
            f"{source}: a generator's tensors are of floating point, but not " + ", ".join(integers)
        )
    if content_rows is not None:
        config = config | {"content_rows": list(content_rows)}
    no_average = found.layout != _OURS and "latent_avg" not in tensors
    if no_average:
        tensors["latent_avg"] = torch.zeros(config["w_dim"])
    if found.layout != _OURS and not any(key.startswith("noises.") for key in tensors):
        tensors |= _drawn_noises(config["resolution"])
    network = build_exactly(StyleGAN2, config, tensors, source)
    if no_average:
        network.update_latent_avg(draws.generator(0))
    return network.eval().requires_grad_(False)


def describe(checkpoint: Checkpoint) -> dict[str, str] | None:
    """Describe the generator in a file for `sdd info`; None if there is none."""
    try:
        found = _find(checkpoint)
        return None if found is None else _facts(found)
    except (LookupError, TypeError, ValueError) as error:  # settings of ours that are no numbers
        return {"generator": f"cannot be loaded: {error}"}


def _facts(found: _Found) -> dict[str, str]:
    config, tensors = found.config, found.tensors
    side = config["resolution"]
    layers = 2 * (side.bit_length() - 1) - 2
    facts = {
        "generator": f"{found.layout}, {side} × {side}, W+ {layers} × {config['w_dim']}, "
        f"{config['n_mlp']} mapping layers, {config['channel_base']} / resolution channels "
        f"(at most {config['channel_max']})"
    }
    if config.get("c_dim"):
        facts["classes"] = str(config["c_dim"])
    if config.get("conv_clamp") is not None:
        facts["clamp"] = f"{config['conv_clamp']:g}"
    if config.get("num_fp16_res"):
        facts["float16"] = f"the {config['num_fp16_res']} highest resolutions, on a GPU"
    if config.get("content_rows"):
        facts["picture"] = "rows {} to {}".format(*config["content_rows"])
    if config.get("resample_filter", USUAL) != USUAL:
        facts["filter"] = ", ".join(f"{tap:g}" for tap in config["resample_filter"])
    if not any(key.startswith("noises.") for key in tensors):
        facts["noise maps"] = "none in the file: drawn with a fixed seed"
    if "latent_avg" not in tensors:
        facts["mean of w"] = "not in the file: estimated"
    return facts


def _find(checkpoint: Checkpoint) -> _Found | None:
    """The generator in a file, or None; ValueError if there is one that cannot be loaded."""
    content = checkpoint.content
    if checkpoint.metadata.get("network"):
        return _ours(checkpoint)
    network = generator_in(content)
    if network is not None:
        _only_known_parts(content, "G_ema")
        config, tensors = read_generator(network)
        config |= _shapes_tell(tensors)
        for ours, theirs in (("resolution", "img_resolution"), ("w_dim",) * 2, ("z_dim",) * 2):
            stated = network.state.get(theirs)
            if not isinstance(stated, int) or stated != config[ours]:
                raise ValueError(
                    f"its {theirs} is {stated!r}, but its tensors are those of "
                    f"{theirs} {config[ours]}"
                )
        return _Found("StyleGAN2 of NVIDIA", config, tensors)
    if not isinstance(content, dict):
        return None
    for name in ("g_ema", "g"):
        if _is_generator(content.get(name)):
            _only_known_parts(content, "g_ema")
            return _port(content[name], content.get("latent_avg"), "")
    inner = content.get("state_dict")
    if isinstance(inner, dict):
        decoder = {
            key[8:]: value for key, value in inner.items() if str(key).startswith("decoder.")
        }
        if _is_generator(decoder):
            _only_known_parts(content, "state_dict")
            beside = [
                k for k in inner if not str(k).startswith(("decoder.", "encoder.", "mapper."))
            ]
            if beside:
                raise ValueError(_unexpected(beside))
            return _port(decoder, content.get("latent_avg"), ", in a file with other networks")
    return _port(content, None, "") if _is_generator(content) else None


def _ours(checkpoint: Checkpoint) -> _Found | None:
    if checkpoint.metadata["network"] != "StyleGAN2":
        return None
    try:
        config = dict(parse_json(checkpoint.metadata["config"]))
        for key in _SIZES:
            if not isinstance(config[key], int):
                raise TypeError(f"{key} is {config[key]!r}")
        if config["n_mlp"] > len(checkpoint.content):
            raise ValueError(f"n_mlp is {config['n_mlp']}, for {len(checkpoint.content)} tensors")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its configuration is damaged: {error!r}") from error
    return _Found(_OURS, config, checkpoint.content)


def _is_generator(state: Any) -> bool:
    return isinstance(state, dict) and sum(mark in state for mark in _MARKS) >= 2


def _only_known_parts(content: Any, layout: str) -> None:
    if not isinstance(content, dict):
        return
    known = (layout, *_OTHER_PARTS[layout])
    beside = [key for key, value in content.items() if key not in known and holds_tensors(value)]
    if beside:
        raise ValueError(_unexpected(beside))


def _unexpected(keys: list[Any]) -> str:
    return "beside its generator the file holds\n  " + "\n  ".join(
        f"unexpected: {key}" for key in keys
    )


def _port(state: dict[str, Any], latent_avg: Any, where: str) -> _Found:
    """A state dict of the PyTorch port, whose names are ours."""
    others = [f"{k} is a {type(v).__name__}" for k, v in state.items() if not isinstance(v, Tensor)]
    others += [f"{k!r} is no name" for k in state if not isinstance(k, str)]
    if others:
        raise ValueError("a generator with entries that are no tensors: " + ", ".join(others))
    filters = {key: value for key, value in state.items() if _KERNEL.fullmatch(key)}
    tensors = {key: value for key, value in state.items() if key not in filters}
    if latent_avg is not None:
        tensors["latent_avg"] = _one_average(latent_avg)
    config = _shapes_tell(tensors)
    config["resample_filter"] = resampling_taps(filters, total=4.0)
    return _Found("StyleGAN2 of the PyTorch port" + where, config, tensors)


def _one_average(latent_avg: Any) -> Tensor:
    """[w_dim] of an average stored as [w_dim], [1, w_dim] or repeated for every layer."""
    if isinstance(latent_avg, Tensor) and latent_avg.ndim in (1, 2) and latent_avg.numel():
        rows = latent_avg if latent_avg.ndim == 2 else latent_avg[None]
        if torch.equal(rows, rows[:1].expand_as(rows)):
            return rows[0]
    shape = list(latent_avg.shape) if isinstance(latent_avg, Tensor) else type(latent_avg).__name__
    raise ValueError(
        f"latent_avg must be one vector [w_dim], or the same for every layer, got {shape}"
    )


def _drawn_noises(resolution: int) -> dict[str, Tensor]:
    rng = draws.generator(0)
    sides = [2 ** ((k + 5) // 2) for k in range(2 * resolution.bit_length() - 5)]
    return {
        f"noises.noise_{k}": torch.randn(1, 1, side, side, generator=rng)
        for k, side in enumerate(sides)
    }


def _shapes_tell(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `StyleGAN2` that the shapes of its tensors determine.

    Each is what most tensors say, so that a single wrong one is named as such afterwards.
    """
    depth = len({m[1] for m in _matches(r"style\.(\d+)\.(?:weight|bias)", tensors)})
    convs = len({m[1] for m in _matches(r"convs\.(\d+)\.conv\.weight", tensors)})
    rgbs = len({m[1] for m in _matches(r"to_rgbs\.(\d+)\.conv\.weight", tensors)})
    blocks = max((convs + 1) // 2, rgbs)
    if not 1 <= blocks <= _MOST_BLOCKS or depth < 1:
        raise ValueError(
            f"a generator with {depth} mapping layers and {blocks} resolutions above 4 × 4; "
            f"expected at least 1 of each and at most {_MOST_BLOCKS} resolutions"
        )

    def length(*keys: tuple[str, int]) -> int:
        said = [
            tensors[key].shape[dimension]
            for key, dimension in keys
            if key in tensors and tensors[key].ndim > dimension and tensors[key].numel()
        ]
        if not said:
            raise ValueError("a generator without " + " and ".join(key for key, _ in keys))
        return Counter(said).most_common(1)[0][0]

    def outputs(conv: str, rgb: str) -> int:
        return length(
            (f"{conv}.conv.weight", 1),
            (f"{conv}.activate.bias", 0),
            (f"{rgb}.conv.weight", 2),
            (f"{rgb}.conv.modulation.bias", 0),
        )

    widths = {4: outputs("conv1", "to_rgb1")}
    for j in range(blocks):
        widths[8 << j] = outputs(f"convs.{2 * j + 1}", f"to_rgbs.{j}")
    w_dim = length(
        ("conv1.conv.modulation.weight", 1),
        ("to_rgb1.conv.modulation.weight", 1),
        ("convs.0.conv.modulation.weight", 1),
    )
    c_dim = length(("style.embed.weight", 1)) if "style.embed.weight" in tensors else 0
    z_dim = w_dim  # if the layer that tells is missing, which is found out later
    if "style.1.weight" in tensors:
        z_dim = length(("style.1.weight", 1)) - (w_dim if c_dim else 0)
    if z_dim < 1:
        raise ValueError("a generator without z (z_dim 0), which is not supported")
    base, most = _channels(widths)
    return {
        "resolution": 4 << blocks, "w_dim": w_dim, "z_dim": z_dim, "n_mlp": depth,
        "channel_base": base, "channel_max": most, "c_dim": c_dim,
    }  # fmt: skip


def _channels(widths: dict[int, int]) -> tuple[int, int]:
    """channel_base and channel_max of the widths by resolution."""
    most = max(widths.values())
    base = max(width * res for res, width in widths.items())
    if any(min(base // res, most) != width for res, width in widths.items()):
        said = ", ".join(f"{width} at {res}" for res, width in widths.items())
        raise ValueError(
            f"a generator with {said} channels, which is not min(base / resolution, maximum) for "
            "any base and maximum: such networks are not supported"
        )
    return base, most


def _matches(pattern: str, keys: Mapping[str, Any]) -> Iterator[re.Match[str]]:
    return (match for key in keys if (match := re.fullmatch(pattern, str(key))))


def kin(content: Any) -> str | None:
    """Name what a file without a generator holds that belongs to one; None if there is nothing."""
    if isinstance(content, PickledObject) and "_modules" in content.state:
        return f"a pickled {content.type}"
    if not isinstance(content, dict):
        return None
    inner = content.get("d", content.get("D", content))
    if isinstance(inner, PickledObject) and "Discriminator" in inner.type:
        return "a discriminator"
    if isinstance(inner, dict) and "final_linear.0.weight" in inner:
        return "a discriminator"
    if "synthesis.b4.const" in content:
        return (
            "the state dict of an NVIDIA generator without its settings (clamp, float16, filter), "
            "which are in the .pkl it was taken from"
        )
    return None
