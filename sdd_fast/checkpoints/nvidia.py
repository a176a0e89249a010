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

from .filters import resampling_taps
from .formats.read import PickledObject

_BLOCK = r"synthesis\.b(4|8|16|32|64|128|256|512|1024)"
_LAYER = _BLOCK + r"\.(conv[01]|torgb)"
_PARTS = {  # path of a module → class it must have
    r"": "Generator",
    r"mapping": "MappingNetwork",
    r"mapping\.(fc\d+|embed)": "FullyConnectedLayer",
    r"synthesis": "SynthesisNetwork",
    _BLOCK: "SynthesisBlock",
    _BLOCK + r"\.conv[01]": "SynthesisLayer",
    _BLOCK + r"\.torgb": "ToRGBLayer",
    _LAYER + r"\.affine": "FullyConnectedLayer",
}
_MISSING = object()


def generator_in(content: Any) -> PickledObject | None:
    """The generator of a pickle's content, the averaged one first; None if there is none."""
    networks = [content.get("G_ema"), content.get("G")] if isinstance(content, dict) else [content]
    for network in networks:
        if isinstance(network, PickledObject) and "Discriminator" not in network.type:
            if "_modules" in network.state:
                return network
    return None


def read_generator(network: PickledObject) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings (arguments of `StyleGAN2`) and tensors, under our names, of a pickled generator.

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
        f"{path or 'the network'} is a {module.type}, not one of the known parts"
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
        raise ValueError(
            "an NVIDIA generator that cannot be reproduced:\n  " + "\n  ".join(problems)
        )
    tensors, filters = _renamed(modules)
    for path in settings.noiseless:
        conv, index = _layer(path)
        tensors[f"{conv}.noise.weight"] = torch.zeros(1)
        side = int(path.split(".")[1][1:])
        tensors[f"noises.noise_{index}"] = torch.zeros(1, 1, side, side)
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
                raise ValueError(f"{below} is a {type(child).__name__}, not a network")
            yield from _modules(child, below)


def _section(module: PickledObject, name: str, path: str) -> dict[str, Any]:
    section = module.state.get(name)
    if not isinstance(section, dict):
        raise ValueError(f"{path or 'the network'}, a {module.type}, is not a whole torch module")
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
        self._expect("", "img_channels", 3)
        halves: dict[int, bool] = {}
        clamps: dict[str, Any] = {}
        for path in self.modules:
            part = path.rpartition(".")[2]
            if re.fullmatch(r"b\d+", part):
                self._expect(path, "architecture", "skip")
                halves[int(part[1:])] = self._flag(path, "use_fp16")
            elif part in ("conv0", "conv1"):
                self._expect(path, "activation", "lrelu")
                self._expect(path, "up", 2 if part == "conv0" else 1)
                self._expect(path, "act_gain", math.sqrt(2))
                clamps[path] = self._get(path, "conv_clamp")
                if not self._flag(path, "use_noise"):
                    self.noiseless.append(path)
            elif part == "torgb":
                inputs = _shape(self.modules[path], "weight", 1)
                self._expect(path, "weight_gain", 1 / math.sqrt(inputs))
                clamps[path] = self._get(path, "conv_clamp")
            elif part == "affine" or part == "embed":
                self._read_linear(path, "linear", 1.0)
            elif part.startswith("fc"):
                if part == "fc0":
                    inputs = _shape(self.modules[path], "weight", 1)
                    gain = self._number(path, "weight_gain")
                    self.lr_multiplier = float(f"{gain * math.sqrt(inputs):.6g}")
                self._read_linear(path, "lrelu", self.lr_multiplier)
        self._read_clamps(clamps)
        order = [halves[res] for res in sorted(halves)]
        self.halves = sum(order)
        if order != sorted(order) or (order and order[0]):
            self.problems.append(
                f"float16 blocks are {[res for res in sorted(halves) if halves[res]]}, which are "
                "not the highest resolutions above 4"
            )

    def _read_linear(self, path: str, activation: str, lr_multiplier: float) -> None:
        inputs = _shape(self.modules[path], "weight", 1)
        self._expect(path, "activation", activation)
        self._expect(path, "weight_gain", lr_multiplier / math.sqrt(inputs))
        self._expect(path, "bias_gain", lr_multiplier)

    def _read_clamps(self, clamps: dict[str, Any]) -> None:
        different = {str(clamp) for clamp in clamps.values() if clamp is not _MISSING}
        if len(different) > 1:
            self.problems.append(f"conv_clamp is not the same everywhere: {sorted(different)}")
        elif different and different != {"None"}:
            path = next(iter(clamps))
            clamp = self._number(path, "conv_clamp")
            self.clamp = int(clamp) if clamp == int(clamp) else clamp

    def _get(self, path: str, name: str) -> Any:
        value = self.modules[path].state.get(name, _MISSING)
        if value is _MISSING:
            self.problems.append(f"{path or 'the network'} has no attribute {name}")
        return value

    def _flag(self, path: str, name: str) -> bool:
        value = self._get(path, name)
        if value is not _MISSING and not isinstance(value, bool):
            self.problems.append(f"{path}: {name} is {value!r}, not True or False")
        return value is True

    def _number(self, path: str, name: str) -> float:
        value = self._get(path, name)
        if isinstance(value, (int, float)) and abs(value) < 1e30:
            return float(value)
        if value is not _MISSING:
            self.problems.append(f"{path}: {name} is {value!r}, not a finite number")
        return 1.0

    def _expect(self, path: str, name: str, wanted: str | float) -> None:
        if isinstance(wanted, str):
            value = self._get(path, name)
            fine = value is _MISSING or value == wanted
        else:
            before = len(self.problems)
            value = self._number(path, name)
            fine = len(self.problems) > before or math.isclose(value, wanted, rel_tol=1e-5)
        if not fine:
            self.problems.append(
                f"{path or 'the network'}: {name} is {value!r}, only {wanted!r} is supported"
            )


def _shape(module: PickledObject, name: str, dimension: int) -> int:
    value = _section(module, "_parameters", module.type).get(name)
    if not isinstance(value, Tensor) or value.ndim <= dimension or not value.shape[dimension]:
        raise ValueError(f"an NVIDIA generator with a {module.type} that has no {name}")
    return value.shape[dimension]


def _layer(path: str) -> tuple[str, int]:
    """Our name of synthesis.b{r}.{conv0, conv1, torgb}, and the index of its noise map."""
    _, block, part = path.split(".")[:3]
    j = int(math.log2(int(block[1:]))) - 3
    if part == "torgb":
        return ("to_rgb1" if j < 0 else f"to_rgbs.{j}"), -1
    if j < 0:
        return "conv1", 0
    return f"convs.{2 * j + int(part[4])}", 2 * j + 1 + int(part[4])


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
                raise ValueError(f"{full} is a {type(value).__name__}, not a tensor")
            if name == "resample_filter":
                filters[full] = value
            else:
                key, value = _rename(path, str(name), value)
                tensors[key] = value
    return tensors, filters


def _rename(path: str, name: str, value: Tensor) -> tuple[str, Tensor]:
    full = f"{path}.{name}"
    if full == "mapping.w_avg":
        return "latent_avg", value
    if full == "synthesis.b4.const":
        return "input.input", value[None]
    if path == "mapping.embed":
        return f"style.embed.{name}", value
    if path.startswith("mapping.fc"):
        return f"style.{int(path[10:]) + 1}.{name}", value
    if path.endswith(".affine"):
        return f"{_layer(path)[0]}.conv.modulation.{name}", value
    if re.fullmatch(_LAYER, path):
        ours, index = _layer(path)
        if name == "weight":
            return f"{ours}.conv.weight", value[None]
        if name == "bias" and index < 0:
            return f"{ours}.bias", value.reshape(1, -1, 1, 1)
        if name == "bias":
            return f"{ours}.activate.bias", value
        if name == "noise_strength" and index >= 0:
            return f"{ours}.noise.weight", value[None]
        if name == "noise_const" and index >= 0:
            return f"noises.noise_{index}", value[None, None]
    return full, value
