"""Edits as a repository: which part of an editor goes into it, and under which license."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..domains.spec import PRESETS
from ..files import PathLike, expanded
from ..manipulator import MapperInfo, save_mapper
from .card import UNKNOWN, Card, CardEdit, check_license, default_license
from .contents import BEFORE_AFTER, BUILT_IN, WEIGHTS, numbered
from .folder import write_folder
from .names import check_name
from .pictures import drawn_edit
from .push import Pushed, PushOptions, push_folder
from .runs import card_edit

NOWHERE = "OWNER/NAME"
"""In a card of a folder that has no name on the hub yet."""


@dataclass(frozen=True)
class Edits:
    """What goes into a repository.

    Args:
        edits: (mapper, info) pairs.
        runs: the folders that they were distilled in, one for each, or none.
        part: "mapper" or "editor", see `choose_part`.
        license: an identifier of the hub; None: what is known.
        save_editor: writes the whole editor to a path, for the part "editor".
        size: (height, width) of the images, where it is known.
        aligns: whether photographs are cropped to a face first.
        takes_images: whether there is an encoder.
        generator: draws pictures of an edit that has no run; None: there are none then.
    """

    edits: Sequence[tuple[nn.Module, MapperInfo]]
    runs: Sequence[Path | None]
    part: str
    license: str | None = None
    save_editor: Callable[[Path], Any] | None = None
    size: tuple[int, int] | None = None
    aligns: bool = False
    takes_images: bool = True
    generator: Any = None


def choose_part(part: str | None, infos: Sequence[MapperInfo]) -> str:
    """Return what to publish of an editor: "mapper", or "editor" with generator and encoder.

    By default a single mapper where others have its generator, or can have it: that of a domain
    which is built in, or a preset of published checkpoints, whose weights are not ours to publish.

    Raises:
        ValueError: another part; a mapper of several edits; or a domain of one's own, of which
            only its owner can say whether generator and encoder may be published.
    """
    domains = {info.domain for info in infos}
    if part is None:
        if domains <= set(BUILT_IN):
            return "mapper" if len(infos) == 1 else "editor"
        if domains <= {*BUILT_IN, *PRESETS} and len(infos) == 1:
            return "mapper"
        named = ", ".join(sorted(domains - {*BUILT_IN, *PRESETS} - {""})) or "of no known name"
        if not domains <= {*BUILT_IN, *PRESETS}:
            why = (
                f"the domain {named} does not come with sdd_fast, so that others have no generator"
            )
        else:
            why = f"a mapper is of one edit, and these are {len(infos)}"
        raise ValueError(
            f'{why}: say part="editor" (--part editor) to publish generator and encoder with the '
            'edit, or part="mapper" (--part mapper) for one edit alone'
        )
    if part not in WEIGHTS:
        raise ValueError(f"part must be one of {', '.join(WEIGHTS)}, got {part!r}")
    if part == "mapper" and len(infos) != 1:
        raise ValueError(
            f"a mapper is of one edit, and these are {len(infos)}; push them one by one, or "
            'together as part="editor" (--part editor)'
        )
    return part


def write_edits(folder: PathLike, given: Edits, name: str = NOWHERE) -> Path:
    """Write the files of a repository into a folder, see `folder.write_folder`; return it."""
    edits: list[CardEdit] = []
    pictures: dict[str, Path | bytes] = {}
    runs = given.runs or [None] * len(given.edits)
    for index, ((mapper, info), run) in enumerate(zip(given.edits, runs, strict=True)):
        edit, shown = card_edit(mapper, info, run, index)
        pictures |= shown
        if not edit.before_after and (drawn := drawn_edit(given.generator, mapper, info)):
            edit = replace(edit, before_after=numbered(BEFORE_AFTER, index), drawn=True)
            pictures[edit.before_after] = drawn
        edits.append(edit)
    size = given.size
    if size is None and edits[0].record is not None:
        size = (int(edits[0].record["resolution"]),) * 2
    card = Card(
        name=name,
        part=given.part,
        edits=edits,
        license=_license(given),
        size=size,
        aligns=given.aligns,
        takes_images=given.takes_images,
        presets=tuple(PRESETS),
    )
    return write_folder(folder, card, _saver(given), pictures)


def push_edits(name: str, given: Edits, options: PushOptions) -> Pushed:
    """Publish edits as a repository of the hub, see `push.push_folder`.

    Raises:
        ValueError: a wrong name; or a whole editor without a license, in whose file the weights of
            others may be.
    """
    check_name(name)
    if given.part == "editor" and _license(given) == UNKNOWN:
        raise ValueError(
            "an editor holds the weights of generator and encoder, and of these nobody has said a "
            'license: say it if you may publish them, as license="cc-by-nc-4.0" (--license), or '
            'push part="mapper" (--part mapper), the edit alone'
        )
    prompts = ", ".join(f"“{info.prompt or 'edit'}”" for _, info in given.edits)
    with tempfile.TemporaryDirectory(prefix="sdd-push-") as place:
        folder = write_edits(Path(place) / "repository", given, name)
        return push_folder(folder, name, options, f"Push {prompts}"[:200])


def run_folder_of(source: PathLike) -> Path | None:
    """Return the folder of the run that a source of an edit is or lies in; None of a lone file."""
    path = expanded(source)
    folder = path if path.is_dir() else path.parent
    own = path.is_dir() or path.name == WEIGHTS["mapper"]
    return folder if own and (folder / "history.json").exists() else None


def _license(given: Edits) -> str:
    if given.license is not None:
        return check_license(given.license)
    return default_license([info.domain for _, info in given.edits])


def _saver(given: Edits) -> Callable[[Path], Any]:
    if given.part == "editor":
        assert given.save_editor is not None
        return given.save_editor
    ((mapper, info),) = given.edits
    return lambda path: save_mapper(path, mapper, replace(info))
