"""One command trains a whole domain, part by part, each resumable and usable on its own.

    clip ──► generator (StyleGAN2 + encoder + mapping) ──► latents
      └────► unet ◄── vae                 classifier, identity: for measuring and regularising

Every part reads what earlier parts wrote into the domain's folder, so a single part can be
retrained. Checkpoints live in ``<out>/training`` and may be deleted once the domain is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.domains import load_domain
from sdd_fast.domains.faces64.captions import SOURCE_TEXT
from sdd_fast.domains.faces64.edits import EDITS, PULL
from sdd_fast.files import read_json, save_tensors, write_json
from sdd_fast.models import Encoder
from sdd_fast.models.clip import Clip, save_tokenizer
from sdd_fast.quiet import quiet_loading

from ..training_loop import Schedule
from . import card, classifier, clip, evaluate, generator, unet, vae
from .data import Pictures, captioned_folder, rendered_faces

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

PARTS = ("clip", "vae", "classifier", "identity", "generator", "unet", "latents", "quality")
TRAIN_FACES, TRAIN_SEED = 40_000, 1
HELD_OUT_SEED = 2
_LATENTS, _HELD_OUT = 1024, 256


def train_domain(
    out: str | Path,
    *,
    images: str | Path | None = None,
    resolution: int = 64,
    source_text: str | None = None,
    parts: Sequence[str] = PARTS,
    budget: float = 1.0,
    device: str = "cpu",
) -> Path:
    """Trains a domain from rendered faces, or from a folder of captioned pictures.

    Args:
        out: the domain's folder; an interrupted training resumes in it.
        images: folder with pictures and ``metadata.jsonl``; None: rendered faces.
        resolution: 32, 64 or 128 pixels.
        source_text: what the pictures show before an edit; needed with ``images``.
        parts: which of ``PARTS`` to train now; others are taken from ``out``. Parts that need
            labels (classifier, quality) are left out for a folder of pictures.
        budget: factor on the number of steps of every part.

    Returns:
        ``out``, which ``load_domain`` opens once every part is there.

    Raises:
        ValueError: an unknown part, resolution or budget, or unusable pictures.
        FileNotFoundError: a part that is needed has not been trained yet.
    """
    out = Path(out)
    unknown = [p for p in parts if p not in PARTS]
    if unknown or not parts:
        raise ValueError(f"unknown parts {unknown}; choose from {', '.join(PARTS)}")
    if resolution not in (32, 64, 128):
        raise ValueError(f"resolution must be 32, 64 or 128, got {resolution}")
    if not 0 < budget <= 100:
        raise ValueError(f"budget is a factor on the training steps in (0, 100], got {budget}")
    if images is not None and not (source_text or "").strip():
        raise ValueError(
            "source_text is needed with images: a few words that are true of all the pictures, "
            'such as "a photo of a cat"'
        )
    work = out / "training"
    work.mkdir(parents=True, exist_ok=True)
    if images is None:
        count = max(256, round(TRAIN_FACES * min(1.0, budget)))
        pictures = rendered_faces(work, count, resolution, TRAIN_SEED)
        name = f"faces{resolution}"
    else:
        pictures = captioned_folder(Path(images), resolution)
        name = out.name
    _same_pictures(work / "pictures.json", pictures)

    def steps(schedule: Schedule) -> Schedule:
        return replace(schedule, steps=max(1, round(schedule.steps * budget)))

    for part in PARTS:
        if part in parts and (pictures.labels or part not in _NEEDS_LABELS):
            if part == "quality":
                _write_domain(out, name, resolution, source_text or SOURCE_TEXT, images is None)
            _TRAIN[part](pictures, out, device, steps)
    if all((out / file).exists() for file in _FILES.values()):
        _write_domain(out, name, resolution, source_text or SOURCE_TEXT, images is None)
    return out


def _same_pictures(record: Path, pictures: Pictures) -> None:
    """Parts trained on other pictures would fit together without a word, and look it."""
    these = {"resolution": pictures.resolution, "digest": pictures.digest()}
    if record.exists() and read_json(record) != these:
        raise ValueError(
            f"{record.parent} was trained on other pictures, captions or at another resolution; "
            "train in another folder, or delete that one"
        )
    write_json(record, these)


# ── one function a part: train, then write the finished network into the domain's folder ──────────

_Steps = Callable[[Schedule], Schedule]


def _clip(pictures: Pictures, out: Path, device: str, steps: _Steps) -> None:
    work = out / "training"
    trained = clip.train_clip(pictures, work, device=device, schedule=steps(clip.SCHEDULE))
    trained.to("cpu").text.half()
    trained.save(out / "clip")


def _vae(pictures: Pictures, out: Path, device: str, steps: _Steps) -> None:
    trained = vae.train_vae(pictures, out / "training", device=device, schedule=steps(vae.SCHEDULE))
    _save_half(trained, out / "diffusion" / "vae")


def _classifier(pictures: Pictures, out: Path, device: str, steps: _Steps) -> None:
    schedule = steps(classifier.CLASSIFIER)
    trained = classifier.train_classifier(
        pictures, out / "training", device=device, schedule=schedule
    )
    trained.save(out / "classifier.safetensors", dtype=torch.float16)


def _identity(pictures: Pictures, out: Path, device: str, steps: _Steps) -> None:
    schedule = steps(classifier.IDENTITY)
    trained = classifier.train_identity(
        pictures, out / "training", device=device, schedule=schedule
    )
    trained.save(out / "identity.safetensors", dtype=torch.float16)


def _generator(pictures: Pictures, out: Path, device: str, steps: _Steps) -> None:
    synthesis, encoder = generator.train_generator(
        pictures,
        _load_clip(out),
        out / "training",
        device=device,
        half=steps(generator.HALF),
        full=steps(generator.FULL),
        mapping=steps(generator.MAPPING),
    )
    synthesis.save(out / "generator.safetensors", dtype=torch.float16)
    encoder.save(out / "encoder.safetensors", dtype=torch.float16)


def _unet(pictures: Pictures, out: Path, device: str, steps: _Steps) -> None:
    judge = _load_clip(out)
    trained, text = unet.train_unet(
        pictures,
        _load_vae(out).to(device),
        judge,
        out / "clip",
        out / "training",
        device=device,
        schedule=steps(unet.SCHEDULE),
    )
    folder = out / "diffusion"
    _save_half(trained, folder / "unet")
    _save_half(text, folder / "text_encoder")
    save_tokenizer(judge.tokenizer, folder / "tokenizer")
    unet.new_scheduler().save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", _MODEL_INDEX)


def _latents(pictures: Pictures, out: Path, device: str, steps: _Steps) -> None:
    """Encoded pictures to distil with, and others, from the end of the folder, to measure on."""
    encoder = Encoder.load(out / "encoder.safetensors").to(device).eval()
    if pictures.texts is None:
        held = rendered_faces(out / "training", _HELD_OUT, pictures.resolution, HELD_OUT_SEED)
        train, held_out = torch.arange(min(_LATENTS, len(pictures))), torch.arange(len(held))
    else:
        held, cut = pictures, max(1, len(pictures) - min(_HELD_OUT, len(pictures) // 5))
        train, held_out = torch.arange(min(_LATENTS, cut)), torch.arange(cut, len(pictures))
    with torch.no_grad():
        coded = {
            key: torch.cat(
                [encoder(source.images(i, device)).half().cpu() for i in index.split(64)]
            )
            for key, source, index in (("train", pictures, train), ("held_out", held, held_out))
        }
    save_tensors(out / "latents.safetensors", coded, {"space": "w_plus"})


def _quality(pictures: Pictures, out: Path, device: str, steps: _Steps) -> None:
    """Measures everything on held-out faces: quality.json and MODEL_CARD.md."""
    domain = load_domain(out, device=device)
    config = DistillConfig()
    report = {
        "training": card.training_record(out / "training"),
        "parts": evaluate.measure_parts(domain),
        "samples": evaluate.measure_samples(domain),
        "edit_config": asdict(config),
        "edits": evaluate.measure_edits(domain, config),
    }
    write_json(out / "quality.json", report)
    card.write_card(out)


_NEEDS_LABELS = ("classifier", "quality")

_TRAIN: dict[str, Callable[[Pictures, Path, str, _Steps], None]] = {
    "clip": _clip,
    "vae": _vae,
    "classifier": _classifier,
    "identity": _identity,
    "generator": _generator,
    "unet": _unet,
    "latents": _latents,
    "quality": _quality,
}

_FILES = {
    "generator": "generator.safetensors",
    "encoder": "encoder.safetensors",
    "diffusion": "diffusion/model_index.json",
    "vae": "diffusion/vae/config.json",
    "latents": "latents.safetensors",
    "clip": "clip/image.safetensors",
    "identity": "identity.safetensors",
}

_LEFT_BY = {
    "clip": "clip/image.safetensors",
    "vae": "diffusion/vae/config.json",
    "classifier": "classifier.safetensors",
    "identity": "identity.safetensors",
    "generator": "generator.safetensors",
    "unet": "diffusion/model_index.json",
    "latents": "latents.safetensors",
    "quality": "quality.json",
}


def missing_parts(out: Path, *, rendered: bool) -> list[str]:
    """The parts that have left no file in ``out`` yet; without ``rendered``, of those that a
    folder of pictures trains."""
    wanted = (part for part in PARTS if rendered or part not in _NEEDS_LABELS)
    return [part for part in wanted if not (out / _LEFT_BY[part]).exists()]


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


def _write_domain(out: Path, name: str, resolution: int, source_text: str, faces: bool) -> None:
    spec: dict[str, Any] = {
        "name": name,
        "resolution": resolution,
        "source_text": source_text,
        "generator": "generator.safetensors",
        "encoder": "encoder.safetensors",
        "diffusion": "diffusion",
        "latents": "latents.safetensors",
        "clip": "clip",
        "identity": "identity.safetensors",
        "prompts": list(EDITS) if faces else [],
        "pull": PULL if faces else {},
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
    """Writes a diffusers or transformers network with float16 weights, and says so nowhere else.

    The config must not pin a dtype: whoever loads the network chooses.
    """
    with quiet_loading():
        network.to("cpu").half().save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key in ("dtype", "torch_dtype", "_name_or_path"):
        config.pop(key, None)
    write_json(path, config)
