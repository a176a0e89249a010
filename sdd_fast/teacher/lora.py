"""LoRAs that people put beside a teacher, fused into its weights.

    W' = W + scale · α/r · B A        A [r, in, …] and B [out, r, …] of a LoRA; α = r if unsaid

LoRAs come in diffusers' layouts, by the names of its modules, and in kohya's, which joins them by
underscores and, for SDXL, names the U-Net's blocks as the original files do. They are not loaded by
diffusers: where attention layers differ in α it takes one α for all; what it does not find in the
model it leaves out with a warning; it rounds A and B to the dtype of the teacher, and needs peft.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.formats.read import Checkpoint, read_checkpoint
from ..checkpoints.inspect import summarize
from ..checkpoints.stable_diffusion import A_LORA, kin, tensors_of
from ..files import expanded, parse_json, read_json
from ..models.save import check_finite
from ..schema import Rule, is_number, is_object_of, problems
from .parts import Components

_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors",
          "pytorch_lora_weights.bin", "adapter_model.bin")  # fmt: skip
_FACTOR = re.compile(
    r"(?P<module>.+?)(?:[._]lora\.|\.lora_linear_layer\.|\.lora_)(?P<role>down|up|A|B)"
    r"(?:\.(?P<adapter>\w+))?\.weight"
)
_NETWORKS = {
    "lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2", "unet.": "unet", "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2", "base_model.model.": "unet",
}  # fmt: skip
# Layers of the original U-Net by their names in diffusers, joined by underscores.
_ORIGINAL = {
    "in_layers_2": "conv1", "emb_layers_1": "time_emb_proj", "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut", "input_blocks_0_0": "conv_in", "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1", "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1", "label_emb_0_2": "add_embedding_linear_2",
}  # fmt: skip


@dataclass
class _Layer:
    """What a LoRA says of one layer: A [r, in, …], B [out, r, …] and α."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None


def split_scale(given: str | Path) -> tuple[Path, float]:
    """Split "FILE:scale" or "FILE" into the path and the scale, 1 if there is none.

    Raises:
        FileNotFoundError: there is no such file or folder. ValueError: an infinite scale.
    """
    if not isinstance(given, str | PathLike):
        raise TypeError(f"a LoRA is given as a path or 'FILE:scale', got {given!r:.80}")
    path, scale = expanded(given), 1.0
    head, _, tail = str(given).rpartition(":")
    if not path.exists() and head:
        try:
            path, scale = expanded(head), float(tail)
        except ValueError:
            pass
    if not path.exists():
        raise FileNotFoundError(f"the LoRA {path} does not exist; expected FILE or FILE:scale")
    if not math.isfinite(scale):
        raise ValueError(f"the scale of a LoRA must be a finite number, got {given}")
    return path, scale


def fuse_loras(parts: Components, given: Sequence[str | Path]) -> None:
    """Add LoRAs to the weights of a pipeline's networks, in place, each weight rounded once.

    Args:
        given: `FILE` or `FILE:scale`; or the folder of one, as diffusers or peft writes it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no LoRA, one of a kind that is not supported (DoRA, LoHa, LoKr …) or of
            another model; nothing is changed then.
    """
    changes = defaultdict(list)
    for one in given:
        for weight, layer, factor in _changes(parts, *split_scale(one)):
            changes[weight].append((layer, factor))
    for weight, added in changes.items():
        _add(weight, added)


def _changes(parts: Components, path: Path, scale: float) -> Iterator[tuple[Tensor, _Layer, float]]:
    """Yield what one LoRA changes: a weight, B and A, and what their product is multiplied by."""
    path = _lora_in(path) if path.is_dir() else path
    checkpoint = read_checkpoint(path)
    layers = _layers(checkpoint)
    alphas = _Alphas(path, checkpoint.metadata)
    modules = {name: _by_joined_name(network) for name, network in parts.networks.items()}
    changes: dict[Tensor, tuple[_Layer, float]] = {}
    problems = []
    for (network, name), layer in layers.items():
        joined = _joined(network, name, parts.unet.config)
        module = modules.get(network, {}).get(joined)
        if module is None:
            problems.append(f"{network} has no layer {name}")
        elif not _fits(layer, module.weight):
            a, b = (list(t.shape) if t is not None else "none" for t in (layer.down, layer.up))
            problems.append(
                f"{network} {name}: A {a} and B {b} do not make {list(module.weight.shape)}"
            )
        elif module.weight in changes:
            raise _several(path, f"{name} and the same layer by another name")
        else:
            changes[module.weight] = layer, scale * alphas.over_rank(network, name, layer)
    if problems:
        shown = "\n  ".join(problems[:10] + ["…"] * (len(problems) > 10))
        raise ValueError(
            f"the LoRA {path} does not fit this teacher, {len(problems)} of its {len(layers)} "
            f"layers; it is of another model (SD 1.x, 2.x and XL differ):\n  {shown}"
        )
    return ((weight, *change) for weight, change in changes.items())


def _lora_in(folder: Path) -> Path:
    there = [folder / name for name in _FILES if (folder / name).exists()]
    there = there or sorted(folder.glob("*.safetensors"))
    if not there or (len(there) > 1 and there[0].name not in _FILES):
        raise FileNotFoundError(
            f"{folder} is no folder of one LoRA: expected {' or '.join(_FILES)} in it"
        )
    return there[0]


def _layers(checkpoint: Checkpoint) -> dict[tuple[str, str], _Layer]:
    """Sort the tensors of a file by (network, layer as it is named there)."""
    layers: dict[tuple[str, str], _Layer] = {}
    adapters, repeated, unknown = set(), False, []
    tensors = tensors_of(checkpoint)
    for key, tensor in tensors.items():
        found = _FACTOR.fullmatch(key)
        module = found["module"] if found else key.removesuffix(".alpha").removesuffix("_lora")
        is_alpha = key.endswith(".alpha") and tensor.numel() == 1
        is_factor = found is not None and tensor.is_floating_point()
        if tensor.is_complex() or not (is_alpha or is_factor):
            unknown.append(key)
            continue
        start = next((start for start in _NETWORKS if module.startswith(start)), "")
        name = module.removeprefix(start).replace(".processor.", ".")
        layer = layers.setdefault((_NETWORKS.get(start, "unet"), name), _Layer())
        if found is None:
            role = "alpha"
        else:
            role = "down" if found["role"] in ("down", "A") else "up"
            adapters.add(found["adapter"] or "one without a name")
        repeated |= getattr(layer, role) is not None
        setattr(layer, role, tensor if found else float(tensor))
    if kin(checkpoint) != A_LORA:
        raise ValueError(f"{checkpoint.path} is {summarize(checkpoint)}; expected a LoRA")
    if unknown:
        raise ValueError(
            f"{checkpoint.path} is a LoRA of a kind that is not supported (DoRA, LoHa, LoKr, one "
            f"with biases or quantized, say): {len(unknown)} tensors such as {unknown[0]} are "
            "neither A (down), B (up) nor alpha"
        )
    if repeated or len(adapters) > 1:
        names = sorted(adapters) if len(adapters) > 1 else ["some layers are there twice"]
        raise _several(checkpoint.path, ", ".join(names[:10]))
    check_finite(f"the LoRA {checkpoint.path}", tensors)
    return layers


def _several(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} holds several LoRAs ({what}), and which is meant is not known. Save each in a "
        "file of its own (in diffusers, pipe.delete_adapters the others, then "
        "pipe.save_lora_weights), and give those that are meant as --lora FILE:scale"
    )


def _are_patterns(value: Any) -> bool:
    """peft's are regular expressions, which may run forever: those that are names are all."""
    return is_object_of(is_number)(value) and all(
        re.fullmatch(r"\^?(\w|\\?\.)+\$?", pattern) for pattern in value
    )


def _means(pattern: str, name: str) -> bool:
    """Tell whether a pattern is the end of a layer's name, or after ^ the whole of it."""
    plain = pattern.replace("\\", "").removesuffix("$")
    return plain == f"^{name}" or f".{name}".endswith(f".{plain}")


_SWITCH = Rule(lambda value: isinstance(value, bool), "true or false")
_RULES = {
    "lora_alpha": Rule(is_number, "a finite number"),
    "alpha_pattern": Rule(
        _are_patterns,
        "an object of a number for each name of layers, or the end of one, such as attn1.to_q; "
        "other regular expressions are not run",
    ),
    "use_rslora": _SWITCH,
    "use_dora": _SWITCH,
    "lora_bias": _SWITCH,
}
"""What is read of peft's configuration of a LoRA."""


class _Alphas:
    """α/r of each layer: α stands beside the layer, in peft's metadata, or is r."""

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self.config: dict[str, Any] = {}
        beside = path.parent / "adapter_config.json"
        if "lora_adapter_metadata" in metadata:
            source, prefix = f"lora_adapter_metadata in {path}", ""
            try:
                told = parse_json(metadata["lora_adapter_metadata"])
            except ValueError as error:
                raise ValueError(f"{source} is not valid JSON: {error}") from error
        elif path.name.startswith("adapter_model") and beside.exists():
            source, prefix, told = str(beside), "unet.", read_json(beside)
        else:
            return
        keys = told if isinstance(told, dict) else ()
        rules = {key: _RULES[end] for key in keys if (end := key.rpartition(".")[2]) in _RULES}
        if found := problems(told, rules):
            raise ValueError(f"{source}: {'; '.join(found)}")
        self.config = {prefix + key: value for key, value in told.items() if value is not None}
        kinds = [k for k, v in self.config.items() if k.endswith((".use_dora", ".lora_bias")) and v]
        if kinds:
            raise ValueError(f"{path} is a LoRA with {kinds[0]}, which is not supported")

    def over_rank(self, network: str, name: str, layer: _Layer) -> float:
        assert layer.down is not None
        rank = len(layer.down)
        alpha = layer.alpha
        if alpha is None:
            alpha = self.config.get(f"{network}.lora_alpha", rank)
            for pattern, value in self.config.get(f"{network}.alpha_pattern", {}).items():
                if _means(pattern, name):
                    alpha = value
                    break  # as peft does
        return float(alpha) / (
            math.sqrt(rank) if self.config.get(f"{network}.use_rslora") else rank
        )


def _by_joined_name(network: nn.Module) -> dict[str, Any]:
    return {
        name.removeprefix("text_model.").replace(".", "_"): module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def _joined(network: str, name: str, unet: Mapping[str, Any]) -> str:
    """The name of a layer in diffusers and transformers, joined by underscores."""
    name = name.replace(".", "_")
    if network != "unet":
        return re.sub(r"self_attn_to_(q|k|v|out)$", r"self_attn_\1_proj",
                      name.removeprefix("text_model_"))  # fmt: skip
    name = re.sub(r"_to_out$", "_to_out_0", name)
    if name in _ORIGINAL:
        return _ORIGINAL[name]
    middle = re.fullmatch(r"middle_block_([012])_(.+)", name)
    if middle:
        slot = {"0": "resnets_0", "1": "attentions_0", "2": "resnets_1"}[middle[1]]
        return f"mid_block_{slot}_{_ORIGINAL.get(middle[2], middle[2])}"
    block = re.fullmatch(r"(input|output)_blocks_(\d+)_(\d)_(.+)", name)
    if not block:
        return name
    side, number, slot, inner = block[1], int(block[2]), block[3], block[4]
    per_level = int(unet["layers_per_block"]) + 1
    level, layer = divmod(number - (side == "input"), per_level)
    if inner == "op":
        return f"down_blocks_{level}_downsamplers_0_conv"
    if inner == "conv":
        return f"up_blocks_{level}_upsamplers_0_conv"
    kind = "resnets" if slot == "0" else "attentions"
    start = "down" if side == "input" else "up"
    return f"{start}_blocks_{level}_{kind}_{layer}_{_ORIGINAL.get(inner, inner)}"


def _fits(layer: _Layer, weight: Tensor) -> bool:
    a, b = layer.down, layer.up
    if a is None or b is None or a.ndim not in (2, 4) or b.ndim < 2 or 0 in a.shape:
        return False
    made = (len(b), *a.shape[1:], 1, 1)[:4]  # kohya's may have a kernel of 1 × 1 for a linear layer
    return b[0].numel() == b.shape[1] == len(a) and made == (*weight.shape, 1, 1)[:4]


@torch.no_grad()
def _add(weight: Tensor, added: Sequence[tuple[_Layer, float]]) -> None:
    """Add all factor · B A to `weight`, in float32 at least, rounded once."""
    kind = torch.promote_types(weight.dtype, torch.float32)
    total = weight.to(kind, copy=True)
    for layer, factor in added:
        assert layer.up is not None and layer.down is not None
        b, a = (t.to(weight.device, kind).flatten(1) for t in (layer.up, layer.down))
        total += factor * (b @ a).view_as(weight)
    weight.copy_(total)
