"""Photographs to W+ latents: a folder of pictures in, a latents file and a contact sheet out.

picture ──(find the face, turn and crop it)──► encoder ──► W+ ──(refine)──► latents file
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..checkpoints.latents import KIND
from ..edit import input_size
from ..files import PathLike, load_tensors, save_tensors
from ..images import list_images, load_image, save_png, to_pil
from ..interrupt import InterruptAfterStep
from .align import align_face
from .contact_sheet import contact_sheet
from .landmarks import Detector
from .refine import Refinement, content, refine, w_std

_UNFINISHED = "unfinished w_plus latents"
_SAVE_AFTER = 30.0  # seconds between two writes of what is done so far
SHOWN, WORST = 24, 8  # pictures on the contact sheet; how many of them the worst, if not all


@dataclass
class Inversion:
    """The latents of a folder of pictures.

    Args:
        path: the latents file: `w_plus`, and the rest of this as metadata.
        names: the file name of each latent's picture.
        psnr: of each, the generator's picture against the input in dB; `psnr_encoder`: before the
            refinement.
        skipped: {file name: a sentence that says why it has no latent}.
        notes: {file name: something to know about it, such as several faces in the picture}.
        sheet: the contact sheet.
    """

    path: Path
    w_plus: Tensor
    names: list[str] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    psnr_encoder: list[float] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def sheet(self) -> Path:
        return self.path.with_suffix(".png")

    @property
    def done(self) -> int:
        return len(self.names) + len(self.skipped)


def invert(
    folder: PathLike,
    encoder: nn.Module,
    generator: Any,
    out: PathLike,
    *,
    detector: Detector | None = None,
    refinement: Refinement | None = None,
    identity: nn.Module | None = None,
    domain: str = "",
    batch_size: int = 8,
    resume: bool = True,
    progress: bool = True,
) -> Inversion:
    """Find the latent of every picture in a folder.

    Args:
        folder: its pictures are taken, sorted by name; broken ones are skipped.
        encoder: pictures → W+, with `input_size` (height, width) or `resolution`.
        generator: a `StyleGAN2`, on the same device.
        out: the latents file to write, *.safetensors; the contact sheet goes beside it, as *.png.
        detector: finds the faces of raw photographs, which are then cropped as in FFHQ (see
            `landmarks.YuNet`). None: the pictures are already cropped the way the encoder expects;
            they are centre-cropped to its shape.
        refinement: gradient steps after the encoder; None: none.
        identity: a network that tells persons apart, for the refinement.
        domain: the name of the domain, for the file's metadata.
        batch_size: pictures at once.
        resume: go on where an interrupted call with the same pictures and settings stopped, to the
            same result bit for bit (with another batch size: up to rounding). What is finished is
            only read. False starts over.
        progress: show a bar on a terminal.

    Raises:
        ValueError: no pictures or none that can be used; `out` holds something else, or latents of
            other pictures or settings.
        KeyboardInterrupt: Ctrl-C, after the batch is finished and saved.
        FloatingPointError: the encoder or the refinement gave NaN or infinity.
    """
    files, target = list_images(folder), Path(out)
    if target.suffix.lower() != ".safetensors":
        raise ValueError(f"latents are written to a .safetensors file, got {target.name!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    job = _Job(encoder, generator, detector, refinement or Refinement(), identity)
    settings = _describe(files, job)
    state = _restore(target, settings, resume, job.empty())
    if state.done < len(files):
        _run(job, files, state, settings, batch_size, progress)
        if not state.names:
            _partial(target).unlink(missing_ok=True)
            raise ValueError(
                f"none of the {len(files)} pictures in {folder} could be used:\n  "
                + "\n  ".join(list(state.skipped.values())[:10])
            )
        state.sheet.unlink(missing_ok=True)
        _write(target, state, settings, KIND, domain=domain)
        _partial(target).unlink(missing_ok=True)
    if not state.sheet.exists():
        by_name = {path.name: path for path in files}
        save_png(state.sheet, _sheet(job, state, by_name, batch_size))
    return state


class _Job:
    """The networks, and what a picture goes through before them."""

    def __init__(
        self,
        encoder: nn.Module,
        generator: Any,
        detector: Detector | None,
        refinement: Refinement,
        identity: nn.Module | None,
    ) -> None:
        self.encoder, self.generator = encoder.eval(), generator.eval()
        self.detector, self.refinement = detector, refinement
        self.identity = identity if refinement.steps and refinement.identity > 0 else None
        self.device = next(generator.parameters()).device
        height, width = self.input_size = input_size(encoder)
        # Of the generator's images, the part in the middle that has the encoder's shape.
        tall, wide = generator.image_size
        scale = min(tall / height, wide / width)
        self.target_size = (round(height * scale), round(width * scale))

    def empty(self) -> Tensor:
        return torch.zeros(0, self.generator.num_layers, self.generator.w_dim)

    def load(self, path: Path) -> tuple[Tensor, str]:
        """A picture [3, H, W], cropped to the face if there is a detector; and a note, or ""."""
        picture = load_image(path)
        if self.detector is None:
            return picture, ""
        photograph = to_pil(picture)
        faces = self.detector(photograph)
        if not faces:
            raise ValueError(f"{path.name}: no face was found in it")
        size = max(*self.input_size, *self.target_size)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                face = align_face(photograph, faces[0], size)
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from error
        notes = [str(warning.message) for warning in caught]
        if len(faces) > 1:
            notes.insert(0, f"{len(faces)} faces in the picture, the largest was taken")
        return load_image(face), "; ".join(notes)

    def tensors(self, pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Pictures of any size → those for the encoder, and those to compare with."""
        inputs = torch.stack([load_image(picture, self.input_size) for picture in pictures])
        targets = torch.stack([load_image(picture, self.target_size) for picture in pictures])
        return inputs.to(self.device), targets.to(self.device)

    @torch.no_grad()
    def encode(self, inputs: Tensor) -> Tensor:
        w_plus: Tensor = self.encoder(inputs).float()
        if not bool(torch.isfinite(w_plus).all()):
            raise FloatingPointError("the encoder's latents hold NaN or infinity")
        return w_plus

    @torch.no_grad()
    def generate(self, w_plus: Tensor) -> Tensor:
        images: Tensor = self.generator.synthesis(w_plus.to(self.device)).float().clamp(-1, 1)
        return content(images, self.target_size)

    def psnr(self, w_plus: Tensor, targets: Tensor) -> list[float]:
        """In dB, of pictures whose values span 2."""
        error = (self.generate(w_plus) - targets).square().mean((1, 2, 3)).clamp(min=1e-10)
        return [round(value, 4) for value in (10 * torch.log10(4 / error)).tolist()]


def _run(
    job: _Job,
    files: list[Path],
    state: Inversion,
    settings: dict[str, Any],
    batch_size: int,
    progress: bool,
) -> None:
    """Invert the files from `state.done` on, adding to `state`."""
    from tqdm import tqdm

    steps = 1 + job.refinement.steps  # of the bar, for each picture
    std = w_std(job.generator) if job.refinement.steps else None
    latents = [state.w_plus]
    saved, cost = time.monotonic(), 0.0
    bar = tqdm(
        total=len(files) * steps,
        initial=state.done * steps,
        desc="inverting",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        disable=None if progress else True,
    )
    with bar, InterruptAfterStep() as interrupt:
        while state.done < len(files):
            chunk = files[state.done : state.done + batch_size]
            names, pictures = [], []
            for path in chunk:
                try:
                    picture, note = job.load(path)
                except (ValueError, FileNotFoundError) as error:
                    state.skipped[path.name] = str(error).replace(str(path), path.name)
                    bar.update(steps)
                    continue
                names.append(path.name)
                pictures.append(picture)
                if note:
                    state.notes[path.name] = note
            if pictures:
                inputs, targets = job.tensors(pictures)
                w_plus = job.encode(inputs)
                state.psnr_encoder += job.psnr(w_plus, targets)
                bar.update(len(names))
                if std is not None:
                    w_plus = refine(
                        job.generator, w_plus, targets, std, job.refinement, job.identity,
                        after_step=partial(bar.update, len(names)),
                    )  # fmt: skip
                state.psnr += job.psnr(w_plus, targets)
                state.names += names
                latents.append(w_plus.cpu())
                so_far = f"{state.done} of {len(files)} pictures, {_mean(state.psnr):.1f} dB"
                bar.set_postfix_str(so_far)
            state.w_plus = torch.cat(latents)
            # Rarely enough that writing takes little of the time, however many there are.
            due = time.monotonic() - saved > max(_SAVE_AFTER, 20 * cost)
            if (due or interrupt.requested) and state.done < len(files):
                began = time.monotonic()
                _write(_partial(state.path), state, settings, _UNFINISHED)
                saved = time.monotonic()
                cost = saved - began
            if interrupt.requested and state.done < len(files):
                raise KeyboardInterrupt(
                    f"stopped after {state.done} of {len(files)} pictures; they are kept in "
                    f"{_partial(state.path)}. Run the same again to go on"
                )


# --- the files ------------------------------------------------------------------------------------


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.stem}.partial.safetensors")


def _write(
    path: Path, state: Inversion, settings: dict[str, Any], kind: str, domain: str = ""
) -> None:
    lists = ("names", "psnr", "psnr_encoder", "skipped", "notes")
    metadata = {name: json.dumps(getattr(state, name)) for name in lists}
    metadata |= {"kind": kind, "domain": domain, "settings": json.dumps(settings)}
    metadata |= {name: settings[name] for name in ("encoder", "generator")}
    metadata["refinement"] = json.dumps(settings["refinement"])
    save_tensors(path, {"w_plus": state.w_plus}, metadata)


def _restore(target: Path, settings: dict[str, Any], resume: bool, empty: Tensor) -> Inversion:
    """What an earlier call left for these pictures and settings."""
    for path, kind in ((target, KIND), (_partial(target), _UNFINISHED)):
        if not path.exists():
            continue
        tensors, metadata = load_tensors(path)
        if metadata.get("kind") != kind:
            raise ValueError(f"{path} exists and holds no inversion; choose another file to write")
        if not resume:
            continue
        differing = _differences(json.loads(metadata["settings"]), settings)
        if differing:
            raise ValueError(
                f"{path} belongs to other pictures or settings:\n  "
                + "\n  ".join(differing)
                + "\nRepeat those to go on, choose another file, or pass resume=False to start "
                "over and discard it"
            )
        lists = ("names", "psnr", "psnr_encoder", "skipped", "notes")
        return Inversion(target, tensors["w_plus"], **{k: json.loads(metadata[k]) for k in lists})
    if not resume:
        _partial(target).unlink(missing_ok=True)
    return Inversion(target, empty)


def _describe(files: list[Path], job: _Job) -> dict[str, Any]:
    """Everything that the latents depend on."""
    networks = {"encoder": job.encoder, "generator": job.generator}
    if job.identity is not None:
        networks["identity"] = job.identity
    settings: dict[str, Any] = {name: _digest(network) for name, network in networks.items()}
    settings["refinement"] = asdict(job.refinement) if job.refinement.steps else "none"
    settings["faces"] = "found and cropped" if job.detector is not None else "already cropped"
    settings["detector"] = getattr(job.detector, "digest", "")
    settings["pictures"] = {path.name: _fingerprint(path) for path in files}
    return settings


def _digest(network: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        data = tensor.detach().cpu().reshape(-1).view(torch.uint8)  # bfloat16 has no numpy type
        digest.update(data.numpy().tobytes())
    return digest.hexdigest()


def _fingerprint(path: Path, ends: int = 65536) -> str:
    """Of a file's size, beginning and end: photographs are large and there may be many."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        digest = hashlib.blake2b(file.read(ends), digest_size=8)
        file.seek(max(0, size - ends))
        digest.update(file.read(ends))
    return f"{size} bytes, {digest.hexdigest()}"


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line for each setting that differs, and one for the pictures."""
    refinement = old.get("refinement")
    if isinstance(refinement, dict) and "pull" in refinement:  # its name in earlier versions
        refinement["l2_weight"] = refinement.pop("pull")
    then, now = old.pop("pictures", {}), new["pictures"]
    lines = [
        f"{name}: {old.get(name)} there, {new.get(name)} now"
        for name in sorted({*old, *new} - {"pictures"})
        if old.get(name) != new.get(name)
    ]
    groups = {
        "new": sorted(now.keys() - then.keys()),
        "gone": sorted(then.keys() - now.keys()),
        "changed": sorted(name for name in then.keys() & now.keys() if then[name] != now[name]),
    }
    for word, names in groups.items():
        if names:
            some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            lines.append(f"pictures: {len(names)} {word} ({some})")
    return lines


# --- the contact sheet ----------------------------------------------------------------------------


def _sheet(job: _Job, state: Inversion, paths: dict[str, Path], batch_size: int) -> Image.Image:
    """Inputs above their reconstructions; of many pictures the first, and the worst."""
    count, steps = len(state.names), job.refinement.steps
    title = f"{count} picture{'s' if count > 1 else ''}, PSNR {_mean(state.psnr):.1f} dB"
    if steps:
        title += f" (encoder alone: {_mean(state.psnr_encoder):.1f} dB)"
    shown = list(range(min(count, SHOWN)))
    if count > SHOWN:
        first, rest = shown[: SHOWN - WORST], range(SHOWN - WORST, count)
        shown = first + sorted(rest, key=lambda i: state.psnr[i])[:WORST]
        title += f". Here: the first {len(first)}, and the {WORST} worst of the others"
    inputs, encoded, refined = [], [], []
    for start in range(0, len(shown), batch_size):
        some = shown[start : start + batch_size]
        pictures, targets = job.tensors([job.load(paths[state.names[i]])[0] for i in some])
        inputs.append(targets.cpu())
        encoded.append(job.generate(job.encode(pictures)).cpu())
        refined.append(job.generate(state.w_plus[some]).cpu())
    rows = {"input": torch.cat(inputs), "encoder": torch.cat(encoded)}
    if steps:
        rows[f"refined, {steps} steps"] = torch.cat(refined)
    captions = [f"{_short(state.names[i])} {_decibels(state, i, steps)}" for i in shown]
    return contact_sheet(rows, captions, title)


def _decibels(state: Inversion, i: int, steps: int) -> str:
    before = f"{state.psnr_encoder[i]:.1f} → " if steps else ""
    return f"{before}{state.psnr[i]:.1f} dB".replace(" ", "\N{NO-BREAK SPACE}")


def _short(name: str, length: int = 18) -> str:
    return name if len(name) <= length else f"{name[: length - 8]}…{name[-7:]}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
