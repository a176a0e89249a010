"""sdd edit: apply distilled edits to picture files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .console import command, explain, result, say
from .edit_results import ResultOptions, counted, none_usable, tell
from .sweep import check_sweep, strengths_of, write_sweep
from .video import check_video_options, video_among, write_video

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdd_fast.editing.editor import Editor
    from sdd_fast.editing.image_paths import OnError

MAPPER_SUFFIXES = (".safetensors", ".pt")
SHOWN = 10  # pictures in the grid


@command
def edit(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN... PICTURE...",
            help="One or several edits (run folders, mapper files, also StyleCLIP's, or OWNER/NAME "
            "on the Hugging Face hub), then picture files, folders of them, patterns such as "
            "'faces/*.jpg', files of latents, or a video.",
        ),
    ],
    results: ResultOptions,
    *,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the edited pictures; for one picture also a name, such as me.webp; "
            "for a video one in .mp4.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = Path("edited"),
    strength: Annotated[
        str,
        typer.Option(
            help="0 reconstructs, 1 is the edit as distilled, −1 goes the other way, 1.5 "
            "exaggerates. For several edits one number each: 1,0.5."
        ),
    ] = "1",
    levels: Annotated[
        str | None,
        typer.Option(
            help="Only these of coarse,medium,fine (or all, of a mapper with one MLP). Default: "
            "those that were distilled."
        ),
    ] = None,
    strict: options.Strict = False,
    aligned: options.Aligned = False,
    domain: options.DomainOfEdit = None,
    generator: options.Generator = None,
    encoder: options.Encoder = None,
    detector: options.Detector = None,
    device: options.Device = "cpu",
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the networks with torch.compile first: takes minutes, for very many "
            "pictures.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
) -> None:
    """Edit pictures: each in one forward pass, without a diffusion model.

    Any size and common format; pictures are cropped to the shape of the domain's, photographs of
    faces by the landmarks of the face, and put back into the photograph. A file of W+ latents, such
    as `sdd invert` writes, may stand for pictures. Inputs are never replaced, earlier results only
    with --overwrite. Several edits are applied at once. Pictures that cannot be read are left out
    and listed at the end; the exit status is then 1.

    \b
    Examples:
      sdd edit runs/white-hair me.jpg
      sdd edit runs/smile faces/ --strength 0.6 --out smiling
      sdd edit runs/white-hair runs/smile me.jpg --strength 1,0.5
      sdd edit runs/white-hair me.jpg --strength=-1 --out me.webp
      sdd edit runs/smile albums/ --recursive --format jpeg --keep exif
      sdd edit purple_hair.pt me.jpg --domain ffhq-1024
      sdd edit runs/smile clip.mp4 --out smiling.mp4
      sdd edit someone/white-hair@v1.0 me.jpg
    """
    import time

    from sdd_fast.editing.editor import Editor

    strengths = options.numbers(strength, "--strength")
    wanted = options.comma_list(levels, "--levels")
    save_as = results.save_as()
    swept = None if results.sweep is None else strengths_of(results.sweep)
    if swept is not None:
        check_sweep(out, results.overwrite, results.fps)
    edits, pictures = split_paths(paths)
    video = video_among(pictures)
    if video is not None:
        check_video_options(video, out, results)
    skipped: dict[Path, str] = {}

    def leave_out(path: Path, error: Exception) -> None:
        skipped[path.absolute()] = explain(error)

    on_error = None if strict else leave_out
    files = [] if video else _files(pictures, on_error, results.recursive, out)
    if not files and video is None:
        raise none_usable(skipped)
    parts = {"generator": generator, "encoder": encoder, "detector": detector}
    mappers = [mapper_file(path) for path in edits]
    editor = Editor.load(mappers, domain, device, **options.chosen(parts))
    if swept is not None:
        return write_sweep(
            editor, files, out, swept, levels=wanted, aligned=aligned, fps=results.fps,
            skipped=skipped, strict=strict,
        )  # fmt: skip
    amount = strengths[0] if len(strengths) == 1 else strengths
    if compiled:
        _compile(editor, files)
    if video is not None:
        return write_video(editor, video, out, amount, wanted, aligned, results)
    there = {path.absolute() for path in out.rglob("*")} if results.skip_existing else set()
    began = time.perf_counter()
    written = editor.edit_files(
        pictures, out, amount, wanted, suffix=results.suffix, aligned=aligned,
        overwrite=results.overwrite, skip_existing=results.skip_existing, strict=strict,
        recursive=results.recursive, save_as=save_as, on_error=on_error,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if not written:
        raise none_usable(skipped)
    new = [path for path in written if path not in there]
    kept = len(written) - len(new) if results.skip_existing else None
    usable = [path for path in files if path.absolute() not in skipped]
    _report(
        written, new, kept, skipped, seconds, out, results.overwrite,
        lambda: _grid(editor, usable, strengths, wanted, aligned),
    )  # fmt: skip


def _report(
    written: Sequence[Path],
    new: Sequence[Path],
    kept: int | None,
    skipped: Mapping[Path, str],
    seconds: float,
    out: Path,
    overwrite: bool,
    draw: Callable[[], Image],
) -> None:
    """Tell what was edited and what was left out, and write before and after."""
    for reason in skipped.values():
        say(f"warning: skipped: {reason}")
    tell(new, kept, seconds, out)
    shown_grid = _write_grid(out, overwrite, len(written), draw)
    if shown_grid is not None:
        say(f"before/after: {shown_grid}")
    left_out = [{"path": path, "reason": reason} for path, reason in skipped.items()]
    result(written=written, grid=shown_grid, skipped=left_out, seconds=seconds)
    if skipped:
        raise typer.Exit(1)


def _without_grid(error: OSError, grid: Path, edited: int, out: Path) -> OSError:
    """What became of an edit whose results are written, but for the picture of some of them."""
    import os

    reason = error.strerror if error.errno is None else os.strerror(error.errno)
    told = (
        f"the grid of pictures before and after could not be written ({reason}). "
        f"The {counted(edited)} in {out} are whole; when the grid can be written, the same "
        "command with --skip-existing makes it alone"
    )
    return OSError(error.errno, told, str(grid))


def _files(
    pictures: Sequence[Path], on_error: OnError | None, recursive: bool, out: Path
) -> list[Path]:
    """The files that `edit_files` will find, without its warnings: it gives them."""
    import warnings

    from sdd_fast.editing.image_paths import find_images
    from sdd_fast.files import settled

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return find_images(pictures, on_error, recursive=recursive, without=settled(out))


def _write_grid(out: Path, overwrite: bool, edited: int, draw: Callable[[], Image]) -> Path | None:
    """Write before and after; None where the result is one file, beside which none is wanted."""
    from sdd_fast.files import unused
    from sdd_fast.images import save_png
    from sdd_fast.run_folder import GRID_FILE

    if not out.is_dir():
        return None
    path = out / "grid" / GRID_FILE  # beside the pictures it would be taken for one
    if not overwrite:
        path = unused(path)
    try:
        save_png(path, draw())
    except OSError as error:
        raise _without_grid(error, path, edited, out) from error
    return path


def _compile(editor: Editor, files: Sequence[Path]) -> None:
    from sdd_fast.editing.editor import BATCH_SIZE
    from sdd_fast.editing.image_paths import LATENTS_SUFFIXES
    from sdd_fast.report.wording import duration

    some = bool(files) and all(path.suffix.lower() not in LATENTS_SUFFIXES for path in files)
    seconds = editor.compile(min(len(files), BATCH_SIZE) if some else BATCH_SIZE)
    say(f"compiled in {duration(seconds)}")


def split_paths(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Tell edits from pictures by what is at each path."""
    from sdd_fast.run_folder import MAPPER_FILE

    edits = [path for path in paths if _is_edit(path)]
    pictures = [path for path in paths if not _is_edit(path)]
    if not edits:
        first = paths[0]
        inner = sorted(p.parent for p in first.glob(f"*/{MAPPER_FILE}")) if paths else []
        if inner:
            names = ", ".join(str(path) for path in inner)
            raise ValueError(f"{first} holds several runs; name one or more of them: {names}")
        if not first.exists():
            raise ValueError(
                f"{first}: there is no such run folder, mapper file or picture, and it is no name "
                "on the hub (OWNER/NAME, or hf://OWNER/NAME beside a folder OWNER)"
            )
        raise ValueError(
            "no edit was given: name a run folder of `sdd distill` (or a mapper file) before the "
            f"pictures, as in {options.command_line('edit', 'runs/white-hair', first)}"
        )
    if not pictures:
        missing = [path for path in edits if not (path.exists() or _is_on_hub(path))]
        if missing:
            raise ValueError(f"{missing[0]}: there is no such file")
        raise ValueError(
            "no pictures were given: name picture files or a folder of them after the edit, as in "
            f"{options.command_line('edit', edits[0], 'me.jpg')}"
        )
    return edits, pictures


def _is_on_hub(path: Path) -> bool:
    from sdd_fast.hub.names import hub_name

    return hub_name(path) is not None


def _is_edit(path: Path) -> bool:
    if path.is_dir():
        from sdd_fast.hub.contents import EDITOR_FILE
        from sdd_fast.run_folder import MAPPER_FILE, RUN_FILE

        return any((path / name).exists() for name in (RUN_FILE, MAPPER_FILE, EDITOR_FILE))
    if _is_on_hub(path):
        return True
    if path.suffix.lower() not in (*MAPPER_SUFFIXES, ".pth"):
        return False
    from sdd_fast.checkpoints import latents
    from sdd_fast.checkpoints.formats.read import read_checkpoint

    try:
        return latents.describe(read_checkpoint(path)) is None
    except (OSError, ValueError):
        return True  # what is wrong with it is said when it is loaded


def mapper_file(path: Path) -> Path:
    """What `load_mapper` reads of an edit, unless it is a file for other programs."""
    from sdd_fast.checkpoints.formats.read import scan
    from sdd_fast.editing.editor import mapper_file as file_of

    if path.suffix.lower() == ".pt" and path.exists() and scan(path).format == "torchscript":
        raise ValueError(
            f"{path}: TorchScript files are for other programs; here give the run folder, or the "
            "safetensors file of `sdd export`"
        )
    return file_of(path)


def _grid(
    editor: Editor,
    files: Sequence[Path],
    strengths: list[float],
    levels: list[str] | None,
    aligned: bool,
) -> Image:
    """Before and after of the first pictures; of the first latents, if there are no pictures."""
    from sdd_fast.editing.image_paths import LATENTS_SUFFIXES
    from sdd_fast.grid import grid
    from sdd_fast.images import fit

    pictures = [path for path in files if path.suffix.lower() not in LATENTS_SUFFIXES][:SHOWN]
    rows, labels = [], []
    if pictures:
        loaded = editor.load_images(pictures, aligned=aligned)
        rows, labels = [fit(loaded, editor.image_size)], ["input"]
        w_plus = editor.encode(loaded)
    else:
        w_plus = editor.latents_of(files[0])[0][:SHOWN]
    shown = strengths * len(editor.infos) if len(strengths) == 1 else strengths
    parts = [
        f"“{info.prompt or 'edit'}” × {value:g}".replace("-", "−")
        for info, value in zip(editor.infos, shown, strict=True)
    ]
    rows += [editor.edit(w_plus, 0.0).cpu(), editor.edit(w_plus, shown, levels).cpu()]
    labels += ["reconstructed" if pictures else "before", " + ".join(parts)]
    return grid(rows, row_labels=labels, cell=256 if editor.image_size[1] > 256 else None)
