"""The Editor: images or latents in, edited images out, in one forward pass.

image ──encoder──► W+ ──mapper(s) × strength──► W+ edited ──generator──► image edited
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from . import batch_editing
from ._deprecated import renamed_arguments, warn
from .checkpoints.load import load_latents, load_mapper
from .device import check_device
from .files import PathLike, expanded, settled
from .images import ImageSource, load_image, load_pil, save_png, to_pil
from .manipulator import MapperInfo, check_generator, check_mapper, manipulate
from .memory import rendering_batch
from .models.encoder import check_encoder
from .models.save import check_finite
from .progress import Listener, Task
from .run_folder import MAPPER_FILE, check_mapper_is_own
from .shield import shielded

if TYPE_CHECKING:
    from .domains import Domain

STRONGEST = 1e6
"""Magnitude of a strength; images are saturated long before."""

Strength = float | Sequence[float]
EditInput = ImageSource | Sequence[ImageSource]


class Editor:
    """Applies one or several distilled edits.

    Args:
        generator: a `StyleGAN2` or another `LatentGenerator`.
        edits: (mapper, info) pairs, as `load_mapper` returns; a bare mapper counts as λ = 1.
        encoder: image [B, 3, H, W] → W+; without it only latents can be edited. H and W are its
            `input_size`, or its resolution, or that of the generator.
        align: crops a photograph as the encoder expects it, see `Domain.align_photo`; files and PIL
            images go through it unless they are said to be aligned.

    Raises:
        ValueError: no edit, a mapper or an encoder that does not fit the generator, or weights that
            are NaN or infinite.
        TypeError: a generator that is none.

    >>> editor = Editor.load("runs/white-hair")                            # doctest: +SKIP
    >>> after = editor.edit(["me.jpg"], strength=0.7, output="pil")[0]     # doctest: +SKIP
    """

    def __init__(
        self,
        generator: Any,
        edits: nn.Module | Sequence[nn.Module | tuple[nn.Module, MapperInfo]],
        encoder: nn.Module | None = None,
        align: Callable[[Image.Image], Image.Image] | None = None,
    ) -> None:
        listed = [edits] if isinstance(edits, nn.Module) else list(edits)
        pairs = [(e, MapperInfo()) if isinstance(e, nn.Module) else e for e in listed]
        if not pairs:
            raise ValueError("an Editor needs at least one mapper, got none")
        check_generator(generator)
        check_finite("the generator", generator.state_dict())
        for mapper, info in pairs:
            check_mapper(mapper, info, generator)
        if encoder is not None:
            check_finite("the encoder", encoder.state_dict())
            check_encoder(encoder, generator)
        self.generator = generator
        self.encoder = encoder
        self.align = align
        self.mappers = [mapper for mapper, _ in pairs]
        self.infos = [info for _, info in pairs]
        self.input_size = input_size(encoder if encoder is not None else generator)
        self.image_size: tuple[int, int] = generator.image_size

    @classmethod
    def load(
        cls,
        sources: PathLike | Sequence[PathLike],
        domain: PathLike | Mapping[str, Any] | Domain | None = None,
        device: str | torch.device | None = None,
        **parts: Any,
    ) -> Editor:
        """Load distilled edits together with the domain that they belong to.

        Args:
            sources: a run folder of `distill` or a mapper file, or several of them.
            domain: its name, its folder, or the domain itself; default: the one that the run folder
                or mapper file names, else "faces64". As files may come from anybody, that is a
                built-in one or one that lies beside the file or among the checkpoints.
            device: where the networks go; default: that of a domain given as such, else the CPU.
            parts: files that take the place of those of the domain, see `load_domain`.

        Raises:
            FileNotFoundError: a source or the domain does not exist, or a run folder holds no
                mapper yet.
            ValueError: a mapper file is damaged or does not fit the domain's generator, the edits
                belong to different domains, or to one that only the caller may name.
        """
        paths = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
        edits = [load_mapper(mapper_file(expanded(path))) for path in paths]
        if domain is None:
            from .domains.names import domain_of_edits

            named = [info.domain for _, info in edits]
            domain = domain_of_edits([expanded(path) for path in paths], named, parts)
        if domain is None or isinstance(domain, (str, os.PathLike, Mapping)):
            from .domains import load_domain

            domain = load_domain(domain, device=str(device or "cpu"), **parts)
        align = domain.align_photo if domain.align else None
        editor = cls(domain.generator, edits, domain.encoder, align)
        return editor.to(editor.device if device is None else device)

    @shielded(grad=False)
    def to(self, device: str | torch.device) -> Editor:
        """Move every network to `device`; returns the editor itself."""
        device = check_device(device)
        for module in (self.generator, self.encoder, *self.mappers):
            if module is not None:
                module.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.generator.parameters()).device

    @renamed_arguments(pictures="images")
    @shielded(grad=False)
    def encode(self, images: EditInput, batch_size: int = 16, *, aligned: bool = False) -> Tensor:
        """Images → W+ [B, num_layers, w_dim].

        Args:
            images: one or a list of files, PIL images, arrays and tensors (see
                `images.load_image`), or a batch [B, 3, H, W] in [-1, 1]. Any size: they are
                center-cropped and resized. W+ latents [B, num_layers, w_dim], or those of one
                image, pass unchanged.
            aligned: files and PIL images are cropped already as the encoder expects faces; else
                the landmarks of the face are found first, in a domain of photographs of faces.

        Raises:
            ValueError: there is no encoder, no image, or a wrong shape; see also `load_image`.
        """
        sources = self._sources(images)
        if isinstance(sources, Tensor):
            return sources.to(self.device, torch.float32)
        if self.encoder is None:
            raise ValueError(
                "this Editor has no encoder, so it edits W+ latents only; give Editor(encoder=…), "
                "a domain with an encoder (--encoder on the command line), or latents [B, "
                f"{self.generator.num_layers}, {self.generator.w_dim}]"
            )
        self.encoder.eval()
        chunks = []
        for start in range(0, len(sources), batch_size):
            some = sources[start : start + batch_size]
            loaded = self.load_images(some, aligned=aligned, first=start)
            chunks.append(self.encoder(loaded.to(self.device)))
        return torch.cat(chunks)

    def load_images(
        self, images: Sequence[ImageSource], *, aligned: bool = False, first: int = 0
    ) -> Tensor:
        """Images as the encoder sees them: [B, 3, *input_size] in [-1, 1]; see `encode`.

        An error tells the index of its image, counted from `first`.
        """
        loaded = []
        for i, source in enumerate(images, first):
            try:
                loaded.append(self._load_image(source, aligned))
            except (TypeError, ValueError) as error:
                if isinstance(source, (str, os.PathLike)) or (i == 0 and len(images) == 1):
                    raise  # it is named, or there is no other
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"images[{i}]: {error}") from error
        return torch.stack(loaded)

    def load_pictures(self, pictures: Sequence[ImageSource], *, aligned: bool = False) -> Tensor:
        """The earlier name of `load_images`."""
        warn("Editor.load_pictures is now called load_images")
        return self.load_images(pictures, aligned=aligned)

    def _load_image(self, source: ImageSource, aligned: bool, strict: bool = False) -> Tensor:
        kinds = (str, os.PathLike, Image.Image)
        if self.align is None or aligned or not isinstance(source, kinds):
            return load_image(source, self.input_size, strict=strict)
        photo = load_pil(source, strict=strict)
        try:
            return load_image(self.align(photo), self.input_size)
        except ValueError as error:
            raise ValueError(
                str(error) if isinstance(source, Image.Image) else f"{source}: {error}"
            ) from error

    def latents_of(self, path: PathLike) -> tuple[Tensor, list[str]]:
        """The W+ latents [N, num_layers, w_dim] of a file, and a name for each."""
        path = expanded(path)
        w_plus = load_latents(path, self.generator.num_layers)
        names = batch_editing.names_of_latents(path, len(w_plus))
        wanted = [self.generator.num_layers, self.generator.w_dim]
        if list(w_plus.shape[1:]) != wanted:
            raise ValueError(
                f"{path} holds latents of shape {list(w_plus.shape[1:])}, but the generator's are "
                f"{wanted}: they belong to another generator"
            )
        return w_plus.to(self.device), names

    @renamed_arguments(pictures="images")
    @shielded(grad=False)
    def edit(
        self,
        images: EditInput,
        strength: Strength = 1.0,
        levels: Sequence[str] | None = None,
        *,
        output: str = "tensor",
        batch_size: int = 16,
        aligned: bool = False,
    ) -> Any:
        """Edit images or W+ latents.

        Args:
            images: see `encode`.
            strength: 0 reconstructs, 1 is the edit as distilled, negative goes the other way and
                beyond 1 exaggerates. One for all edits, or a list with one for each.
            levels: which of "coarse", "medium" and "fine" to change in this call; None: all.
            output: "tensor" → [B, 3, H, W] in [-1, 1] (clamped) on the editor's device;
                "pil" → a list of PIL images.
            batch_size: images that go through the networks at once; fewer if they are large.
            aligned: see `encode`.
        """
        if output not in ("tensor", "pil"):
            raise ValueError(f'output must be "tensor" or "pil", got {output!r}')
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        strengths = self._strengths(strength)
        factors = [s * info.lam for s, info in zip(strengths, self.infos, strict=True)]
        mappers = list(zip(self.mappers, factors, strict=True))
        self.generator.eval()
        w_plus = self.encode(images, batch_size, aligned=aligned)
        chunks = w_plus.split(min(batch_size, rendering_batch(self.generator)))
        edited = [manipulate(self.generator, chunk, mappers, levels).images for chunk in chunks]
        results = torch.cat(edited).clamp(-1, 1)
        return [to_pil(image) for image in results] if output == "pil" else results

    def edit_files(
        self,
        paths: PathLike | Sequence[PathLike],
        out_dir: PathLike,
        strength: Strength = 1.0,
        levels: Sequence[str] | None = None,
        *,
        suffix: str = "",
        batch_size: int = 16,
        aligned: bool = False,
        overwrite: bool = False,
        skip_existing: bool = False,
        strict: bool = False,
        on_error: batch_editing.OnError | None = None,
        progress: bool | Listener = True,
    ) -> list[Path]:
        """Edit image files and write PNGs of the same names into `out_dir`; return their paths.

        Args:
            paths: an image file, a folder of images, a file of W+ latents, or a list of these.
                Latents are named as the file says, or numbered. Where `a.jpg` lies beside `a.png`,
                the results are `a.jpg.png` and `a.png.png`.
            suffix: appended to the file names, before ".png".
            aligned: see `encode`.
            overwrite: replace files in `out_dir`, such as earlier results. Inputs are never
                replaced.
            skip_existing: keep results that are there and edit the others, as after an
                interruption; whether they are of the same edit is not looked at.
            strict: see `load_image`.
            on_error: is called with the path and the error of every image that cannot be read, or
                in which no face is found; the others are edited. Default: raise it.
            progress: show it, or not, or a listener that gets every event.

        Names and headers of all files are checked before the first is edited. Each result is
        written atomically; an interruption keeps those that are there.

        Raises:
            ValueError: no images, two inputs of the same name, an output that would overwrite an
                input, or a broken image.
            FileExistsError: an output exists, and neither `overwrite` nor `skip_existing`; nothing
                is written.
        """
        files, latents, names = batch_editing.inputs(paths, self.latents_of, on_error)
        out = settled(out_dir)
        targets = [out / f"{name}{suffix}.png" for name in names]
        batch_editing.check_targets(files, out, targets, overwrite, skip_existing)
        done = {target for target in targets if skip_existing and target.exists()}
        good = batch_editing.readable(files, on_error)
        if files and not aligned:
            # Of a domain; what is missing for it is missing for every image.
            getattr(getattr(self.align, "__self__", None), "detector", None)
        pairs = [
            (source, target)
            for source, target in zip([*files, *latents], targets, strict=True)
            if target not in done and (isinstance(source, Tensor) or source in good)
        ]
        load = partial(self._load_image, aligned=aligned, strict=strict)
        task = Task("editing", len(pairs), progress, unit="images")
        with task, batch_editing.telling_what_is_kept(task, out):
            for start in range(0, len(pairs), batch_size):
                chunk = pairs[start : start + batch_size]
                images, w_plus, some = batch_editing.load_files(chunk, load, on_error)
                if images:
                    w_plus = [*self.encode(images, batch_size), *w_plus]
                if some:
                    edited = self.edit(torch.stack(w_plus), strength, levels, batch_size=batch_size)
                    for target, image in zip(some, edited, strict=True):
                        # Another process may have come to write here meanwhile.
                        if not (skip_existing and target.exists()):
                            batch_editing.check_targets([], out, [target], overwrite, False)
                            save_png(target, image)
                        done.add(target)
                        task.advance()
                task.advance(len(chunk) - len(some))
        return [target for target in targets if target in done]

    def _sources(self, images: EditInput) -> Tensor | list[ImageSource]:
        """W+ latents as one tensor; anything else as a list of single images."""
        if isinstance(images, Tensor):
            one_latent = (self.generator.num_layers, self.generator.w_dim)
            if tuple(images.shape[-2:]) == one_latent and images.ndim in (2, 3):
                return images.reshape(-1, *one_latent)
            if images.ndim == 4:
                images = list(images)
            elif images.ndim == 2 or (images.ndim == 3 and images.shape[0] != 3):
                raise ValueError(
                    f"expected images [B, 3, H, W] or W+ latents [B, {one_latent[0]}, "
                    f"{one_latent[1]}], got {list(images.shape)}"
                )
        if isinstance(images, (str, os.PathLike, Image.Image, np.ndarray, Tensor)):
            images = [images]
        listed = list(images)
        if not listed:
            raise ValueError("no images to edit: the list is empty")
        return listed

    def _strengths(self, strength: Strength) -> list[float]:
        count = len(self.mappers)
        values = (
            [float(strength)] * count
            if isinstance(strength, (int, float))
            else [float(value) for value in strength]
        )
        if len(values) != count:
            raise ValueError(f"expected one strength, or one for each of {count} edits: {values}")
        if not all(abs(value) <= STRONGEST for value in values):  # of NaN as well
            raise ValueError(
                f"strength must be finite, and at most {STRONGEST:,.0f} either way (1 is as "
                f"trained), got {values}"
            )
        return values


def mapper_file(source: Path) -> Path:
    """Return what `load_mapper` reads of a run folder; a file is itself.

    Raises:
        FileNotFoundError: the folder holds no mapper. ValueError: it is not that of its run.
    """
    if not source.is_dir():
        return source
    if not (source / MAPPER_FILE).exists():
        raise FileNotFoundError(
            f"{source} holds no {MAPPER_FILE}: the distillation there has not finished, or it is "
            "no run folder. Run the same distillation again to resume it"
        )
    check_mapper_is_own(source)
    return source / MAPPER_FILE


def input_size(network: Any) -> tuple[int, int]:
    """(height, width) of the images that an encoder, or a generator's own size, asks for."""
    if hasattr(network, "input_size"):
        return tuple(network.input_size)
    if hasattr(network, "image_size"):
        return tuple(network.image_size)
    return network.resolution, network.resolution
