"""Photographs to W+ latents: a folder of images in, a latents file and a contact sheet out.

image ──(find the face, turn and crop it)──► encoder ──► W+ ──(refine)──► latents file
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..checkpoints.latents import KIND
from ..checks import check_count
from ..decoding import list_images
from ..editing.edit_inputs import input_size
from ..files import PathLike, settled
from ..images import load_pil, load_sizes, save_png
from ..interrupt import InterruptAfterStep
from ..lock import locked
from ..manipulator import try_network
from ..memory import check_images
from ..models.encoder import check_encoder
from ..outputs import check_free
from ..pipeline import MOST_THREADS, map_ahead
from ..progress import Listener, Task
from ..shield import shielded
from .align import align_with_note
from .contact_sheet import contact_sheet
from .landmarks import Detector
from .latents_file import (
    UNFINISHED,
    Inversion,
    digest,
    fingerprint,
    partial_path,
    restore,
    write,
)
from .refine import Refinement, content, refine, w_std

_SAVE_AFTER = 2.0  # seconds between two writes of what is done so far
SHOWN, WORST = 24, 8  # pictures on the contact sheet; how many of them the worst, if not all


@shielded()
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
    strict: bool = False,
    progress: bool | Listener = True,
) -> Inversion:
    """Find the latent of every image in a folder.

    Args:
        folder: its images are taken, sorted by name; broken ones are skipped.
        encoder: images → W+, with `input_size` (height, width) or `resolution`.
        generator: a `StyleGAN2`, on the same device.
        out: the latents file to write, *.safetensors; the contact sheet goes beside it, as *.png.
        detector: finds the faces of raw photographs, which are then cropped as in FFHQ (see
            `landmarks.YuNet`). None: the images are already cropped the way the encoder expects;
            they are center-cropped to its shape.
        refinement: gradient steps after the encoder; None: none.
        identity: a network that tells persons apart, for the refinement.
        domain: the name of the domain, for the file's metadata.
        batch_size: images at once.
        resume: go on where an interrupted call with the same images and settings stopped, to the
            same result bit for bit (with another batch size: up to rounding). What is finished is
            only read. False starts over.
        strict: raise at the first image that cannot be used, also at JPEGs that lack their end and
            at color profiles that cannot be used.
        progress: show it, or not, or a listener that gets every event (see `sdd_fast.progress`).

    Raises:
        ValueError: no images or none that can be used; `out` holds something else, or latents of
            other images or settings.
        FileExistsError: a picture is where the contact sheet is to be written.
        BlockingIOError: another process writes `out`.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, after the batch is finished and saved; a
            second one does not wait for the batch.
        FloatingPointError: the encoder or the refinement gave NaN or infinity.
    """
    files, target = list_images(settled(folder)), settled(out)
    if target.suffix.lower() != ".safetensors":
        raise ValueError(f"latents are written to a .safetensors file, got {target.name!r}")
    batch_size = check_count("batch_size", batch_size)
    job = _Job(encoder, generator, detector, refinement or Refinement(), identity)
    together = min(batch_size, len(files))
    check_images(together, generator.image_size, f"batch_size={batch_size:,}", job.device)
    with locked(target, file=True):
        # The sheet of an inversion lies beside its latents; alone it is a picture of the user's.
        sheet = target.with_suffix(".png")
        check_free([sheet], target.exists(), "choose another name for the latents")
        settings = _describe(files, job)
        state = restore(target, settings, resume, job.empty())
        if state.done < len(files):
            state = _run(job, files, state, settings, batch_size, strict, progress)
            if not state.names:
                partial_path(target).unlink(missing_ok=True)
                raise ValueError(
                    f"none of the {len(files)} pictures in {folder} could be used:\n  "
                    + "\n  ".join(list(state.skipped.values())[:10])
                )
            sheet.unlink(missing_ok=True)
            write(target, state, settings, KIND, domain=domain)
            partial_path(target).unlink(missing_ok=True)
        if not sheet.exists():
            by_name = {path.name: path for path in files}
            save_png(sheet, _sheet(job, state, by_name, batch_size))
    return state


_Read = tuple[Path, list[Tensor] | Exception, str]
"""A file, what `_Job.load` returns of it, or why it cannot be used, and a note."""


class _Job:
    """The networks, and what an image goes through before them."""

    def __init__(
        self,
        encoder: nn.Module,
        generator: Any,
        detector: Detector | None,
        refinement: Refinement,
        identity: nn.Module | None,
    ) -> None:
        check_encoder(encoder, generator)
        self.encoder, self.generator = encoder.eval(), generator.eval()
        self.detector, self.refinement = detector, refinement
        self.identity = identity if refinement.steps and refinement.identity > 0 else None
        self.device = next(generator.parameters()).device
        height, width = self.input_size = input_size(encoder)
        # Of the generator's images, the part in the middle that has the encoder's shape.
        tall, wide = generator.image_size
        scale = min(tall / height, wide / width)
        self.target_size = (round(height * scale), round(width * scale))
        if self.identity is not None and self.target_size == generator.image_size:
            blank = torch.zeros(1, 3, tall, wide, device=self.device)
            try_network("identity network", self.identity, blank)

    def empty(self) -> Tensor:
        return torch.zeros(0, self.generator.num_layers, self.generator.w_dim)

    def load(self, path: Path, strict: bool = False) -> tuple[list[Tensor], str]:
        """Load an image as the encoder takes it and as it is compared, and a note, or "".

        If there is a detector, both are cropped to the face.
        """
        sizes = [self.input_size, self.target_size]
        if self.detector is None:
            return load_sizes(path, sizes, strict=strict), ""
        photograph = load_pil(path, strict=strict)
        faces = self.detector(photograph)
        if not faces:
            raise ValueError(f"{path.name}: no face was found in it")
        try:
            face, note = align_with_note(photograph, faces[0], max(*sizes[0], *sizes[1]))
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error
        notes = [note] if note else []
        if len(faces) > 1:
            notes.insert(0, f"{len(faces)} faces in the picture, the largest was taken")
        return load_sizes(face, sizes), "; ".join(notes)

    def read_ahead(self, files: Sequence[Path], count: int, strict: bool) -> Generator[_Read]:
        """Load images in threads, at most `count` before they are asked for."""
        # A detector of the caller's may not bear several.
        threads = 1 if self.detector else min(MOST_THREADS, torch.get_num_threads())
        return map_ahead(partial(self._read, strict), files, count, threads)

    def _read(self, strict: bool, path: Path) -> _Read:
        try:
            return path, *self.load(path, strict)
        except (ValueError, FileNotFoundError) as error:
            return path, error, ""

    def batch(self, loaded: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
        """Stack what `load` returned: the images for the encoder, and those to compare with."""
        inputs, targets = (torch.stack(images) for images in zip(*loaded, strict=True))
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
        """In dB, of images whose values span 2."""
        error = (self.generate(w_plus) - targets).square().mean((1, 2, 3)).clamp(min=1e-10)
        return [round(value, 4) for value in (10 * torch.log10(4 / error)).tolist()]


def _run(
    job: _Job,
    files: list[Path],
    state: Inversion,
    settings: dict[str, Any],
    batch_size: int,
    strict: bool,
    progress: bool | Listener,
) -> Inversion:
    """Invert the files from `state.done` on; return `state` with them."""
    steps = 1 + job.refinement.steps  # of progress, for each image
    std = w_std(job.generator) if job.refinement.steps else None
    saved, cost = time.monotonic(), 0.0
    unit = "steps" if job.refinement.steps else "images"
    task = Task("inverting", len(files) * steps, progress, unit=unit, done=state.done * steps)
    kept = partial_path(state.path)
    ahead = job.read_ahead(files[state.done :], batch_size, strict)
    with task, InterruptAfterStep() as interrupt, closing(ahead) as read:
        try:
            while state.done < len(files):
                found = _chunk(job, islice(read, batch_size), std, strict, task)
                state = state.joined(found)  # at once, or not at all if a signal comes
                if state.psnr:
                    task.advance(0, f"{_mean(state.psnr):.1f} dB")
                # Rarely enough that writing takes little of the time, however many there are.
                if time.monotonic() - saved > max(_SAVE_AFTER, 20 * cost):
                    began = time.monotonic()
                    write(kept, state, settings, UNFINISHED)
                    saved = time.monotonic()
                    cost = saved - began
                if interrupt.requested and state.done < len(files):
                    raise KeyboardInterrupt
        except BaseException as error:
            if state.done:
                write(kept, state, settings, UNFINISHED)
            if not isinstance(error, KeyboardInterrupt):
                raise
            where = f"; they are kept in {kept}. Run the same again to go on" if state.done else ""
            raise KeyboardInterrupt(
                f"stopped after {state.done} of {len(files)} pictures{where}"
            ) from None
    return state


def _chunk(
    job: _Job, read: Iterable[_Read], std: Tensor | None, strict: bool, task: Task
) -> Inversion:
    """Invert a few images together."""
    found = Inversion(Path(), job.empty())
    loaded = []
    for path, images, note in read:
        if isinstance(images, Exception):
            if strict:
                raise images
            found.skipped[path.name] = str(images).replace(str(path), path.name)
            task.advance(1 + job.refinement.steps)
            continue
        found.names.append(path.name)
        loaded.append(images)
        if note:
            found.notes[path.name] = note
    if not loaded:
        return found
    inputs, targets = job.batch(loaded)
    w_plus = job.encode(inputs)
    found.psnr_encoder = job.psnr(w_plus, targets)
    task.advance(len(loaded))
    if std is not None:
        w_plus = refine(
            job.generator, w_plus, targets, std, job.refinement, job.identity,
            after_step=partial(task.advance, len(loaded)),
        )  # fmt: skip
    found.psnr = job.psnr(w_plus, targets)
    found.w_plus = w_plus.cpu()
    return found


def _describe(files: list[Path], job: _Job) -> dict[str, Any]:
    """Everything that the latents depend on."""
    networks = {"encoder": job.encoder, "generator": job.generator}
    if job.identity is not None:
        networks["identity"] = job.identity
    settings: dict[str, Any] = {name: digest(network) for name, network in networks.items()}
    settings["refinement"] = asdict(job.refinement) if job.refinement.steps else "none"
    settings["faces"] = "found and cropped" if job.detector is not None else "already cropped"
    settings["detector"] = getattr(job.detector, "digest", "")
    settings["pictures"] = {path.name: fingerprint(path) for path in files}
    return settings


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
        images, targets = job.batch([job.load(paths[state.names[i]])[0] for i in some])
        inputs.append(targets.cpu())
        encoded.append(job.generate(job.encode(images)).cpu())
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
