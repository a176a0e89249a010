"""The Editor: images or latents in, edited images out, in one forward pass.

image ──encoder──► W+ ──mapper(s) × strength──► W+ edited ──generator──► image edited
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from .._deprecated import renamed_arguments, warn
from ..checkpoints.load import load_mapper
from ..checks import check_count
from ..device import check_device
from ..files import PathLike, expanded
from ..images import ImageSource
from ..manipulator import (
    MapperInfo,
    Strength,
    check_generator,
    check_mapper,
    factors_of,
    manipulate,
    strengths_of,
)
from ..memory import rendering_batch
from ..models.encoder import check_encoder
from ..models.save import check_finite
from ..progress import Listener
from ..shield import shielded
from . import batch_editing, edit_files, edit_inputs
from .compiled_edit import CompiledEdit
from .edited_images import as_output, check_output
from .editor_file import mapper_file as mapper_file, read_editor, save_editor
from .hub_editor import HubEditor
from .image_paths import OnError
from .paste_back import paste_back
from .save_as import SaveAs

if TYPE_CHECKING:
    from ..domains import Domain

BATCH_SIZE = 16
"""Images that go through the networks at once, where nobody says; fewer if they are large."""


class Editor(HubEditor):
    """Applies one or several distilled edits.

    Args:
        generator: a `StyleGAN2` or another `LatentGenerator`.
        edits: (mapper, info) pairs, as `load_mapper` returns; a bare mapper counts as λ = 1.
        encoder: image [B, 3, H, W] → W+; without it only latents can be edited. H and W are its
            `input_size`, or its resolution, or that of the generator.
        align: crops a photograph as the encoder expects it, see `Domain.align_photo`; files and PIL
            images go through it unless they are said to be aligned. `edit_files` calls it in
            several threads.

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
        align: edit_inputs.Align | None = None,
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
        self.input_size = edit_inputs.input_size(encoder if encoder is not None else generator)
        self.image_size: tuple[int, int] = generator.image_size
        self._compiled: CompiledEdit | None = None

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
            sources: a run folder, a mapper file or "owner/name" on the hub (a path that exists
                wins), or several; or a file or folder of a whole editor, which needs no domain.
            domain: its name, its folder, or the domain itself; default: the one that the run folder
                or mapper file names, else "faces64". As files may come from anybody, that is a
                built-in one or one that lies beside the file or among the checkpoints.
            device: where the networks go; default: that of a domain given as such, else the CPU.
            parts: files that take the place of those of the domain, see `load_domain`.

        Raises:
            FileNotFoundError: a source or the domain does not exist, or a run has no mapper yet.
            ValueError: a mapper is damaged or does not fit the domain's generator, or the edits
                belong to different domains, or to one that only the caller may name.
        """
        given = [sources] if isinstance(sources, (str, os.PathLike)) else sources
        paths = [mapper_file(source) for source in given]
        if (saved := read_editor(paths, domain, parts)) is not None:
            return cls(*saved).to(device or "cpu")
        edits = [load_mapper(path) for path in paths]
        if domain is None:
            from ..domains.names import domain_of_edits

            domain = domain_of_edits(paths, [info.domain for _, info in edits], parts)
        if domain is None or isinstance(domain, (str, os.PathLike, Mapping)):
            from ..domains import load_domain

            domain = load_domain(domain, device=str(device or "cpu"), **parts)
        align = domain.align_photo if domain.align else None
        editor = cls(domain.generator, edits, domain.encoder, align)
        return editor.to(editor.device if device is None else device)

    def save(self, path: PathLike, metadata: Mapping[str, str] | None = None) -> Path:
        """Write all of it as one .safetensors file, which `load` reads without a domain; return it.

        `metadata` joins its header. What finds faces is not in it: `load(path, detector=…)`.

        Raises:
            ValueError: another ending, or a network of your own, which no file can build again.
            FileExistsError: something other than an editor is there.
        """
        own = (self.generator, list(zip(self.mappers, self.infos, strict=True)), self.encoder)
        return save_editor(path, *own, self.align is not None, metadata=metadata)

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

    @shielded(grad=False)
    def compile(self, batch_size: int = BATCH_SIZE, **options: Any) -> float:
        """Compile the networks with `torch.compile`; return the seconds that it took.

        From then on they take `batch_size` images at a time (fewer if these are large), whatever
        the methods below are told, and what is fewer is filled up to that: strengths, levels and
        the last images of a folder compile nothing again. Images differ in their last digits.

        Args:
            batch_size: 1 where images are edited one by one.
            options: of `torch.compile`, such as mode="reduce-overhead", which on a GPU captures
                the networks as CUDA graphs.

        Raises:
            ValueError: torch.compile does not work here, such as for want of a C++ compiler.
        """
        began = time.perf_counter()
        size = min(check_count("batch_size", batch_size), rendering_batch(self.generator))
        self.generator.eval()
        compiled = CompiledEdit(self.generator, self.mappers, self.encoder, size, options)
        w_plus = torch.zeros(1, self.generator.num_layers, self.generator.w_dim, device=self.device)
        if self.encoder is not None:
            self.encoder.eval()
            w_plus = compiled.encode(torch.zeros(1, 3, *self.input_size, device=self.device))
        compiled.render(w_plus, torch.ones(1, len(self.mappers)), None).cpu()
        self._compiled = compiled
        return time.perf_counter() - began

    def _at_once(self, batch_size: int) -> int:
        """Images that go through the networks at once."""
        checked = check_count("batch_size", batch_size)
        return checked if self._compiled is None else self._compiled.batch_size

    @renamed_arguments(pictures="images")
    @shielded(grad=False)
    def encode(
        self, images: edit_inputs.EditInput, batch_size: int = BATCH_SIZE, *, aligned: bool = False
    ) -> Tensor:
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
        shape = self.generator.num_layers, self.generator.w_dim
        if (latents := edit_inputs.latents_in(images, *shape)) is not None:
            return latents.to(self.device, torch.float32)
        sources = edit_inputs.sources_of(images, *shape)
        if self.encoder is None:
            raise ValueError(
                "this Editor has no encoder, so it edits W+ latents only; give Editor(encoder=…), "
                "a domain with an encoder (--encoder on the command line), or latents [B, "
                f"{self.generator.num_layers}, {self.generator.w_dim}]"
            )
        batch_size = self._at_once(batch_size)
        chunks = []
        for start in range(0, len(sources), batch_size):
            some = sources[start : start + batch_size]
            loaded = edit_inputs.load_batch(
                some, self.input_size, None if aligned else self.align, start
            )
            chunks.append(self._encode(loaded))
        return torch.cat(chunks)

    def _encode(self, images: Tensor) -> Tensor:
        """One pass: images [B, 3, *input_size] → W+."""
        assert self.encoder is not None
        self.encoder.eval()
        encode = self.encoder if self._compiled is None else self._compiled.encode
        w_plus: Tensor = encode(images.to(self.device))
        return w_plus

    def load_images(
        self, images: Sequence[ImageSource], *, aligned: bool = False, first: int = 0
    ) -> Tensor:
        """Images as the encoder sees them: [B, 3, *input_size] in [-1, 1]; see `encode`.

        An error tells the index of its image, counted from `first`.
        """
        return edit_inputs.load_batch(
            images, self.input_size, None if aligned else self.align, first
        )

    def load_pictures(self, pictures: Sequence[ImageSource], *, aligned: bool = False) -> Tensor:
        """The earlier name of `load_images`."""
        warn("Editor.load_pictures is now called load_images")
        return self.load_images(pictures, aligned=aligned)

    def latents_of(self, path: PathLike) -> tuple[Tensor, list[str]]:
        """The W+ latents [N, num_layers, w_dim] of a file, and a name for each."""
        w_plus, names = self.read_latents(expanded(path))
        return w_plus.to(self.device), names

    def read_latents(self, path: Path) -> tuple[Tensor, list[str]]:
        """As `latents_of`, on the CPU."""
        return batch_editing.read_latents(path, self.generator.num_layers, self.generator.w_dim)

    @renamed_arguments(pictures="images")
    @shielded(grad=False)
    def edit(
        self,
        images: edit_inputs.EditInput,
        strength: Strength = 1.0,
        levels: Sequence[str] | None = None,
        *,
        output: str = "tensor",
        batch_size: int = BATCH_SIZE,
        aligned: bool = False,
    ) -> Any:
        """Edit images or W+ latents.

        Args:
            images: see `encode`.
            strength: 0 reconstructs, 1 is the edit as distilled, negative goes the other way and
                beyond 1 exaggerates. One for all; a list with one for each edit, or, of a single
                edit, for each image; or a table [images, edits], as lists, array or tensor.
            levels: which of "coarse", "medium" and "fine" to change in this call; None: all.
            output: "tensor" → [B, 3, H, W] in [-1, 1] (clamped) on the editor's device;
                "pil" → a list of PIL images, which notebooks show; "numpy" → [B, H, W, 3] uint8.
            batch_size: images that go through the networks at once; fewer if they are large, and as
                `compile` was told if it was called.
            aligned: see `encode`.
        """
        check_output(output)
        batch_size = self._at_once(batch_size)
        w_plus = self.encode(images, batch_size, aligned=aligned)
        factors = factors_of(strength, self.infos, len(w_plus))
        size = min(batch_size, rendering_batch(self.generator))
        pairs = zip(w_plus.split(size), factors.split(size), strict=True)
        results = torch.cat([self._render(some, its, levels) for some, its in pairs])
        return as_output(results, output)

    @shielded(grad=False)
    def edit_photo(
        self,
        photo: ImageSource,
        strength: Strength = 1.0,
        levels: Sequence[str] | None = None,
        *,
        aligned: bool = False,
    ) -> Image.Image:
        """Edit a photograph of any size and put what changed back into it, see `paste_back`.

        Returns an RGB image of the photograph's size, upright and in sRGB. Arguments and errors are
        those of `edit`; at strength 0 it is the photograph as it was.
        """
        placed = edit_inputs.load_placed(photo, self.input_size, None if aligned else self.align)
        w_plus = self.encode(placed.crop[None])
        before, after = self.edit(w_plus, 0.0, levels), self.edit(w_plus, strength, levels)
        return paste_back(placed.photo, after[0], before[0], placed.quad)

    def _render(self, w_plus: Tensor, factors: Tensor, levels: Sequence[str] | None) -> Tensor:
        """One pass: W+ [B, …], factors [B, mappers] → images [B, 3, *image_size] in [-1, 1]."""
        self.generator.eval()
        if self._compiled is not None:
            return self._compiled.render(w_plus, factors, levels).clamp_(-1, 1)
        mappers = list(zip(self.mappers, factors.to(w_plus.device).unbind(1), strict=True))
        return manipulate(self.generator, w_plus, mappers, levels).images.clamp(-1, 1)

    def edit_files(
        self,
        paths: PathLike | Sequence[PathLike],
        out_dir: PathLike,
        strength: Strength = 1.0,
        levels: Sequence[str] | None = None,
        *,
        suffix: str = "",
        batch_size: int = BATCH_SIZE,
        aligned: bool = False,
        overwrite: bool = False,
        skip_existing: bool = False,
        strict: bool = False,
        recursive: bool = False,
        save_as: SaveAs | str = "png",
        on_error: OnError | None = None,
        progress: bool | Listener = True,
    ) -> list[Path]:
        """Edit image files and write results of the same names into `out_dir`; return their paths.

        Args:
            paths: an image file, a folder of images, a pattern such as "faces/*.jpg" ("**" stands
                for any folders), a file of W+ latents, or a list of these; a file that is given
                twice is edited once. Latents are named as their file says, or numbered. Where
                `a.jpg` lies beside `a.png`, the results are `a.jpg.png` and `a.png.png`.
            out_dir: a folder, or for a single image the name of the result, whose ending tells the
                format.
            suffix: appended to the file names, before their ending.
            aligned: see `encode`.
            overwrite: replace files in `out_dir`, such as earlier results. Inputs are never
                replaced.
            skip_existing: keep results that are there and edit the others, as after an
                interruption; whether they are of the same edit is not looked at.
            strict: see `load_image`.
            recursive: take the images of folders within folders as well; results lie in folders of
                the same names. `out_dir` itself and hidden folders are passed over.
            save_as: "png", "jpeg", "webp", "same", or a `SaveAs` that tells more, such as to put
                the edited face back into its photograph.
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
        return edit_files.edit_files(
            self, paths, out_dir, strengths_of(strength, len(self.infos), 1)[0].tolist(), levels,
            suffix=suffix, batch_size=self._at_once(batch_size),
            align=None if aligned else self.align, overwrite=overwrite,
            skip_existing=skip_existing, strict=strict, recursive=recursive,
            how=SaveAs.of(save_as), on_error=on_error, progress=progress,
        )  # fmt: skip

    def __repr__(self) -> str:
        edits = " + ".join(f"“{info.prompt or 'edit'}”" for info in self.infos)
        height, width = self.image_size
        given = "images" if self.encoder is not None else "W+ latents only"
        names = sorted({info.domain for info in self.infos} - {""})
        domain = f" of {', '.join(names)}" if names else ""
        return f"Editor({edits}, {width}×{height}{domain}, takes {given}, on {self.device})"
