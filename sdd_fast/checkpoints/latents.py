"""Latents: codes of images in W+, as W+ files of all programs hold them, and in S-space.

    W+      [N, layers, w_dim]     [N, 1, layers, w_dim]     [layers, w_dim], of one image
    w       [N, w_dim] or [N, 1, w_dim]: the same code for every layer
    styles  [N, 1, 512 · styles, 1, 1], every style padded with zeros to 512; or a list with one
            [N, 1, n, 1, 1] for each style

Bare, or as the one tensor of a dict: "latents", "latent", "w_plus" (ours) or "w"; of a domain's
file "train" is read. In .pt, .pth, .safetensors and .npy files.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files import PathLike
from .formats.read import Checkpoint

KIND = "w_plus latents"
"""What the metadata of our latents files call them, as "kind"."""

STYLE_WIDTH = 512
"""What every style of a padded tensor is padded to, whatever the resolution."""

NAMES = ("w_plus", "latents", "latent", "w", "train")
_W_PLUS_LAYERS = range(8, 19, 2)  # of generators of 32 × 32 … 1024 × 1024 pixels


def read_w_plus(checkpoint: Checkpoint, num_layers: int | None = None) -> Tensor | None:
    """Read W+ latents as `load_latents` returns them; None if there are no latents.

    Raises:
        ValueError: w or style latents, those of another generator, or NaN or infinity.
    """
    path, tensor = checkpoint.path, _find(checkpoint.content)
    if _style_list(checkpoint.content) or (tensor is not None and tensor.ndim == 5):
        raise ValueError(
            f"{path} holds style latents (S-space), not W+; read them by load_styles(path, "
            "generator.style_dims)"
        )
    if tensor is None:
        return None
    shape = list(tensor.shape)
    if not tensor.is_floating_point() or tensor.numel() == 0 or not 2 <= tensor.ndim <= 4:
        raise ValueError(
            f"{path} holds a tensor {shape} of {tensor.dtype}; expected latents [N, layers, w_dim] "
            "of floating point"
        )
    if tensor.ndim == 4 and shape[1] != 1:
        raise ValueError(f"{path} holds a tensor {shape}; expected [N, 1, layers, w_dim]")
    tensor = _flattened(tensor, [num_layers] if num_layers else _W_PLUS_LAYERS)
    if tensor.ndim == 2:
        if num_layers is None:
            raise ValueError(
                f"{path} holds w codes {list(tensor.shape)}, the same for all layers; give "
                "num_layers=generator.num_layers to broadcast them to W+"
            )
        tensor = tensor[:, None].expand(-1, num_layers, -1)
    if num_layers is not None and tensor.shape[1] != num_layers:
        raise ValueError(
            f"{path} holds W+ of {tensor.shape[1]} layers, the generator has {num_layers}: they "
            "belong to a generator of another resolution"
        )
    tensor = tensor.detach().float().contiguous()
    _check_finite(path, tensor)
    return tensor


def read_styles(checkpoint: Checkpoint, style_dims: list[int]) -> list[Tensor] | None:
    """Read S-space latents as `load_styles` returns them; None if there are none.

    Raises:
        ValueError: latents of another generator, padding that is not zero, or NaN or infinity.
    """
    path, tensor = checkpoint.path, _find(checkpoint.content)
    if listed := _style_list(checkpoint.content):
        styles = [style.detach().flatten(1).float() for style in listed]
        if [style.shape[1] for style in styles] != style_dims:
            raise ValueError(
                f"{path} holds styles of lengths {[style.shape[1] for style in styles]}, but the "
                f"generator's are {style_dims}"
            )
    elif tensor is None or tensor.ndim != 5 or tensor[:1].numel() != tensor.shape[2]:
        return None
    else:
        styles = _unpad(path, tensor.detach().flatten(1).float(), style_dims)
    for style in styles:
        _check_finite(path, style)
    return [style.contiguous() for style in styles]


def describe(checkpoint: Checkpoint) -> dict[str, str] | None:
    """Describe the latents in a file for `sdd info`; None if there are none."""
    facts = _facts(checkpoint)
    tensor = _find(checkpoint.content)
    found = _style_list(checkpoint.content) or ([] if tensor is None else [tensor])
    problems = [_not_finite(latents) for latents in found if facts]
    return {"latents": f"cannot be loaded: {max(problems)}"} if any(problems) else facts


def _facts(checkpoint: Checkpoint) -> dict[str, str] | None:
    listed = _style_list(checkpoint.content)
    if listed:
        return {"latents": f"{len(listed)} styles of {_images(len(listed[0]))}"}
    tensor = _find(checkpoint.content)
    if tensor is None or not tensor.is_floating_point() or tensor.numel() == 0:
        return None
    shape = list(tensor.shape)
    if len(shape) == 5 and shape[1] == shape[3] == shape[4] == 1 and shape[2] % STYLE_WIDTH == 0:
        count = shape[2] // STYLE_WIDTH
        return {"latents": f"{count} styles, padded to {STYLE_WIDTH}, of {_images(shape[0])}"}
    if not 2 <= len(shape) <= 4 or (len(shape) == 4 and shape[1] != 1):
        return None
    shape = list(_flattened(tensor, _W_PLUS_LAYERS).shape)
    named = checkpoint.content if isinstance(checkpoint.content, Mapping) else {}
    if len(shape) == 3 and shape[1] in _W_PLUS_LAYERS:
        text = f"W+ {shape[1]} × {shape[2]} of {_images(shape[0])}"
    elif len(shape) == 2 and named:  # a bare matrix may be anything
        text = f"w {shape[1]} of {_images(shape[0])}"
    else:
        return None
    rest = named.get("held_out")
    if isinstance(rest, Tensor) and rest.ndim:
        text += f", and {len(rest)} held out"
    return {"latents": text}


def _images(count: int) -> str:
    return f"{count} image" + ("s" if count != 1 else "")


def _find(content: Any) -> Tensor | None:
    if isinstance(content, Mapping):
        for name in NAMES:
            if isinstance(content.get(name), (Tensor, np.ndarray)):
                return _find(content[name])
        return None
    if isinstance(content, np.ndarray) and content.dtype.kind == "f" and content.itemsize <= 8:
        return torch.tensor(content.astype(content.dtype.newbyteorder("=")))
    return content if isinstance(content, Tensor) else None


def _style_list(content: Any) -> list[Tensor]:
    """The styles of a file with one tensor [N, 1, n, 1, 1] for each; [] if it is no such file."""
    if not isinstance(content, (list, tuple)) or len(content) < 2:
        return []
    for style in content:
        fits = isinstance(style, Tensor) and style.ndim == 5 and style.is_floating_point()
        if not fits or not style.numel() or style.numel() != len(content[0]) * style.shape[2]:
            return []
    return list(content)


def _flattened(tensor: Tensor, layers: Container[int]) -> Tensor:
    """[N, L, w_dim] of W+, or [N, w_dim] of w codes, without dimensions of size 1.

    Args:
        tensor: of 2 to 4 dimensions. layers: the L with which [L, w_dim] is the W+ of one image.
    """
    if tensor.ndim == 4:
        tensor = tensor[:, 0]
    if tensor.ndim == 2 and len(tensor) in layers:
        return tensor[None]
    return tensor.flatten(0, 1) if tensor.ndim == 3 and tensor.shape[1] == 1 else tensor


def _unpad(path: PathLike, padded: Tensor, dims: list[int]) -> list[Tensor]:
    count, rest = divmod(padded.shape[1], STYLE_WIDTH)
    if count != len(dims) or rest or max(dims) > STYLE_WIDTH:
        raise ValueError(
            f"{path} holds {padded.shape[1]} elements an image, but {len(dims)} styles of up to "
            f"{max(dims)}, padded to {STYLE_WIDTH} each, would be {STYLE_WIDTH * len(dims)}: they "
            "belong to another generator"
        )
    styles = []
    for i, dim in enumerate(dims):
        style = padded[:, STYLE_WIDTH * i : STYLE_WIDTH * (i + 1)]
        if style[:, dim:].any():
            raise ValueError(
                f"{path}: style {i} has {dim} channels in the generator, but elements other than 0 "
                "follow them: the latents belong to a wider generator"
            )
        styles.append(style[:, :dim])
    return styles


def _check_finite(path: PathLike, tensor: Tensor) -> None:
    if problem := _not_finite(tensor):
        raise ValueError(f"{path}: {problem}")


def _not_finite(tensor: Tensor) -> str:
    """What is wrong with latents that are NaN or infinite, "" for others."""
    wrong = int((~torch.isfinite(tensor.float())).flatten(1).any(1).sum())
    if not wrong:
        return ""
    return (
        f"the latents of {wrong} of {_images(len(tensor))} are NaN or infinite; leave them out or "
        "compute them again"
    )
