"""What `Editor.edit_files` does: from files to files, a batch at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..decoding import read_image
from ..files import PathLike, settled
from ..images import load_pil, to_pil
from ..progress import Listener, Task
from . import batch_editing, edit_inputs
from .image_paths import OnError
from .paste_back import paste_back
from .save_as import SaveAs, is_file_name, save_image

_logger = logging.getLogger(__name__)


class Edits(Protocol):
    """What is needed of an `Editor`."""

    input_size: tuple[int, int]

    @property
    def device(self) -> torch.device: ...

    def encode(self, images: Tensor, batch_size: int, /) -> Tensor: ...

    def edit(
        self, images: Tensor, strength: Any, levels: Sequence[str] | None, /, *, batch_size: int
    ) -> Any: ...

    def read_latents(self, path: Path, /) -> tuple[Tensor, list[str]]: ...


def edit_files(
    editor: Edits,
    paths: PathLike | Sequence[PathLike],
    out_dir: PathLike,
    strengths: list[float],
    levels: Sequence[str] | None,
    *,
    suffix: str,
    batch_size: int,
    align: edit_inputs.Align | None,
    overwrite: bool,
    skip_existing: bool,
    strict: bool,
    recursive: bool,
    how: SaveAs,
    on_error: OnError | None,
    progress: bool | Listener,
) -> list[Path]:
    """See `Editor.edit_files`; `strengths` has one for each edit."""
    out = settled(out_dir)
    batch_editing.check_suffix(suffix, out)
    found = batch_editing.inputs(
        paths, editor.read_latents, on_error,
        ending=how.ending, recursive=recursive, out=out,
    )  # fmt: skip
    sources: list[batch_editing.Source] = [*found.files, *found.latents]
    endings = [how.ending(source if isinstance(source, Path) else None) for source in sources]
    targets = [out / f"{name}{suffix}{end}" for name, end in zip(found.names, endings, strict=True)]
    if is_file_name(out):
        if len(targets) != 1:
            raise ValueError(
                f"{out} is the name of one image, but {len(targets)} are to be edited; give a "
                "folder for the results"
            )
        targets, out = [out], out.parent
    batch_editing.check_targets(found.files, out, targets, overwrite, skip_existing)
    done = {target for target in targets if skip_existing and target.exists()}
    bad = {*found.files} - batch_editing.readable(found.files, on_error)
    if found.files:  # Of a domain; what is missing for it is missing for every image.
        getattr(getattr(align, "__self__", None), "detector", None)
    pairs = [
        (source, target)
        for source, target in zip(sources, targets, strict=True)
        if target not in done and source not in bad
    ]
    pasting = align is not None if how.paste_back is None else how.paste_back
    source_of = {target: source for source, target in pairs}
    quads: dict[Path, np.ndarray] = {}  # of what is loaded and not yet written

    def load(file: Path) -> Tensor:
        if not pasting:
            return edit_inputs.load_one(file, editor.input_size, align, strict)
        placed = edit_inputs.load_placed(file, editor.input_size, align, strict)
        quads[file] = placed.quad
        return placed.crop

    def edit(images: list[Tensor], w_plus: list[Tensor]) -> Tensor:
        encoded = [editor.encode(torch.stack(images), batch_size)] if images else []
        given = torch.cat([*encoded, *([torch.stack(w_plus).to(editor.device)] if w_plus else [])])
        shown: Tensor = editor.edit(given, strengths, levels, batch_size=batch_size)
        if not pasting:
            return shown
        plain = editor.edit(given, [0.0] * len(strengths), levels, batch_size=batch_size)
        return torch.stack([shown, plain], 1)

    def write(edited: tuple[Path, Tensor]) -> None:
        target, image = edited
        source = source_of[target]
        quad = quads.pop(source, None) if isinstance(source, Path) else None
        save = partial(_save, image=image, source=source, quad=quad, how=how)
        batch_editing.write_result(target, save, overwrite, skip_existing)
        done.add(target)

    task = Task("editing", len(pairs), progress, unit="images")
    kept = batch_editing.telling_what_is_kept(done, len(pairs), out)
    within = {target.parent for target in targets}
    with task, kept, batch_editing.folder_for_results(out, within):
        batch_editing.edit_all(
            pairs, latents_of=editor.read_latents, load=load, edit=edit, write=write,
            batch_size=batch_size, on_error=on_error, task=task,
        )  # fmt: skip
    _logger.info("edited %d of %d images into %s", len(done), len(targets), out)
    return [target for target in targets if target in done]


def _save(
    target: Path,
    image: Tensor,
    source: batch_editing.Source,
    quad: np.ndarray | None,
    how: SaveAs,
) -> None:
    """Write an edited image [3, H, W], or put [edited, at strength 0] back into its photograph."""
    after, before = (image[0], image[1]) if image.ndim == 4 else (image, None)
    original = None
    if isinstance(source, Path) and (how.keep or quad is not None):
        original = read_image(source)  # once more: those of a batch would be gigabytes
    if original is None or quad is None or before is None:
        result = to_pil(after)
    else:
        result = paste_back(load_pil(original), after, before, quad)
    save_image(target, result, how, original)
