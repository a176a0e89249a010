"""Files in and out of `Editor.edit_files`: what results are called, what may be in their way, how
they are read and written beside the networks."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..checkpoints.load import load_latents
from ..decoding import check_image
from ..files import PathLike, make_folder, parse_json, read_metadata, settled
from ..pipeline import MOST_THREADS, map_ahead
from ..progress import Task
from ..schema import is_list_of, is_text
from .image_paths import LATENTS_SUFFIXES, OnError, find_images, folder_below


class Latent(NamedTuple):
    """One of a file's latents, which is read when its turn has come."""

    file: Path
    row: int


Source = Path | Latent


class Inputs(NamedTuple):
    """What is meant to be edited: image files, latents of other files, and a name for each.

    A name is the path of a result, relative to the folder of results and without its ending.
    """

    files: list[Path]
    latents: list[Latent]
    names: list[str]


def inputs(
    paths: PathLike | Sequence[PathLike],
    latents_of: Callable[[Path], tuple[Tensor, list[str]]],
    on_error: OnError | None,
    *,
    ending: Callable[[Path | None], str],
    recursive: bool = False,
    out: Path | None = None,
) -> Inputs:
    """Find what is meant.

    Args:
        paths: image files, folders of them, patterns, and files of latents.
        latents_of: reads the latents [N, num_layers, w_dim] of a file, and their names.
        on_error, recursive: see `find_images`.
        ending: of the result of a file, which tells which of them would have one name.
        out: the folder of results, which is none of inputs.
    """
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    given = [settled(path) for path in listed]
    roots = [path for path in given if path.is_dir()] if recursive else []
    files: list[Path] = []
    latents: list[Latent] = []
    names: list[str] = []
    for path in find_images(given, on_error, recursive=recursive, without=out):
        if path.suffix.lower() in LATENTS_SUFFIXES:
            of_rows = latents_of(path)[1]
            latents += [Latent(path, i) for i in range(len(of_rows))]
            names += of_rows
        else:
            files.append(path)
    return Inputs(files, latents, _names_of_images(files, roots, ending) + names)


def edit_all(
    pairs: Iterable[tuple[Source, Path]],
    *,
    latents_of: Callable[[Path], tuple[Tensor, list[str]]],
    load: Callable[[Path], Tensor],
    edit: Callable[[list[Tensor], list[Tensor]], Tensor],
    write: Callable[[tuple[Path, Tensor]], None],
    batch_size: int,
    on_error: OnError | None,
    task: Task,
) -> None:
    """Edit (image file or latent, target) pairs; read and write beside the networks.

    Args:
        latents_of: see `inputs`. load: image file → [3, H, W]. edit: a batch of images and one of
            latents → edited images, those of images first. write: (target, edited image); it and
            `load` are called in threads.
        batch_size: of `edit`. As many are read ahead and wait to be written at most.

    Raises:
        ValueError, OSError: an image cannot be read, and no `on_error`, or not be written.
    """
    threads = min(MOST_THREADS, torch.get_num_threads())
    opened = _opened(pairs, latents_of)
    with closing(map_ahead(partial(_loaded, load), opened, batch_size, threads)) as loaded:
        edited = _edited(loaded, edit, batch_size, on_error, task)
        with closing(map_ahead(write, edited, batch_size, threads)) as written:
            for _ in written:
                task.advance()


def _opened(
    pairs: Iterable[tuple[Source, Path]], latents_of: Callable[[Path], tuple[Tensor, list[str]]]
) -> Iterator[tuple[Path | Tensor, Path]]:
    """The pairs with latents [num_layers, w_dim]; their files are read one after the other."""
    file: Path | None = None
    for source, target in pairs:
        if isinstance(source, Path):
            yield source, target
            continue
        if source.file != file:
            file, w_plus = source.file, latents_of(source.file)[0]
        yield w_plus[source.row], target


def _loaded(
    load: Callable[[Path], Tensor], pair: tuple[Path | Tensor, Path]
) -> tuple[Path | Tensor, Path, Tensor | Exception]:
    """The pair, and its image or latent, or why there is none."""
    source, target = pair
    if isinstance(source, Tensor):
        return source, target, source
    try:
        return source, target, load(source)
    except (ValueError, OSError) as error:
        return source, target, error


def _edited(
    loaded: Iterator[tuple[Path | Tensor, Path, Tensor | Exception]],
    edit: Callable[[list[Tensor], list[Tensor]], Tensor],
    batch_size: int,
    on_error: OnError | None,
    task: Task,
) -> Iterator[tuple[Path, Tensor]]:
    """(target, edited image [3, H, W] on the CPU) of all that could be read."""
    while chunk := list(islice(loaded, batch_size)):
        images, latents, of_images, of_latents = [], [], [], []
        for source, target, found in chunk:
            if isinstance(source, Tensor):
                latents.append(source)
                of_latents.append(target)
            elif isinstance(found, Tensor):
                images.append(found)
                of_images.append(target)
            else:
                _leave_out(source, found, on_error)
                task.advance()
        if targets := of_images + of_latents:
            yield from zip(targets, edit(images, latents).cpu(), strict=True)


def _leave_out(file: Path, error: Exception, on_error: OnError | None) -> None:
    if on_error is None:
        raise error
    if isinstance(error, ValueError):
        on_error(file, error)
    elif readable([file], on_error):
        raise error  # the fault is not the image's


def _names_of_images(
    files: Sequence[Path], roots: Sequence[Path], ending: Callable[[Path | None], str]
) -> list[str]:
    """Name each result: as its file without the ending, which stays where others are called so."""
    short = [folder_below(path, roots) / path.stem for path in files]
    results = [f"{name}{ending(path)}" for name, path in zip(short, files, strict=True)]
    count = Counter(map(_alike, results))
    return [
        str(name if count[_alike(result)] == 1 else name.with_name(path.name))
        for name, result, path in zip(short, results, files, strict=True)
    ]


def read_latents(path: Path, num_layers: int, w_dim: int) -> tuple[Tensor, list[str]]:
    """The W+ latents [N, num_layers, w_dim] of a file, and a name for each.

    Raises:
        ValueError: the file holds others, or none.
    """
    w_plus = load_latents(path, num_layers)
    names = names_of_latents(path, len(w_plus))
    if list(w_plus.shape[1:]) != [num_layers, w_dim]:
        raise ValueError(
            f"{path} holds latents of shape {list(w_plus.shape[1:])}, but the generator's are "
            f"{[num_layers, w_dim]}: they belong to another generator"
        )
    return w_plus, names


def names_of_latents(path: Path, count: int) -> list[str]:
    """Name each latent of a file: by the stems of the images that it tells of, or numbers."""
    if path.suffix.lower() == ".safetensors":
        told = read_metadata(path).get("names", "[]")
        with suppress(ValueError):  # in a file of another program they may be anything
            told = parse_json(told)
        names = [Path(name).stem for name in told] if is_list_of(is_text)(told) else []
        if len(set(names)) == count == len(names):
            return names
    return [f"{path.stem}-{i + 1:04d}" for i in range(count)]


def check_suffix(suffix: str, out: Path) -> None:
    """Raise ValueError where what is appended to names would lead out of the folder of results."""
    if "\0" in suffix or Path(f"a{suffix}").name != f"a{suffix}":
        raise ValueError(
            f"{'…' + suffix!r} is no name of a file in {out}; a suffix for names must hold no "
            "separator and no NUL"
        )


def check_targets(
    files: Sequence[Path],
    out: Path,
    targets: Sequence[Path],
    overwrite: bool,
    skip_existing: bool,
) -> None:
    """Raise where a result cannot or must not be written, before the first one is.

    Raises:
        ValueError: nothing to edit, two results of one name, or a result in place of an input.
        FileExistsError: a result is there, and neither `overwrite` nor `skip_existing`.
        OSError: the folder cannot be written to, a name is too long, or a folder has the name.
    """
    if not targets:
        raise ValueError("no images to edit: the list is empty")
    # `out`, or the first above it that exists: on the same disk, and with its rights.
    folder = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; expected a folder for the edited images")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} is read-only; choose another folder")
    _check_names(targets, out, folder)
    inputs = {_identity(path) for path in files if path.exists()}
    there = [target for target in targets if target.exists()]
    for target in there:
        if _identity(target) in inputs:
            raise ValueError(
                f"{target} would overwrite its input; choose another folder, or a suffix for the "
                "names (--suffix)"
            )
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder, so no image can be written there")
    if there and not (overwrite or skip_existing):
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise FileExistsError(
            f"{there[0]}{more} would be replaced; choose another folder, or pass overwrite=True to "
            "replace what is there or skip_existing=True to edit only the others"
        )


def readable(files: Sequence[Path], on_error: OnError | None) -> set[Path]:
    """Return the files whose headers are those of images; of the others tell `on_error`.

    Raises:
        ValueError, OSError: there is such another, and no `on_error`.
    """
    good = set()
    for path in files:
        try:
            check_image(path)
            good.add(path)
        except (ValueError, OSError) as error:
            if on_error is None:
                raise
            on_error(path, error)
    return good


def write_result(
    target: Path, save: Callable[[Path], None], overwrite: bool, skip_existing: bool
) -> None:
    """Have an edited image saved, unless another process came to write there meanwhile.

    Raises:
        FileExistsError: it did, and neither `overwrite` nor `skip_existing`.
        ValueError: the image holds NaN or infinity. OSError: it cannot be written.
    """
    if skip_existing and target.exists():
        return
    check_targets([], target.parent, [target], overwrite, False)
    try:
        save(target)
    except ValueError as error:
        told = str(error)
        raise ValueError(told if str(target) in told else f"{target}: {told}") from error


@contextmanager
def folder_for_results(folder: Path, within: Iterable[Path] = ()) -> Iterator[None]:
    """Make a folder and those `within` it, and remove them where nothing came to lie in them.

    Of several threads that write there none could know whether it is the first or the last.
    """
    wanted = {folder, *within}
    made = {place for one in wanted for place in (one, *one.parents) if not place.exists()}
    try:
        for place in wanted:
            make_folder(place)
        yield
    finally:
        with suppress(OSError):  # as long as they are empty
            for place in sorted(made, key=lambda place: -len(place.parts)):  # innermost first
                place.rmdir()


@contextmanager
def telling_what_is_kept(done: Set[Path], total: int, folder: Path) -> Iterator[None]:
    """Say in a KeyboardInterrupt how many came to be `done`, and how to go on."""
    before = len(done)
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"{error or 'stopped by Ctrl-C'} after {len(done) - before} of {total} images; those "
            f"that are edited are kept in {folder}. To edit the others, repeat it with "
            "--skip-existing (in Python: skip_existing=True)"
        ) from None


def _check_names(targets: Sequence[Path], out: Path, folder: Path) -> None:
    for target in targets:
        try:
            os.lstat(folder / target.name)
        except FileNotFoundError:
            continue
        except OSError as error:  # such as a name that is too long for this disk
            raise OSError(error.errno, error.strerror, str(target)) from error
    names = Counter(str(target.relative_to(out)) for target in targets)
    doubled = sorted(name for name, count in names.items() if count > 1)
    if doubled:
        raise ValueError(
            f"several inputs would be written to {', '.join(doubled[:5])}; edit them one after the "
            "other, each into a folder of its own, or give the folder that holds them all and "
            "recursive=True"
        )
    alike = Counter(map(_alike, names))
    if len(alike) < len(names) and _ignores_case(folder):
        same = sorted(name for name in names if alike[_alike(name)] > 1)
        raise ValueError(
            f"{', '.join(same[:5])} are one file on the disk of {folder}, which does not tell "
            "upper from lower case; edit them one after the other, each into a folder of its own"
        )


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _ignores_case(folder: Path) -> bool:
    """Try whether a disk takes "a" and "A" for one name."""
    with tempfile.NamedTemporaryFile(prefix=".sdd-a", suffix=".tmp", dir=folder) as probe:
        path = Path(probe.name)
        return path.with_name(path.name.swapcase()).exists()


def _identity(path: Path) -> tuple[int, int]:
    """What tells a file from others, by whatever name or link it is found."""
    status = path.stat()
    return status.st_dev, status.st_ino
