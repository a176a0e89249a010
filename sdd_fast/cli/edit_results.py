"""How `sdd edit` writes its results, and tells of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .console import say

if TYPE_CHECKING:
    from sdd_fast.editing.save_as import SaveAs


@dataclass(frozen=True)
class ResultOptions:
    """How results are written, and what of inputs is taken."""

    suffix: Annotated[
        str,
        typer.Option(
            help="Appended to the names, before their ending.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = ""
    recursive: Annotated[
        bool,
        typer.Option(
            "--recursive",
            "-r",
            help="Of folders take all that is in them; results lie in folders of the same names.",
        ),
    ] = False
    format: Annotated[
        str,
        typer.Option(
            help="png, jpeg, webp, or same: that of each picture.", rich_help_panel=options.OUTPUT
        ),
    ] = "png"
    quality: Annotated[
        int, typer.Option(help="Of JPEG and WebP, 1 to 100.", rich_help_panel=options.OUTPUT)
    ] = 95
    keep: Annotated[
        str | None,
        typer.Option(
            help="What of a picture's file to keep: exif (date, camera, place), icc (its color "
            "profile; else results are sRGB), or exif,icc. Default: nothing.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None
    paste_back: Annotated[
        bool | None,
        typer.Option(
            "--paste-back/--no-paste-back",
            help="Write whole photographs, edited where the edit changed something, or the crops "
            "alone. Default: whole where a face was looked for.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST:LAST:COUNT",
            help="Write one animation of the edit at so many strengths, such as -1:1.5:24, to "
            "--out, a .gif, .webp or .mp4.",
            show_default=False,
        ),
    ] = None
    fps: Annotated[float, typer.Option(help="Frames a second of --sweep.")] = 12.0
    overwrite: options.Overwrite = False
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Keep results that are in --out and edit the other pictures, as after an "
            "interruption.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False

    def save_as(self) -> SaveAs:
        from sdd_fast.editing.save_as import SaveAs

        kept = options.comma_list(self.keep, "--keep") or []
        return SaveAs(self.format, self.quality, tuple(kept), self.paste_back)


def tell(new: Sequence[Path], kept: int | None, seconds: float, out: Path) -> None:
    from sdd_fast.files import shown

    if new:
        say(f"edited {in_time(len(new), seconds)}: {shown(new[0]) if len(new) == 1 else out}")
    if kept is not None:
        say(f"already there: {counted(kept)}")


def counted(count: int, what: str = "picture") -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def in_time(count: int, seconds: float, what: str = "picture") -> str:
    """ "10,000 pictures in 95 s (105 pictures/s)"."""
    from sdd_fast.report.wording import duration

    rate = count / seconds
    digits = 0 if rate >= 10 else 1
    return f"{counted(count, what)} in {duration(seconds)} ({rate:,.{digits}f} {what}s/s)"


def none_usable(skipped: Mapping[Path, str]) -> ValueError:
    return ValueError("none of the pictures can be edited:\n  " + "\n  ".join(skipped.values()))
