"""The weights of a network in a folder of diffusers: which files, and exactly these tensors.

A part has its weights in one file or in shards that an index lists, plain or of a variant such as
fp16, as safetensors or, in older folders, as pickles (`.bin`), of which only the tensors are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.formats.read import read_checkpoint
from ..checkpoints.stable_diffusion import Traced, assign, match
from ..files import listed, read_json
from ..models.save import outline
from .configs import defaults

CLASSES = {
    "vae": "AutoencoderKL",
    "unet": "UNet2DConditionModel",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}
# Of each container, in the order in which they are preferred: stem of diffusers' files, and of
# transformers'; suffix.
_CONTAINERS = {
    "safetensors": ("diffusion_pytorch_model", "model"),
    "bin": ("diffusion_pytorch_model", "pytorch_model"),
}
# The VAE's attention, as diffusers named it before 0.17.
_EARLIER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_ATTENTION = re.compile(r"(?<=mid_block\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)")


def plain_name(part: str) -> str:
    """The usual name of the weights of a part."""
    return f"{_CONTAINERS['safetensors'][part.startswith('text_encoder')]}.safetensors"


def variants(names: Iterable[str], part: str) -> dict[tuple[str, str], list[str]]:
    """List the weights among the files of a part.

    Returns:
        (container, variant) → file names, an index first; "" is the plain variant.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for container, stems in _CONTAINERS.items():
        stem = stems[part.startswith("text_encoder")]
        forms = (
            rf"{stem}\.{container}\.index(?:\.(\w+))?\.json",
            rf"{stem}(?:\.(\w+))?(?:-\d+-of-\d+)?\.{container}",
            rf"{stem}-\d+-of-\d+\.(\w+)\.{container}",
        )
        for form in forms:
            for name in sorted(names):
                if match := re.fullmatch(form, name):
                    found.setdefault((container, match[1] or ""), []).append(name)
    return found


def choose(names: Iterable[str], part: str, variant: str | None) -> list[str] | None:
    """Choose among the files of a part: the weights of `variant`, or the plain ones without it.

    None takes the plain ones, or the only variant there is. Returns None where nothing fits.
    """
    there = variants(names, part)
    for container in _CONTAINERS:
        kinds = [kind for found, kind in there if found == container]
        for kind in (variant or "", "") if variant or "" in kinds or len(kinds) != 1 else kinds:
            if kind in kinds:
                return there[container, kind]
    return None


def read_weights(folder: Path, names: list[str]) -> dict[str, Tensor]:
    """Read the tensors of the weight files `names`, as `choose` returns them.

    Raises:
        FileNotFoundError: a shard is missing. ValueError: a file is damaged, or refused.
    """
    tensors: dict[str, Tensor] = {}
    for name in shards(folder, names):
        content = read_checkpoint(folder / name).content
        if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
            raise ValueError(f"{folder / name} holds no tensors by name")
        tensors |= {key: value for key, value in content.items() if isinstance(value, Tensor)}
    return tensors


def shards(folder: Path, names: list[str]) -> list[str]:
    """Return the files with the tensors among `names`: those that an index lists, if there is one.

    They need not exist.
    """
    if not names[0].endswith(".json"):
        return names[:1]
    content = read_json(folder / names[0])
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not all(isinstance(s, str) for s in listed.values()):
        raise ValueError(f"{folder / names[0]} must name the file of each weight in weight_map")
    return sorted({Path(shard).name for shard in listed.values()})


def build_network(
    part: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> Any:
    """Build a network of its configuration and exactly these tensors, on the CPU, frozen.

    Raises:
        ValueError: tensors are missing, unexpected, of the wrong shape or not floating point; all
            are named.
    """
    if any(".base_layer." in key for key in tensors):
        raise ValueError(
            "it was saved while a LoRA was active in it. Before save_pretrained, fuse the LoRA "
            "(pipe.fuse_lora(), pipe.unload_lora_weights()), or unload it and give it beside the "
            "teacher (--lora FILE, in Python lora=)"
        )
    cls, arguments = _constructor(part, config)
    network = outline(cls, arguments, tensors)
    renamed = {
        _ATTENTION.sub(lambda m: _EARLIER[m[1]], key): Traced(value, key)
        for key, value in tensors.items()
        if not key.endswith("position_ids")
    }
    found, problems = match(network, renamed, part)
    if problems:
        raise ValueError("its weights do not fit its config:" + listed(problems))
    assign(network, found, dtype)
    return network.eval().requires_grad_(False)


def _constructor(part: str, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    import diffusers
    import transformers

    if part.startswith("text_encoder"):
        described = transformers.CLIPTextConfig(**config)
        return getattr(transformers, CLASSES[part]), {"config": described}
    cls: Any = getattr(diffusers, CLASSES[part])
    return cls, {key: value for key, value in config.items() if key in defaults(cls)}
