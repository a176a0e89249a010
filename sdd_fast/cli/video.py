"""sdd edit of a video: frame by frame, into another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .console import result, say
from .edit_results import ResultOptions, in_time

if TYPE_CHECKING:
    from sdd_fast.editing.editor import Editor

_FOR_PICTURES = (
    "suffix",
    "recursive",
    "format",
    "quality",
    "keep",
    "sweep",
    "fps",
    "skip_existing",
)


def video_among(pictures: Sequence[Path]) -> Path | None:
    """Return the video to edit, if there is one; it is then the only thing to edit."""
    from sdd_fast.editing.video import VIDEO_SUFFIXES

    videos = [path for path in pictures if path.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        return None
    if len(pictures) > 1:
        raise ValueError(
            f"a video is edited alone, but {len(pictures)} files or folders were given, among them "
            f"{videos[0]}; give one command for each video and one for the pictures"
        )
    return videos[0]


def check_video_options(video: Path, out: Path, results: ResultOptions) -> None:
    """Raise before any work where the video cannot be written, or for options of pictures."""
    from sdd_fast.editing.video import check_video

    usual = ResultOptions()
    for name in _FOR_PICTURES:
        if getattr(results, name) != getattr(usual, name):
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter("it is for pictures, not for a video", param_hint=option)
    check_video(video, out, results.overwrite)


def write_video(
    editor: Editor,
    video: Path,
    out: Path,
    strength: float | list[float],
    levels: Sequence[str] | None,
    aligned: bool,
    results: ResultOptions,
) -> None:
    """Edit the frames and say how long it took."""
    import time

    from sdd_fast.editing.video import edit_video
    from sdd_fast.progress import Progress, show

    began, frames = time.perf_counter(), 0
    shown = show()

    def count(event: Progress) -> None:
        nonlocal frames
        frames = event.done
        shown(event)

    edit_video(
        editor, video, out, strength, levels, aligned=aligned, paste_back=results.paste_back,
        overwrite=results.overwrite, progress=count,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    result(written=[out], frames=frames, seconds=seconds)
    say(f"edited {in_time(frames, seconds, 'frame')}: {out}")
