"""From whatever names a teacher to its parts: on the device, in the dtype, ready to be frozen."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..device import check_device
from ..files import expanded
from ..models.save import check_finite
from ..quiet import check_docstrings
from .attention import AUTO, check_attention, set_attention
from .folder import INDEX, load_components, parts_of
from .lora import fuse_loras
from .other_vae import load_vae
from .parts import Components, check_fit
from .precision import Dtype, check_dtype, choose_dtype, gate_results, memory_format
from .single_file import load_single_file


def load_parts(
    source: str | Path | Any,
    *,
    dtype: Dtype | None,
    device: str | torch.device | None,
    attention: str | None,
    vae: str | Path | None,
    lora: str | Path | Sequence[str | Path] | None,
    **given: Any,
) -> Components:
    """Load the parts of a teacher; see `DiffusionPrior.from_pretrained`.

    Args:
        given: variant and tokenizer; None stands for one that was not given.
    """
    check_docstrings()
    is_pipeline = not isinstance(source, str | PathLike)
    device = None if device is None else check_device(device)
    if dtype is not None:
        place: Any = device or getattr(source, "device", "cpu")
        dtype = check_dtype(dtype, place)
    elif not is_pipeline:
        dtype = torch.float32
    if attention is not None:
        check_attention(attention)
    elif not is_pipeline:
        attention = AUTO
    loras: Any = lora if isinstance(lora, list | tuple) else [] if lora is None else [lora]
    read_in = dtype if isinstance(dtype, torch.dtype) else None
    if loras and read_in is not None:
        # What is rounded to half precision is the sum, not the weights that a LoRA is added to.
        read_in = torch.promote_types(read_in, torch.float32)
    parts = _load(source, read_in, {k: v for k, v in given.items() if v is not None})
    if vae is not None:
        parts = parts._replace(vae=load_vae(vae, parts.vae))
    fuse_loras(parts, loras)
    check_fit(parts)
    if device is not None:
        for network in parts.networks.values():
            network.to(device)
    if read_in != dtype and isinstance(dtype, torch.dtype):
        _cast(parts, dtype)
    fused = ", its LoRA fused into it," if lora else ""
    for name, network in parts.networks.items():
        check_finite(f"the {name} of the teacher{fused}", network.state_dict())
    if dtype == AUTO:
        _cast(parts, choose_dtype(parts, parts.unet.device))
    if dtype is not None:  # a pipeline without one stays as it was made
        for part in ("unet", "vae"):
            network = parts.networks[part]
            network.to(memory_format=memory_format(part, network.device, network.dtype))
    if attention is not None:
        _attend(parts, attention)
    return parts


def _cast(parts: Components, dtype: torch.dtype) -> None:
    for network in parts.networks.values():
        nn.Module.to(network, dtype)  # diffusers' own warns of any cast


def _attend(parts: Components, attention: str) -> None:
    """Give the attention layers their backends."""
    failed: list[str] = []
    if attention == AUTO and parts.unet.device.type != "cpu":
        results = gate_results(parts, parts.unet.device, parts.unet.dtype)
        failed = [name for name, failure in results.items() if failure]
    tokens = parts.text_encoder.config.max_position_embeddings
    set_attention(parts.networks, attention, tokens, without=failed)


def _load(source: Any, dtype: torch.dtype | None, given: dict[str, Any]) -> Components:
    """Load the parts of whatever `source` is; `given`: variant or tokenizer."""
    if not isinstance(source, str | PathLike):
        if given:
            raise ValueError(f"a pipeline has its parts already; give no {' and '.join(given)}")
        return parts_of(source, dtype)
    source = source if isinstance(source, str) else Path(source)
    path = expanded(source)
    if path.is_file() and path.name != INDEX:
        if "variant" in given:
            raise ValueError(f"{source} is a single file and has no variant {given['variant']!r}")
        return load_single_file(source, dtype=dtype or torch.float32, **given)
    if "tokenizer" in given:
        raise ValueError("tokenizer is for single files; a folder brings its own")
    return load_components(source, dtype=dtype or torch.float32, **given)
