"""What `Editor.edit_files` does: from files to files, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from . import batch_editing, edit_inputs
from .files import PathLike, settled
from .progress import Listener, Task


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
    on_error: batch_editing.OnError | None,
    progress: bool | Listener,
) -> list[Path]:
    """See `Editor.edit_files`; `strengths` has one for each edit."""
    files, latents, names = batch_editing.inputs(paths, editor.read_latents, on_error)
    out = settled(out_dir)
    targets = [out / f"{name}{suffix}.png" for name in names]
    batch_editing.check_targets(files, out, targets, overwrite, skip_existing)
    done = {target for target in targets if skip_existing and target.exists()}
    bad = {*files} - batch_editing.readable(files, on_error)
    if files:  # Of a domain; what is missing for it is missing for every image.
        getattr(getattr(align, "__self__", None), "detector", None)
    sources: list[batch_editing.Source] = [*files, *latents]
    pairs = [
        (source, target)
        for source, target in zip(sources, targets, strict=True)
        if target not in done and source not in bad
    ]

    def load(file: Path) -> Tensor:
        return edit_inputs.load_one(file, editor.input_size, align, strict)

    def edit(images: list[Tensor], w_plus: list[Tensor]) -> Tensor:
        encoded = [editor.encode(torch.stack(images), batch_size)] if images else []
        given = [torch.stack(w_plus).to(editor.device)] if w_plus else []
        edited: Tensor = editor.edit(
            torch.cat(encoded + given), strengths, levels, batch_size=batch_size
        )
        return edited

    def write(edited: tuple[Path, Tensor]) -> None:
        batch_editing.write_result(*edited, overwrite, skip_existing)
        done.add(edited[0])

    task = Task("editing", len(pairs), progress, unit="images")
    kept = batch_editing.telling_what_is_kept(done, len(pairs), out)
    with task, kept, batch_editing.folder_for_results(out):
        batch_editing.edit_all(
            pairs, latents_of=editor.read_latents, load=load, edit=edit, write=write,
            batch_size=batch_size, on_error=on_error, task=task,
        )  # fmt: skip
    return [target for target in targets if target in done]
