"""NVIDIA's pickled StyleGAN2 generators: renaming their tensors and reading their settings.

Such a file holds modules, each with its tensors and, beside them, plain attributes that change the
image: clamp, float16 blocks, filter, activation. All of them are read; what this package cannot
reproduce is an error. Weights need no other change: what is flipped or incremented in conversions
of the older TensorFlow files already is here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..files import listed
from .filters import resampling_taps
from .formats.read import PickledObject

_BLOCK = r"synthesis\.b(4|8|16|32|64|128|256|512|1024)"
_CONV = r"(synthesis\.b4\.conv1|" + _BLOCK.replace("4|", "", 1) + r"\.conv[01])"
_RGB = _BLOCK + r"\.torgb"
_PARTS = {  # path of a module → class it must have
    r"": "Generator",
    r"mapping": "MappingNetwork",
    r"mapping\.(fc\d+|embed)": "FullyConnectedLayer",
    r"synthesis": "SynthesisNetwork",
    _BLOCK: "SynthesisBlock",
    _CONV: "SynthesisLayer",
    _RGB: "ToRGBLayer",
    rf"({_CONV}|{_RGB})\.affine": "FullyConnectedLayer",
}
_SETTINGS: dict[str, dict[str, str | float]] = {  # what `StyleGAN2` has in one way only
    r"": {"img_channels": 3},
    _BLOCK: {"architecture": "skip"},
    _BLOCK + r"\.conv0": {"activation": "lrelu", "up": 2, "act_gain": math.sqrt(2)},
    _BLOCK + r"\.conv1": {"activation": "lrelu", "up": 1, "act_gain": math.sqrt(2)},
    r".+\.(affine|embed)": {"activation": "linear"},
    r"mapping\.fc\d+": {"activation": "lrelu"},
}


def generator_in(content: Any) -> PickledObject | None:
    """Find the generator in a pickle's content, the averaged one first; None if there is none."""
    networks = [content.get("G_ema"), content.get("G")] if isinstance(content, dict) else [content]
    for network in networks:
        if isinstance(network, PickledObject) and "Discriminator" not in network.type:
            if "_modules" in network.state:
                return network
    return None


def read_generator(network: PickledObject) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the settings (arguments of `StyleGAN2`) and tensors, under our names, of a generator.

    Settings that the tensors' shapes tell are left out, and `latent_avg` may be missing.

    Raises:
        ValueError: the network does something that `StyleGAN2` cannot; everything is listed.
    """
    modules = dict(_modules(network))
    if any(re.fullmatch(r"synthesis\.(input|L\d+_\d+_\d+)", path) for path in modules):
        raise ValueError(
            "a StyleGAN3 generator (alias-free), which is another network than StyleGAN2; of that "
            "repository, its StyleGAN2 configurations are supported"
        )
    problems = [
        f"{path or 'the network'} is of class {module.type}, not one of the known parts"
        for path, module in modules.items()
        if not any(
            re.fullmatch(pattern, path) and module.type.rpartition(".")[2] == kind
            for pattern, kind in _PARTS.items()
        )
    ]
    settings = _Settings(modules)
    if not problems:
        settings.read()
        problems = settings.problems
    if problems:
        raise ValueError(f"an NVIDIA generator that cannot be reproduced:{listed(problems)}")
    tensors, filters = _renamed(modules)
    for path in settings.noiseless:
        tensors[f"{_LAYERS[path]}.noise.weight"] = torch.zeros(1)
        side = int(path.split(".")[1][1:])
        tensors[f"noises.noise_{_NOISES[path]}"] = torch.zeros(1, 1, side, side)
    config = {
        "lr_multiplier": settings.lr_multiplier,
        "conv_clamp": settings.clamp,
        "num_fp16_res": settings.halves,
        "resample_filter": resampling_taps(filters, total=1.0),
    }
    return config, tensors


def _modules(module: PickledObject, path: str = "") -> Iterator[tuple[str, PickledObject]]:
    yield path, module
    for name, child in _section(module, "_modules", path).items():
        if child is not None:
            below = f"{path}.{name}" if path else str(name)
            if not isinstance(child, PickledObject):
                raise ValueError(f"{below} is of type {type(child).__name__}, not a network")
            yield from _modules(child, below)


def _section(module: PickledObject, name: str, path: str) -> dict[str, Any]:
    section = module.state.get(name)
    if not isinstance(section, dict):
        raise ValueError(f"{path or 'the network'} ({module.type}) is not a whole torch module")
    return section


class _Settings:
    """The attributes of the modules that change the image, and what is wrong with them."""

    def __init__(self, modules: dict[str, PickledObject]) -> None:
        self.modules = modules
        self.problems: list[str] = []
        self.noiseless: list[str] = []
        self.clamp: float | None = None
        self.halves = 0
        self.lr_multiplier = 0.01

    def read(self) -> None:
        halves: dict[int, bool] = {}
        clamps: dict[str, Any] = {}
        for path in self.modules:
            for pattern, wanted in _SETTINGS.items():
                if re.fullmatch(pattern, path):
                    for name, value in wanted.items():
                        self._expect(path, name, value)
            part = path.rpartition(".")[2]
            if re.fullmatch(r"b\d+", part):
                halves[int(part[1:])] = self._get(path, "use_fp16", bool) is True
            elif part in ("torgb", "affine", "embed") or part.startswith("fc"):
                self._read_gains(path, part)
            elif part in ("conv0", "conv1") and not self._get(path, "use_noise", bool):
                self.noiseless.append(path)
            if re.fullmatch(f"{_CONV}|{_RGB}", path):
                clamps[path] = self._get(path, "conv_clamp")
        self._read_clamps(clamps)
        order = [halves[res] for res in sorted(halves)]
        self.halves = sum(order)
        if order != sorted(order) or (order and order[0]):
            self.problems.append(
                f"float16 blocks are {[res for res in sorted(halves) if halves[res]]}, which are "
                "not the highest resolutions above 4"
            )

    def _read_gains(self, path: str, part: str) -> None:
        """Equalized layers scale their weight by lr_multiplier / √inputs, as `EqualLinear` does."""
        root = math.sqrt(_shape(self.modules[path], "weight", 1))
        if part == "fc0":
            gain = self._get(path, "weight_gain", float)
            self.lr_multiplier = 1.0 if gain is None else float(f"{gain * root:.6g}")
        lr_multiplier = self.lr_multiplier if part.startswith("fc") else 1.0
        self._expect(path, "weight_gain", lr_multiplier / root)
        if part != "torgb":
            self._expect(path, "bias_gain", lr_multiplier)

    def _read_clamps(self, clamps: dict[str, Any]) -> None:
        different = {str(clamp) for clamp in clamps.values()}
        if len(different) > 1:
            self.problems.append(f"conv_clamp is not the same everywhere: {sorted(different)}")
        elif different and different != {"None"}:
            clamp = self._get(next(iter(clamps)), "conv_clamp", float)
            self.clamp = int(clamp) if clamp is not None and clamp == int(clamp) else clamp

    def _get(self, path: str, name: str, kind: type | None = None) -> Any:
        """An attribute of a module; None, and a problem, if it is missing or not of its kind."""
        place, state = path or "the network", self.modules[path].state
        if name not in state:
            self.problems.append(f"{place} has no attribute {name}")
            return None
        value = state[name]
        if kind is bool and not isinstance(value, bool):
            self.problems.append(f"{place}: {name} is {value!r:.80}, not True or False")
            return None
        if kind is float and not (isinstance(value, (int, float)) and abs(value) < 1e30):
            self.problems.append(f"{place}: {name} is {value!r:.80}, not a finite number")
            return None
        return float(value) if kind is float else value

    def _expect(self, path: str, name: str, wanted: str | float) -> None:
        if isinstance(wanted, str):
            value = self._get(path, name)
            fits = value is None or value == wanted
        else:
            value = self._get(path, name, float)
            fits = value is None or math.isclose(value, wanted, rel_tol=1e-5)
        if not fits:
            self.problems.append(
                f"{path or 'the network'}: {name} is {value!r:.80}, only {wanted!r} is supported"
            )


def _shape(module: PickledObject, name: str, dimension: int) -> int:
    value = _section(module, "_parameters", module.type).get(name)
    if not isinstance(value, Tensor) or value.ndim <= dimension or not value.shape[dimension]:
        raise ValueError(f"an NVIDIA generator whose part {module.type} has no {name}")
    return value.shape[dimension]


def _places() -> tuple[dict[str, str], dict[str, int]]:
    """Our names of the layers synthesis.b{r}.{conv0, conv1, torgb}, and their noise maps' index."""
    layers = {"synthesis.b4.conv1": "conv1", "synthesis.b4.torgb": "to_rgb1"}
    for j in range(8):
        block = f"synthesis.b{8 << j}"
        layers |= {f"{block}.conv{i}": f"convs.{2 * j + i}" for i in (0, 1)}
        layers[f"{block}.torgb"] = f"to_rgbs.{j}"
    convs = [path for path, ours in layers.items() if "rgb" not in ours]
    return layers, {path: index for index, path in enumerate(convs)}


_LAYERS, _NOISES = _places()


def _renamed(modules: dict[str, PickledObject]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors under our names and shapes, and the filters; unknown tensors keep their names."""
    tensors: dict[str, Tensor] = {}
    filters: dict[str, Tensor] = {}
    for path, module in modules.items():
        named = _section(module, "_parameters", path) | _section(module, "_buffers", path)
        for name, value in named.items():
            if value is None:
                continue
            full = f"{path}.{name}"
            if not isinstance(value, Tensor):
                raise ValueError(f"{full} is of type {type(value).__name__}, not a tensor")
            if name == "resample_filter":
                filters[full] = value
            else:
                key, value = _rename(path, str(name), value)
                tensors[key] = value
    return tensors, filters


def _rename(path: str, name: str, value: Tensor) -> tuple[str, Tensor]:
    full, ours = f"{path}.{name}", _LAYERS.get(path)
    if full == "mapping.w_avg":
        return "latent_avg", value
    if full == "synthesis.b4.const":
        return "input.input", value[None]
    if path == "mapping.embed":
        return f"style.embed.{name}", value
    if path.startswith("mapping.fc"):
        return f"style.{int(path[10:]) + 1}.{name}", value
    if path.endswith(".affine"):
        return f"{_LAYERS[path.removesuffix('.affine')]}.conv.modulation.{name}", value
    if ours and name == "weight":
        return f"{ours}.conv.weight", value[None]
    if ours and name == "bias":
        if path in _NOISES:
            return f"{ours}.activate.bias", value
        return f"{ours}.bias", value.reshape(1, -1, 1, 1)
    if ours and name == "noise_strength" and path in _NOISES:
        return f"{ours}.noise.weight", value[None]
    if ours and name == "noise_const" and path in _NOISES:
        return f"noises.noise_{_NOISES[path]}", value[None, None]
    return full, value
