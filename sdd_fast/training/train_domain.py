"""One command trains a whole domain, part by part, each resumable and usable on its own.

    clip ──► generator (StyleGAN2 + encoder + mapping) ──► latents
      └────► unet ◄── vae                 classifier, identity: for measuring and regularizing

Every part reads what earlier parts wrote into the domain's folder, so a single part can be
retrained. Checkpoints live in `<out>/training` and may be deleted once the domain is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..files import read_json, save_tensors, write_json
from ..lock import locked
from ..models import Encoder
from ..models.clip import Clip, save_tokenizer
from ..progress import Listener
from ..quiet import quiet_loading
from . import classifier, clip, generator, unet, vae
from .data import CaptionedImages, ImageFolder, Source
from .part import PartTrainer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_LATENTS = 1024


def train_domain(
    out: str | Path,
    *,
    images: str | Path | None = None,
    resolution: int = 64,
    source_text: str | None = None,
    parts: Sequence[str] | None = None,
    budget: float = 1.0,
    device: str = "cpu",
    progress: bool | Listener = True,
) -> Path:
    """Train a domain from rendered faces, or from a folder of captioned images.

    Args:
        out: the domain's folder; an interrupted training resumes in it.
        images: folder with images and `metadata.jsonl`; None: rendered faces.
        resolution: 32, 64 or 128 pixels.
        source_text: what the images show before an edit; needed with `images`.
        parts: which of `PARTS` to train now; others are taken from `out`. Default: all. Parts that
            need labels (classifier, quality) are left out for a folder of images.
        budget: factor on the number of steps of every part.
        progress: True: show it; False: do not; or a function that gets every `Progress`.

    Returns:
        `out`, which `load_domain` opens once every part is there.

    Raises:
        ValueError: an unknown part, resolution or budget, or unusable images.
        FileNotFoundError: a part that is needed has not been trained yet.
        BlockingIOError: another process trains in `out`.
        KeyboardInterrupt, FloatingPointError: see `training_loop.train`.
    """
    out, chosen = Path(out), PARTS if parts is None else parts
    _check(chosen, resolution, budget)
    source: Source
    if images is None:
        from ..domains.faces64.training_data import SOURCE_TEXT, RenderedFaces

        source = RenderedFaces(source_text or SOURCE_TEXT, progress)
    elif not (source_text or "").strip():
        raise ValueError(
            "source_text is needed with images: a few words that are true of all the images, "
            'such as "a photo of a cat"'
        )
    else:
        source = ImageFolder(Path(images), str(source_text), progress)
    work = out / "training"
    with locked(out):
        work.mkdir(parents=True, exist_ok=True)
        data = source.images(work, resolution, budget)
        _same_images(work / "pictures.json", data)
        trainer = PartTrainer(work, device, budget, progress)
        job = _Job(out, source, data, trainer)
        for name, part in _PARTS.items():
            if name in chosen and (source.labeled or not part.needs_labels):
                if name == "quality":
                    _write_domain(job)  # which is measured
                part.train(job)
        if not missing_parts(out, labeled=False):
            _write_domain(job)
    return out


@dataclass(frozen=True)
class _Job:
    out: Path
    source: Source
    data: CaptionedImages
    trainer: PartTrainer


def _check(parts: Sequence[str], resolution: int, budget: float) -> None:
    unknown = [p for p in parts if p not in PARTS]
    if unknown or not parts:
        raise ValueError(f"unknown parts {unknown}; choose from {', '.join(PARTS)}")
    if resolution not in (32, 64, 128):
        raise ValueError(f"resolution must be 32, 64 or 128, got {resolution}")
    if not 0 < budget <= 100:
        raise ValueError(f"budget is a factor on the training steps in (0, 100], got {budget}")


def _same_images(record: Path, data: CaptionedImages) -> None:
    """Parts trained on other images would fit together without a word, and look it."""
    these = {"resolution": data.resolution, "digest": data.digest()}
    if record.exists() and read_json(record) != these:
        raise ValueError(
            f"{record.parent} was trained on other images, captions or at another resolution; "
            "train in another folder, or delete that one"
        )
    write_json(record, these)


# ── one function a part: train, then write the finished network into the domain's folder ──────────


def _clip(job: _Job) -> None:
    trained = clip.train_clip(job.data, job.trainer)
    trained.to("cpu").text.half()
    trained.save(job.out / "clip")


def _vae(job: _Job) -> None:
    _save_half(vae.train_vae(job.data, job.trainer), job.out / "diffusion" / "vae")


def _classifier(job: _Job) -> None:
    trained = classifier.train_classifier(job.data, job.trainer)
    trained.save(job.out / "classifier.safetensors", dtype=torch.float16)


def _identity(job: _Job) -> None:
    trained = classifier.train_identity(job.data, job.source, job.trainer)
    trained.save(job.out / "identity.safetensors", dtype=torch.float16)


def _generator(job: _Job) -> None:
    synthesis, encoder = generator.train_generator(job.data, _load_clip(job.out), job.trainer)
    synthesis.save(job.out / "generator.safetensors", dtype=torch.float16)
    encoder.save(job.out / "encoder.safetensors", dtype=torch.float16)


def _unet(job: _Job) -> None:
    judge, autoencoder = _load_clip(job.out), _load_vae(job.out).to(job.trainer.device)
    trained, text = unet.train_unet(job.data, autoencoder, judge, job.out / "clip", job.trainer)
    folder = job.out / "diffusion"
    _save_half(trained, folder / "unet")
    _save_half(text, folder / "text_encoder")
    save_tokenizer(judge.tokenizer, folder / "tokenizer")
    unet.new_scheduler().save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", _MODEL_INDEX)


def _latents(job: _Job) -> None:
    """Encode images to distill with, and others to measure on."""
    device = job.trainer.device
    encoder = Encoder.load(job.out / "encoder.safetensors").to(device).eval()
    train, held, held_out = job.source.split(job.data, job.trainer.folder)
    with torch.no_grad():
        coded = {
            key: torch.cat([encoder(data.images(i, device)).half().cpu() for i in index.split(64)])
            for key, data, index in (
                ("train", job.data, train[:_LATENTS]),
                ("held_out", held, held_out),
            )
        }
    save_tensors(job.out / "latents.safetensors", coded, {"space": "w_plus"})


def _quality(job: _Job) -> None:
    job.source.measure(job.out, job.trainer.device, job.trainer.record())


@dataclass(frozen=True)
class _Part:
    """How a part is trained, and the file that it leaves last."""

    train: Callable[[_Job], None]
    leaves: str
    needs_labels: bool = False


_PARTS = {
    "clip": _Part(_clip, "clip/image.safetensors"),
    "vae": _Part(_vae, "diffusion/vae/config.json"),
    "classifier": _Part(_classifier, "classifier.safetensors", needs_labels=True),
    "identity": _Part(_identity, "identity.safetensors"),
    "generator": _Part(_generator, "encoder.safetensors"),
    "unet": _Part(_unet, "diffusion/model_index.json"),
    "latents": _Part(_latents, "latents.safetensors"),
    "quality": _Part(_quality, "quality.json", needs_labels=True),
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
    out = job.out
    spec: dict[str, Any] = {
        **job.source.domain(out, job.data.resolution),
        "resolution": job.data.resolution,
        "generator": "generator.safetensors",
        "encoder": "encoder.safetensors",
        "diffusion": "diffusion",
        "latents": "latents.safetensors",
        "clip": "clip",
        "identity": "identity.safetensors",
    }
    if (out / "classifier.safetensors").exists():
        spec["classifier"] = "classifier.safetensors"
    write_json(out / "domain.json", spec)


def _load_clip(out: Path) -> Clip:
    if not (out / "clip" / "image.safetensors").exists():
        raise FileNotFoundError(f"{out / 'clip'} does not exist: train the clip part first")
    return Clip.load(out / "clip")


def _load_vae(out: Path) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    folder = out / "diffusion" / "vae"
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} does not exist: train the vae part first")
    loaded = AutoencoderKL.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)
    return loaded.float().eval()


def _save_half(network: Any, folder: Path) -> None:
    """Write a diffusers or transformers network with float16 weights, and says so nowhere else.

    The config must not pin a dtype: whoever loads the network chooses.
    """
    with quiet_loading():
        network.to("cpu").half().save_pretrained(folder)
    path = folder / "config.json"
    config = read_json(path)
    for key in ("dtype", "torch_dtype", "_name_or_path"):
        config.pop(key, None)
    write_json(path, config)
