"""StyleGAN2 generators: this package's files, the PyTorch port's, BasicSR's and NVIDIA's.

    our safetensors          written by `StyleGAN2.save`
    the PyTorch port         {g_ema, latent_avg}; training checkpoints; a bare state dict;
                             `decoder.*` in the files of e4e, pSp and StyleCLIP
    BasicSR                  {params_ema, params}; `stylegan_decoder.*` in the files of GFPGAN
    NVIDIA                   .pkl of StyleGAN2-ADA, and of the StyleGAN3 repository's StyleGAN2

What these files lack is made up as the port itself does it. The port's first files have no noise
maps, which are random numbers that are never trained: they are drawn with a fixed seed. Most hold
no `latent_avg`: it is estimated from 10,000 z.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import draws
from ..models.stylegan2 import StyleGAN2
from .content import Found, Layout, State, below, find_own, states_in, strangers
from .filters import USUAL, resampling_taps
from .formats.read import Checkpoint, PickledObject, shown
from .nvidia import generator_in, read_generator

_MARKS = ("input.input", "conv1.conv.weight", "to_rgb1.conv.weight", "convs.0.conv.weight")
_KERNEL = re.compile(r"convs\.\d*[02468]\.conv\.blur\.kernel|to_rgbs\.\d+\.upsample\.kernel")
_MOST_BLOCKS = 8  # 1024 pixels

_NAMES: dict[str, tuple[tuple[str, str], ...]] = {  # of a layout → ours
    "the PyTorch port": (),
    "BasicSR": (
        (r"style_mlp\.(\d+\.\w+)", r"style.\1"),
        (r"constant_input\.weight", "input.input"),
        (r"style_conv(1|s\.\d+)\.weight", r"conv\1.noise.weight"),
        (r"style_conv(1|s\.\d+)\.activate\.bias", r"conv\1.activate.bias"),
        (r"style_conv(1|s\.\d+)\.modulated_conv\.(.+)", r"conv\1.conv.\2"),
        (r"to_rgb(1|s\.\d+)\.modulated_conv\.(.+)", r"to_rgb\1.conv.\2"),
        (r"noises\.noise(\d+)", r"noises.noise_\1"),
    ),
}
_PREFIXES = ("", "decoder.", "stylegan_decoder.")


def _find(checkpoint: Checkpoint, content_rows: tuple[int, int] | None = None) -> Found | None:
    try:
        found = find_own(checkpoint, StyleGAN2) or _foreign(checkpoint)
    except ValueError as error:
        place = str(checkpoint.path)
        raise ValueError(f"{place}: {str(error).removeprefix(place + ': ')}") from error
    if found is None or content_rows is None:
        return found
    return replace(found, config={**found.config, "content_rows": list(content_rows)})


def _foreign(checkpoint: Checkpoint) -> Found | None:
    source, content = str(checkpoint.path), checkpoint.content
    network = generator_in(content)
    if network is not None:
        config, tensors = read_generator(network)
        config |= _shapes_tell(tensors)
        for ours, theirs in (("resolution", "img_resolution"), ("w_dim",) * 2, ("z_dim",) * 2):
            stated = network.state.get(theirs)
            if not isinstance(stated, int) or stated != config[ours]:
                raise ValueError(
                    f"its {theirs} is {stated!r:.80}, but its tensors are those of "
                    f"{theirs} {config[ours]}"
                )
        beside = {k: v for k, v in content.items() if k != "G_ema"} if type(content) is dict else {}
        tensors |= strangers(State("G_ema", {}, beside), "")
        return _completed(source, "NVIDIA", config, tensors)
    for state in states_in(content):
        for prefix in _PREFIXES:
            for layout, names in _NAMES.items():
                tensors = {_renamed(key, names): t for key, t in below(state, prefix).items()}
                if sum(mark in tensors for mark in _MARKS) >= 2:
                    where = ", in a file with other networks" if prefix else ""
                    config, tensors = _port(state, prefix, tensors)
                    return _completed(source, layout + where, config, tensors)
    return None


def _renamed(key: str, names: tuple[tuple[str, str], ...]) -> str:
    for theirs, ours in names:
        if match := re.fullmatch(theirs, key):
            return match.expand(ours)
    return key


def _port(
    state: State, prefix: str, named: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments and tensors of a state dict of the PyTorch port, `named` as ours are."""
    others = [
        f"{shown(key)} is of type {type(value).__name__}"
        if isinstance(key, str)
        else f"{key!r:.80} is no name"
        for key, value in state.entries.items()
        if not prefix and not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if others:
        raise ValueError("a generator with entries that are no tensors: " + ", ".join(others[:5]))
    if "style_conv1.bias" in named:
        raise ValueError(
            "a generator of GFPGAN's 'clean' layout, which enlarges by bilinear interpolation and "
            "so makes other images than StyleGAN2, above all at the borders; use one of the "
            "original layout (GFPGANv1.pth), or BasicSR's own StyleGAN2"
        )
    filters = {key: value for key, value in named.items() if _KERNEL.fullmatch(key)}
    tensors = {key: value for key, value in named.items() if key not in filters}
    if state.beside.get("latent_avg") is not None:
        tensors["latent_avg"] = _one_average(state.beside["latent_avg"])
    config = _shapes_tell(tensors)
    config["resample_filter"] = resampling_taps(filters, total=4.0)
    return config, tensors | strangers(state, prefix)


def _completed(
    source: str, layout: str, config: dict[str, Any], tensors: dict[str, Tensor]
) -> Found:
    """Make up what files of that layout may lack."""
    told = {"layout": f"StyleGAN2 of {layout}"}
    if not any(key.startswith("noises.") for key in tensors):
        told["noise maps"] = "none in the file: drawn with a fixed seed"
        tensors |= _drawn_noises(config["resolution"])
    if "latent_avg" in tensors:
        return Found(source, StyleGAN2, config, tensors, told=told)
    told["mean of w"] = "not in the file: estimated"
    tensors["latent_avg"] = torch.zeros(1).expand(config["w_dim"])
    return Found(
        source, StyleGAN2, config, tensors, told=told,
        finish=lambda network: network.update_latent_avg(draws.generator(0)),
    )  # fmt: skip


def _facts(found: Found, network: StyleGAN2) -> dict[str, str]:
    config, side = network.config, network.resolution
    told = {"layout": "StyleGAN2 of this package", **found.told}
    facts = {
        "generator": f"{told['layout']}, {side} × {side}, W+ {network.num_layers} × "
        f"{network.w_dim}, "
        f"{config['n_mlp']} mapping layers, {config['channel_base']} / resolution channels "
        f"(at most {config['channel_max']})"
    }
    if config["c_dim"]:
        facts["classes"] = str(config["c_dim"])
    if config["conv_clamp"] is not None:
        facts["clamp"] = f"{config['conv_clamp']:g}"
    if config["num_fp16_res"]:
        facts["float16"] = f"the {config['num_fp16_res']} highest resolutions, on a GPU"
    if config["content_rows"]:
        facts["picture"] = "rows {} to {}".format(*config["content_rows"])
    if config["resample_filter"] != USUAL:
        facts["filter"] = ", ".join(f"{tap:g}" for tap in config["resample_filter"])
    return facts | {name: told[name] for name in ("noise maps", "mean of w") if name in told}


GENERATOR = Layout("generator", _find, _facts)


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
    colors = length(("to_rgb1.conv.weight", 1), ("to_rgbs.0.conv.weight", 1))
    if colors != 3:
        raise ValueError(f"a generator of images with {colors} channels; supported is RGB, with 3")
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
