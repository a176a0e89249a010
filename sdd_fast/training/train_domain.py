"""One command trains a whole domain, part by part, each resumable and usable on its own.

    clip ──► generator (StyleGAN2 + encoder + mapping) ──► latents
      └────► unet ◄── vae                 classifier, identity: for measuring and regularizing

Every part reads what earlier parts wrote into the domain's folder, so a single part can be
retrained. Checkpoints live in `<out>/training` and may be deleted once the domain is complete.

Some images are put aside before anything is trained: no part sees them, and edits are judged on
them. `held-out.json` names them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..device import check_device
from ..domains.embedded import source_of
from ..domains.quality import HELD_OUT_FILE
from ..files import read_json, save_tensors, settled, write_json
from ..lock import locked
from ..logs import logged
from ..models import Encoder
from ..models.clip import Clip, save_tokenizer
from ..progress import Listener
from ..quiet import quiet_loading
from ..shield import shielded
from . import classifier, clip, generator, unet, vae
from .card import write_card
from .data import ImageFolder, Source, Split
from .part import PartTrainer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

Say = Callable[[str], None]

_LATENTS = 1024
_DOMAIN, _RECORD = "domain.json", "pictures.json"


_log = logged(__name__)


@shielded()
def train_domain(
    out: str | Path,
    *,
    images: str | Path | None = None,
    like: str | None = None,
    resolution: int | None = None,
    source_text: str | None = None,
    caption_column: str | None = None,
    parts: Sequence[str] | None = None,
    budget: float = 1.0,
    device: str = "cpu",
    progress: bool | Listener = True,
    say: Say = _log,
) -> Path:
    """Train a domain from a folder of captioned images, or one like an embedded domain.

    A fifth of the images, at most 256, are held out: see `Domain.held_out_images`.

    Args:
        out: the domain's folder; an interrupted training resumes in it.
        images: folder of images with captions, see `training.captions`.
        like: an embedded domain, whose kind of images is trained on, with its labels: "faces64",
            the default without `images`, or "fashion32", for which `images` is a folder of the
            files of Fashion-MNIST, by default that of Debian's package.
        resolution: 32, 64 or 128 pixels; default: 64, of fashion32 always 32.
        source_text: what the images show before an edit; needed with `images`.
        caption_column: what holds the captions, if not "text" of a listing, or the only file beside
            an image.
        parts: which of `PARTS` to train now; others are taken from `out`. Default: all. Parts that
            need labels (classifier, quality) are left out for a folder of images; a generator
            brings its latents along.
        budget: factor on the number of steps of every part.
        progress: True: show it; False: do not; or a function that gets every `Progress`.
        say: gets a line for each thing begun.

    Returns:
        `out`, which `load_domain` opens once every part is there.

    Raises:
        ValueError: an unknown part, resolution, budget or device, unusable images or captions, or a
            folder that holds other files by the names that training writes.
        FileNotFoundError: no such folder or picture, or a part that is needed has not been trained.
        BlockingIOError: another process trains in `out`.
        KeyboardInterrupt, FloatingPointError: see `training_loop.train`.
    """
    out, device = settled(out), check_device(device)
    requested = PARTS if parts is None else parts
    _check(requested, budget)
    source = _source(images, like, source_text, caption_column, progress)
    resolution = source.resolutions[0] if resolution is None else resolution
    if resolution not in source.resolutions:
        *others, last = map(str, sorted(source.resolutions))
        offered = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"resolution must be {offered}, got {resolution}")
    chosen = [
        name
        for name, part in _PARTS.items()
        if (name in requested or (name == "latents" and "generator" in requested))
        and (source.labeled or not part.needs_labels)
    ]
    if not chosen:
        asked = ", ".join(requested)
        raise ValueError(
            f"parts that need labels ({asked}) cannot be trained on a folder of images"
        )
    work = out / "training"
    _check_folder(out, chosen)
    with locked(out):
        work.mkdir(parents=True, exist_ok=True)
        data = source.images(work, resolution, budget)
        _same_images(work / _RECORD, data)
        if names := data.held_out.names:
            told = {"images": list(names), "trained_on": len(data.train)}
            write_json(out / HELD_OUT_FILE, told)
        source.keep(out)
        say(
            f"training in {out}: on {len(data.train):,} pictures; {len(data.held_out):,} are held "
            "out, which no part sees"
        )
        job = _Job(out, source, data, PartTrainer(work, device, budget, progress))
        for name in chosen:
            say(f"training {name} …")
            if name == "quality":
                _write_domain(job)  # which is measured
            steps = budget * source.shares.get(name, 1.0)
            _PARTS[name].train(replace(job, trainer=replace(job.trainer, budget=steps)))
        if not missing_parts(out, labeled=False):
            _write_domain(job)
            if not source.labeled:  # others have a card of what was measured
                write_card(out, job.trainer.record(), len(data.train), len(data.held_out))
    return out


@dataclass(frozen=True)
class _Job:
    out: Path
    source: Source
    data: Split
    trainer: PartTrainer


def _source(
    images: str | Path | None,
    like: str | None,
    source_text: str | None,
    caption_column: str | None,
    progress: bool | Listener,
) -> Source:
    if like is not None or images is None:
        if caption_column is not None:
            raise ValueError(
                f"caption_column={caption_column!r} is for a folder of images with captions"
            )
        return source_of(like or "faces64", images, source_text, progress)
    if not (source_text or "").strip():
        raise ValueError(
            "source_text is needed with images: a few words that are true of all the images, "
            'such as "a photo of a cat"'
        )
    folder = ImageFolder(settled(images), str(source_text), progress, caption_column)
    folder.check()
    return folder


def _check(parts: Sequence[str], budget: float) -> None:
    unknown = [p for p in parts if p not in PARTS]
    if unknown or not parts:
        raise ValueError(f"unknown parts {unknown}; choose from {', '.join(PARTS)}")
    if not 0 < budget <= 100:
        raise ValueError(f"budget is a factor on the training steps in (0, 100], got {budget}")


def _check_folder(out: Path, chosen: Sequence[str]) -> None:
    """Refuse to replace what was not trained here, and to train what cannot be finished."""
    if not (out / "training" / _RECORD).exists():
        written = [file for name in chosen for file in _PARTS[name].writes]
        taken = [file for file in (*written, _DOMAIN) if (out / file).exists()]
        if taken:
            raise ValueError(
                f"{out} holds {', '.join(taken)}, but no training/{_RECORD}: these are files of "
                "something else, or of a finished domain, which training would replace; choose "
                "another folder, or move them away"
            )
    if (out / _DOMAIN).exists() and not isinstance(read_json(out / _DOMAIN), dict):
        raise ValueError(f"{out / _DOMAIN} holds no object; delete it, it is written again")
    for i, name in enumerate(chosen):
        for needed in _PARTS[name].needs:
            if needed not in chosen[:i] and not (out / _PARTS[needed].leaves).exists():
                raise FileNotFoundError(
                    f"{name} needs {needed}, which leaves {out / _PARTS[needed].leaves}: train the "
                    f"{needed} part first, or name it too"
                )


def _same_images(path: Path, data: Split) -> None:
    """Parts trained on other images would fit together without a word, and look it."""
    these = data.record()
    if path.exists() and read_json(path) != these:
        raise ValueError(
            f"{path.parent} was trained on other images, captions or at another resolution, or by "
            "an earlier version, which held out others; train in another folder, or delete that one"
        )
    write_json(path, these)


# ── one function a part: train, then write the finished network into the domain's folder ──────────


def _clip(job: _Job) -> None:
    trained = clip.train_clip(job.data.train, job.trainer)
    trained.to("cpu").text.half()
    trained.save(job.out / "clip")


def _vae(job: _Job) -> None:
    save_half(vae.train_vae(job.data.train, job.trainer), job.out / "diffusion" / "vae")


def _classifier(job: _Job) -> None:
    trained = classifier.train_classifier(job.data.train, job.trainer)
    trained.save(job.out / "classifier.safetensors", dtype=torch.float16)


def _identity(job: _Job) -> None:
    trained = classifier.train_identity(job.data.train, job.source, job.trainer)
    trained.save(job.out / "identity.safetensors", dtype=torch.float16)


def _generator(job: _Job) -> None:
    judge = Clip.load(job.out / "clip")
    synthesis, encoder = generator.train_generator(job.data.train, judge, job.trainer)
    synthesis.save(job.out / "generator.safetensors", dtype=torch.float16)
    encoder.save(job.out / "encoder.safetensors", dtype=torch.float16)


def _unet(job: _Job) -> None:
    folder = job.out / "diffusion"
    judge = Clip.load(job.out / "clip")
    autoencoder = _load_vae(folder / "vae").to(job.trainer.device)
    trained, text = unet.train_unet(
        job.data.train, autoencoder, judge, job.out / "clip", job.trainer
    )
    save_half(trained, folder / "unet")
    save_half(text, folder / "text_encoder")
    save_tokenizer(judge.tokenizer, folder / "tokenizer")
    unet.new_scheduler().save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", _MODEL_INDEX)


def _latents(job: _Job) -> None:
    """Encode images to distill with, and others to measure on."""
    device = job.trainer.device
    encoder = Encoder.load(job.out / "encoder.safetensors").to(device).eval()
    train, held_out = job.data.train, job.data.held_out
    with torch.no_grad():
        coded = {
            key: torch.cat([encoder(data.images(i, device)).half().cpu() for i in index.split(64)])
            for key, data, index in (
                ("train", train, torch.arange(min(len(train), _LATENTS))),
                ("held_out", held_out, torch.arange(len(held_out))),
            )
        }
    save_tensors(job.out / "latents.safetensors", coded, {"space": "w_plus"})


def _quality(job: _Job) -> None:
    job.source.measure(job.out, job.trainer.device, job.trainer.record())


@dataclass(frozen=True)
class _Part:
    """How a part is trained.

    Args:
        writes: files and folders, of which the last is complete when all are.
        needs: parts that have to be there.
    """

    train: Callable[[_Job], None]
    writes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    needs_labels: bool = False

    @property
    def leaves(self) -> str:
        return self.writes[-1]


_PARTS = {
    "clip": _Part(_clip, ("clip", "clip/image.safetensors")),
    "vae": _Part(_vae, ("diffusion/vae", "diffusion/vae/config.json")),
    "classifier": _Part(_classifier, ("classifier.safetensors",), needs_labels=True),
    "identity": _Part(_identity, ("identity.safetensors",)),
    "generator": _Part(_generator, ("generator.safetensors", "encoder.safetensors"), ("clip",)),
    "unet": _Part(_unet, ("diffusion/unet", "diffusion/model_index.json"), ("clip", "vae")),
    "latents": _Part(_latents, ("latents.safetensors",), ("generator",)),
    "quality": _Part(
        _quality,
        ("MODEL_CARD.md", "quality.json"),
        ("clip", "vae", "classifier", "identity", "generator", "unet", "latents"),
        needs_labels=True,
    ),
}
PARTS = tuple(_PARTS)


def missing_parts(out: Path, *, labeled: bool) -> list[str]:
    """Return the parts that have left no file in `out` yet; without `labeled`, of those that need
    no labels."""
    wanted = {name: part for name, part in _PARTS.items() if labeled or not part.needs_labels}
    return [name for name, part in wanted.items() if not (out / part.leaves).exists()]


_MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def _write_domain(job: _Job) -> None:
    """Write the domain file; what a person added to it stays."""
    out, path = job.out, job.out / _DOMAIN
    spec: dict[str, Any] = {
        **job.source.domain(out, job.data.train.resolution),
        "resolution": job.data.train.resolution,
        "generator": "generator.safetensors",
        "encoder": "encoder.safetensors",
        "diffusion": "diffusion",
        "latents": "latents.safetensors",
        "clip": "clip",
        "identity": "identity.safetensors",
    }
    if (out / "classifier.safetensors").exists():
        spec["classifier"] = "classifier.safetensors"
    added = read_json(path) if path.exists() else {}
    write_json(path, added | spec | {key: added[key] for key in ("prompts",) if key in added})


def _load_vae(folder: Path) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    loaded = AutoencoderKL.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)
    return loaded.float().eval()


def save_half(network: Any, folder: Path) -> None:
    """Write a diffusers or transformers network with float16 weights, and say so nowhere else.

    The config must not pin a dtype: whoever loads the network chooses.
    """
    whole = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(whole, ignore_errors=True)  # of a process that was killed here
    with quiet_loading():
        network.to("cpu").half().save_pretrained(whole)
    path = whole / "config.json"
    config = read_json(path)
    for key in ("dtype", "torch_dtype", "_name_or_path"):
        config.pop(key, None)
    write_json(path, config)
    shutil.rmtree(folder, ignore_errors=True)
    whole.rename(folder)
