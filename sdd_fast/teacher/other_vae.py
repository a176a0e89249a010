"""A VAE that takes the place of a teacher's own, as people do for better images."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .. import draws
from ..checkpoints import ldm
from ..checkpoints.formats.read import read_checkpoint
from ..checkpoints.inspect import summarize
from ..checkpoints.stable_diffusion import build_vae, tensors_of
from ..files import expanded
from ..quiet import quiet_loading
from .configs import check_scaling
from .folder import CONFIG, load_network
from .weights import build_network, choose, plain_name

_FARTHEST = 0.5
"""Of latents of the same family, whose VAEs differ by some training, from one another."""


def load_vae(given: str | Path, like: Any) -> Any:
    """Load the VAE that takes the place of the teacher's own, `like`, in its dtype.

    Args:
        given: a folder of diffusers (of the VAE, or of a whole pipeline), or a `.safetensors` or
            `.ckpt` file, whose names may begin with "first_stage_model.".

    Raises:
        FileNotFoundError: there is no such file or folder, or it lacks files.
        ValueError: it holds something else, does not fit, or is the VAE of another family.
    """
    path = expanded(given)
    if not path.exists():
        raise FileNotFoundError(f"the VAE {path} does not exist; expected a file or a folder")
    weights = choose([path.name], "vae", None)
    with quiet_loading():
        if path.is_dir():
            made = _vae_folder(path, like)
        elif weights and (path.parent / CONFIG).exists():
            made = _vae_folder(path.parent, like, weights)
        else:
            made = _vae_file(path, like)
    ours, theirs = made.config.scaling_factor, like.config.scaling_factor
    for factor in (ours, theirs):
        check_scaling(factor)
    if not math.isclose(ours, theirs, rel_tol=1e-3):
        raise ValueError(
            f"the VAE {path} has a scaling_factor of {ours:g}, the teacher's own {theirs:g}: it is "
            "of another family (SD 1.x and 2.x share theirs, SDXL has its own)"
        )
    apart = _apart(made, like)
    if not apart < _FARTHEST:
        warnings.warn(
            f"the VAE {path} makes other latents than the teacher's own, which the U-Net was "
            f"trained on: those of a test image differ by {100 * apart:.0f} %. Guidance is wrong, "
            "unless the teacher was made for this VAE; SD 1.x and 2.x share theirs, SDXL has its "
            "own",
            stacklevel=5,  # the caller of DiffusionPrior.from_pretrained
        )
    return made


@torch.no_grad()
def _apart(vae: Any, like: Any) -> float:
    """The distance of two VAEs' latents of a test image, relative to those of `like`.

    Files tell neither the family nor the scaling factor. A VAE that was trained further for better
    images keeps its latents, so that the U-Net still knows them.
    """
    colors = torch.rand(1, 3, 8, 8, generator=draws.generator(0)) * 2 - 1
    image = F.interpolate(colors, scale_factor=16, mode="bicubic").clamp(-1, 1)
    latents = []
    for one in (vae, like):
        dtype = one.dtype
        wide = torch.promote_types(dtype, torch.float32)  # SDXL's exceeds the range of float16
        nn.Module.to(one, wide)  # diffusers' own warns of any cast
        latents.append(one.encode(image.to(one.device, one.dtype)).latent_dist.mode().cpu())
        nn.Module.to(one, dtype)
    z, expected = (latent.double() for latent in latents)
    return float((z - expected).norm() / expected.norm()) if z.shape == expected.shape else math.inf


def _vae_folder(folder: Path, like: Any, weights: list[str] | None = None) -> Any:
    if weights is None and (folder / "vae").is_dir():
        folder = folder / "vae"
    weights = weights or choose([path.name for path in folder.glob("*")], "vae", None)
    if weights is None or not (folder / CONFIG).exists():
        raise FileNotFoundError(f"{folder} is no VAE: expected {CONFIG} and {plain_name('vae')}")
    usual = {"scaling_factor": like.config.scaling_factor}
    try:
        return load_network("vae", folder, weights, like.dtype, usual)
    except ValueError as error:
        raise ValueError(f"the VAE {folder}: {error}") from error


def _vae_file(path: Path, like: Any) -> Any:
    checkpoint = read_checkpoint(path)
    tensors, config = tensors_of(checkpoint), dict(like.config)
    if family := ldm.family(tensors):  # of a whole model
        config["scaling_factor"] = ldm.SCALING_FACTOR[family]
    if any(key.startswith("encoder.down_blocks.") for key in tensors):
        try:
            return build_network("vae", config, tensors, like.dtype)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if not any(key.endswith("encoder.down.0.block.0.conv1.weight") for key in tensors):
        raise ValueError(f"{path} is {summarize(checkpoint)}; expected a VAE")
    return build_vae(path, tensors, config, like.dtype)
