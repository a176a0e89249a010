"""What diffusion teacher a folder or file holds, in words, told without loading its weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..files import PathLike, content_kind, read_json
from ..teacher.folder import PIPELINES, WEIGHTS, weight_variants
from ..teacher.parts import SUPPORTED, native_size
from . import stable_diffusion_layout as layout
from .formats.read import Checkpoint, read_checkpoint
from .stable_diffusion import (
    RESOLUTION,
    RESOLUTION_V,
    check_family,
    original_tensors,
    prediction_type,
)

PREDICTS = {"epsilon": "ε-prediction", "v_prediction": "v-prediction"}


def describe_teacher(source: PathLike | Checkpoint) -> dict[str, str] | None:
    """Facts for `sdd info`; None if `source` holds no diffusion teacher.

    Args:
        source: a folder or file, or what `read_checkpoint` gave. Of a folder only the JSON files
            are read, of a safetensors file only the header.

    Raises:
        ValueError: damaged JSON, or a file that is no checkpoint.
    """
    if isinstance(source, Checkpoint):
        return _describe_tensors(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _describe_folder(path) if (path / "model_index.json").exists() else None
    if content_kind(path) == "safetensors":
        return _describe_file(*_read_header(path))
    return _describe_tensors(read_checkpoint(path))


def _describe_folder(folder: Path) -> dict[str, str]:
    index = _read_config(folder / "model_index.json")
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES or index.get("requires_aesthetics_score"):
        what = "an SDXL refiner" if pipeline in PIPELINES else f"a {pipeline}"
        return {"teacher": f"{what}, which is not supported; supported: {SUPPORTED}"}
    unet, vae, scheduler = (
        _read_config(folder / name)
        for name in ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
    )
    if PIPELINES[pipeline]:
        family = "XL"
    else:
        family = "2.x" if unet.get("use_linear_projection") else "1.x"
    parts = [f"Stable Diffusion {family} architecture", "folder of diffusers"]
    if unet.get("sample_size") and vae.get("block_out_channels"):
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        parts.append(_size(native_size(unet["sample_size"]) * factor))
    predicts = scheduler.get("prediction_type", "epsilon")
    parts.append(PREDICTS.get(predicts, f"{predicts!r} prediction, which is not supported"))
    there = weight_variants(folder / "unet", WEIGHTS["unet"])
    variants = ", ".join(variant or "plain" for variant in there)
    return {"teacher": ", ".join(parts), "weights": variants or "no safetensors"}


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path) if path.exists() else {}
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return config


def _read_header(path: Path) -> tuple[Checkpoint, layout.Shapes]:
    try:
        with safe_open(str(path), framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except SafetensorError:
        read_checkpoint(path)  # explains what is wrong with the file
        raise
    return Checkpoint(path, "safetensors", {}, metadata), shapes


def _describe_tensors(checkpoint: Checkpoint) -> dict[str, str] | None:
    tensors = original_tensors(checkpoint)
    return _describe_file(checkpoint, {key: tuple(t.shape) for key, t in tensors.items()})


def _describe_file(checkpoint: Checkpoint, shapes: layout.Shapes) -> dict[str, str] | None:
    if layout.family(shapes) is None:
        return None
    try:
        family = check_family(checkpoint, shapes)
    except ValueError as error:
        return {"teacher": f"not supported: {error}"}
    parts = [f"Stable Diffusion {family}", "single file of the original layout"]
    predicts = prediction_type(shapes, checkpoint.metadata)
    if predicts is None and family == "2.x":
        parts.append(
            f"{RESOLUTION[family]} × {RESOLUTION[family]} with ε-prediction or "
            f"{RESOLUTION_V[family]} × {RESOLUTION_V[family]} with v-prediction (measured when it "
            "is loaded)"
        )
    else:
        size = (RESOLUTION_V if predicts == "v_prediction" else RESOLUTION)[family]
        parts += [_size(size), PREDICTS[predicts or "epsilon"]]
    count = sum(math.prod(s) for key, s in shapes.items() if key.startswith(layout.UNET))
    return {"teacher": ", ".join(parts), "U-Net": f"{count:,} parameters"}


def _size(side: int) -> str:
    return f"{side} × {side}"
