"""Train the baselines that need it, each into a folder; resumable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..domains.embedded import kind_of, source_of
from ..files import PathLike, read_json, settled
from ..lock import locked
from ..outputs import check_free
from ..progress import Listener
from ..shield import shielded
from ..training.data import CaptionedImages, ImageFolder
from ..training.part import PartTrainer
from .diffae import ENCODER, train_diffae
from .few_step import train_few_step
from .instruct_pix2pix import train_instruct_pix2pix
from .trained import ABOUT, check_family, save_trained

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from ..domains import Domain
    from ..models import ConvEmbedding

_GUIDANCE = 7.5  # of the teacher, trained into the student


@shielded()
def train_baseline(
    name: str,
    domain: Domain,
    out: PathLike,
    *,
    images: PathLike | None = None,
    budget: float = 1.0,
    progress: bool | Listener = True,
) -> Path:
    """Train a baseline in a domain; the same call goes on after an interruption.

    Args:
        name: "few-step", "instruct-pix2pix" or "diffae".
        out: folder for the network, which `load_baseline(name, domain, path=out)` takes, and for
            what the training needs to go on, in `training`, which may be deleted in the end.
        images: folder of captioned images that the teacher knows, as for `train_domain`; of the
            files of Fashion-MNIST in a domain like `fashion32`, None: where Debian has them. A
            domain of rendered faces and "instruct-pix2pix" take none.
        budget: factor on the steps, in (0, 100].

    Returns:
        `out`.

    Raises:
        ValueError: an unknown name or budget, a teacher of SDXL, a training of other settings in
            the folder, unusable images, or a domain that cannot have what is needed.
        FileExistsError: the folder holds another baseline.
        KeyboardInterrupt, FloatingPointError: see `training_loop.train`.
    """
    if name not in TRAININGS:
        raise ValueError(f"{name!r} is not trained; these are: {', '.join(TRAININGS)}")
    if not 0 < budget <= 100:
        raise ValueError(f"budget is a factor on the training steps in (0, 100], got {budget}")
    check_family(domain.prior, repr(name))
    folder = settled(out)
    with locked(folder):
        _check_folder(folder, name, domain)
        work = folder / "training"
        work.mkdir(parents=True, exist_ok=True)
        trainer = PartTrainer(work, domain.device, budget, progress)
        made = TRAININGS[name](domain, trainer, images)
        if made.encoder is not None:
            made.encoder.save(folder / ENCODER)
        save_trained(folder, name, domain, made.unet, **made.about, training=trainer.record()[name])
    return folder


def trainable_in(domain: Domain) -> list[str]:
    """Return the names of those that a domain can have: pairs of images are drawn, or there are
    none."""
    return [name for name in TRAININGS if name != "instruct-pix2pix" or _pairs(domain)]


class _Made(NamedTuple):
    unet: UNet2DConditionModel
    about: dict[str, Any]
    encoder: ConvEmbedding | None = None


def _few_step(domain: Domain, trainer: PartTrainer, images: PathLike | None) -> _Made:
    data = _data(domain, trainer, images)
    return _Made(train_few_step(domain, data, trainer, _GUIDANCE), {"guidance_scale": _GUIDANCE})


def _diffae(domain: Domain, trainer: PartTrainer, images: PathLike | None) -> _Made:
    unet, encoder = train_diffae(domain, _data(domain, trainer, images), trainer)
    return _Made(unet, {}, encoder)


def _instruct_pix2pix(domain: Domain, trainer: PartTrainer, images: PathLike | None) -> _Made:
    pairs = _pairs(domain)
    if pairs is None or images is not None:
        raise ValueError(
            "instruct-pix2pix needs images before and after an edit, which only domains of "
            f"rendered images draw; {domain.name} "
            + ("takes no folder for it" if pairs else "is none")
        )
    return _Made(train_instruct_pix2pix(domain, pairs, trainer), {})


def _data(domain: Domain, trainer: PartTrainer, images: PathLike | None) -> CaptionedImages:
    folder, kind = None if images is None else settled(images), kind_of(domain.reader)
    if kind is not None:
        source = source_of(kind, folder, domain.source_text, trainer.progress)
    elif folder is not None:
        source = ImageFolder(folder, domain.source_text, trainer.progress)
    else:
        raise ValueError(
            "images is needed: a folder of captioned images such as the diffusion model of "
            f"{domain.name} knows"
        )
    return source.images(trainer.folder, domain.resolution, trainer.budget).train


def _pairs(domain: Domain) -> Any:
    return getattr(domain.reader, "edited_pairs", None)


def _check_folder(folder: Path, name: str, domain: Domain) -> None:
    """Refuse to replace a network that is not of this training."""
    path = folder / ABOUT
    told = read_json(path) if path.exists() else {}
    mine = isinstance(told, dict) and (told.get("baseline"), told.get("domain")) == (
        name, domain.name,
    )  # fmt: skip
    check_free([path], mine, "choose another folder")


TRAININGS: dict[str, Callable[[Domain, PartTrainer, PathLike | None], _Made]] = {
    "few-step": _few_step,
    "instruct-pix2pix": _instruct_pix2pix,
    "diffae": _diffae,
}
"""Baseline → how it is trained."""
