"""sdd edit --sweep: the edit at growing strength, as one animated picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .console import explain, result, say
from .edit_results import none_usable

if TYPE_CHECKING:
    from torch import Tensor

    from sdd_fast.editing.editor import Editor

MOST = 10  # pictures side by side


def strengths_of(text: str) -> list[float]:
    """ "-1:1.5:24" → 24 strengths from −1 to 1.5."""
    from sdd_fast.editing.animation import strengths_between

    try:
        first, last, count = text.split(":")
        return strengths_between(float(first), float(last), int(count))
    except ValueError as error:
        told = f" ({error})" if text.count(":") == 2 else ""
        raise typer.BadParameter(
            f"{text!r} is not FIRST:LAST:COUNT, such as -1:1.5:24 for 24 strengths from −1 to "
            f"1.5{told}",
            param_hint="--sweep",
        ) from None


def check_sweep(out: Path, overwrite: bool, fps: float) -> None:
    """Raise before any work where the animation cannot be written."""
    from sdd_fast.editing.animation import SUFFIXES, check_animation
    from sdd_fast.outputs import check_free

    if not out.suffix:
        raise typer.BadParameter(
            f"with --sweep give a file that ends in {', '.join(SUFFIXES)}, got {str(out)!r}",
            param_hint="--out",
        )
    check_animation(out, fps)
    check_free([out], overwrite)


def write_sweep(
    editor: Editor,
    files: Sequence[Path],
    out: Path,
    strengths: Sequence[float],
    *,
    levels: Sequence[str] | None,
    aligned: bool,
    fps: float,
    skipped: dict[Path, str],
    strict: bool,
) -> None:
    """Edit the pictures at every strength and write the animation; see `sdd edit`.

    Args:
        skipped: which pictures cannot be used, and why; grows, unless `strict`.
    """
    import torch

    from sdd_fast.editing.animation import save_animation, sweep

    encoded: list[Tensor] = []
    for file in files:
        if sum(map(len, encoded)) >= MOST:
            raise ValueError(
                f"an animation shows at most {MOST} pictures side by side, more were given; name "
                "fewer of them"
            )
        try:
            encoded.append(_encoded(editor, file, aligned))
        except (ValueError, OSError) as error:
            if strict:
                raise
            skipped[file.absolute()] = explain(error)
    if not encoded:
        raise none_usable(skipped)
    frames = sweep(editor, torch.cat(encoded)[:MOST], strengths, levels)
    save_animation(out, frames, fps)
    for reason in skipped.values():
        say(f"warning: skipped: {reason}")
    left_out = [{"path": path, "reason": reason} for path, reason in skipped.items()]
    result(written=[out], strengths=list(strengths), skipped=left_out)
    first, last = (f"{strengths[i]:g}".replace("-", "−") for i in (0, -1))
    say(f"written: {out} ({len(strengths)} strengths from {first} to {last}, forth and back)")
    if skipped:
        raise typer.Exit(1)


def _encoded(editor: Editor, file: Path, aligned: bool) -> Tensor:
    """The latents of a picture, or those that a file holds."""
    from sdd_fast.editing.image_paths import LATENTS_SUFFIXES

    if file.suffix.lower() in LATENTS_SUFFIXES:
        return editor.latents_of(file)[0]
    return editor.encode(file, aligned=aligned)
