"""Baselines with a U-Net of their own, which was trained beforehand and lies in a folder."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..files import PathLike, read_json, settled, write_json
from ..quiet import quiet_loading
from ..training.train_domain import save_half
from .teacher_baseline import TeacherBaseline

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from ..domains import Domain
    from ..teacher.prior import DiffusionPrior

ABOUT, NETWORK = "baseline.json", "unet"
"""What a folder of `train_baseline` holds: what the network is for, and the network."""


@dataclass(frozen=True)
class TrainedFolder:
    """A finished training of a baseline.

    Args:
        about: what it tells of itself. digest: of the network's file.
    """

    path: Path
    about: Mapping[str, Any]
    digest: str

    @classmethod
    def of(cls, path: PathLike, key: str, domain: str) -> TrainedFolder:
        """Look at a folder of `train_baseline`.

        Raises:
            FileNotFoundError: there is no finished training.
            ValueError: it is of another baseline or domain.
        """
        folder = settled(path)
        about = _read_about(folder, key, domain)
        digest = hashlib.blake2b(digest_size=8)
        for file in sorted(folder.rglob("*.safetensors")):
            if "training" not in file.relative_to(folder).parts:
                digest.update(file.read_bytes())
        return cls(folder, about, digest.hexdigest())


class TrainedBaseline(TeacherBaseline):
    """An editor whose U-Net began as the domain's teacher, with the VAE and texts of that.

    Args:
        path: folder that `train_baseline` wrote.

    Raises:
        FileNotFoundError: there is no finished training.
        ValueError: it is of another baseline or domain, or the teacher is of SDXL.
    """

    key: ClassVar[str]
    """In `TRAINED`."""

    def __init__(self, domain: Domain, path: PathLike, *, batch_size: int | None = None) -> None:
        super().__init__(domain, batch_size=batch_size)
        check_family(self.prior, self.name)
        folder = settled(path)
        self.path = str(path)
        self.about = _read_about(folder, self.key, domain.name)
        self.unet = _load(folder / NETWORK, self.prior)

    def output(self, x: Tensor, t: int, text: Tensor) -> Tensor:
        """Call the U-Net: x [R, C, h, w], text [R, S, D] → [R, 4, h, w] in float32."""
        self.prior.unet_calls += 1
        self.prior.unet_rows += len(x)
        dtype = self.prior.dtype
        found = self.unet(x.to(dtype), t, encoder_hidden_states=text.to(dtype)).sample
        return found.to(self.prior.compute_dtype)


def copy_for_training(prior: DiffusionPrior) -> UNet2DConditionModel:
    """Return a copy of the teacher's U-Net in float32 that can be trained."""
    made: UNet2DConditionModel = copy.deepcopy(prior.unet).float().requires_grad_(True)
    return made


def save_trained(
    folder: Path, key: str, domain: Domain, unet: UNet2DConditionModel, **about: Any
) -> None:
    """Write a trained U-Net in float16, and then what it is for."""
    save_half(unet, folder / NETWORK)
    write_json(folder / ABOUT, {"baseline": key, "domain": domain.name, **about})


def check_family(prior: DiffusionPrior, name: str) -> None:
    """Raise ValueError, naming a baseline, if the teacher is of SDXL."""
    if prior.text_encoder_2 is not None:
        raise ValueError(f"{name} is for teachers of SD 1.x and 2.x, not of SDXL")


def _read_about(folder: Path, key: str, domain: str) -> dict[str, Any]:
    train = (
        f"train it with sdd_fast.baselines.train.train_baseline({key!r}, domain, {str(folder)!r})"
    )
    if not (folder / ABOUT).exists():
        raise FileNotFoundError(f"{folder} holds no {ABOUT}: {train}")
    about = read_json(folder / ABOUT)
    told = about if isinstance(about, dict) else {}
    if told.get("baseline") != key or told.get("domain") != domain:
        raise ValueError(
            f"{folder / ABOUT} is of {told.get('baseline')!r} in the domain "
            f"{told.get('domain')!r}, not of {key!r} in {domain!r}: {train}, in another folder"
        )
    return told


def _load(folder: Path, prior: DiffusionPrior) -> Any:
    from diffusers import UNet2DConditionModel

    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} holds no U-Net of diffusers; train it again")
    with quiet_loading():
        unet = UNet2DConditionModel.from_pretrained(
            folder, local_files_only=True, torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
    nn.Module.to(unet, prior.device, prior.dtype)  # diffusers' own warns of any cast
    return unet.requires_grad_(False).eval()
