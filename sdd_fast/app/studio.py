"""What the sliders of a page do, without the page: pictures encoded once, edits of one pass each.

A `Studio` belongs to the server, a `Session` to one tab of a browser; sessions share networks and
nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from ..domains import Domain
from ..editing.animation import save_animation, strengths_between, sweep
from ..editing.edit_inputs import load_placed
from ..editing.editor import Editor
from ..editing.paste_back import paste_back
from ..files import PathLike
from ..images import fit, load_image, save_png, to_pil
from ..manipulator import MapperInfo
from ..models.mapper import LEVELS
from ..run_folder import remembered_domain
from ..shield import shielded
from .library import KnownRun, Library, read_edit

LOWEST, HIGHEST, STEP = -1.5, 2.0, 0.05
"""Of a strength."""

MOST_EDITS = 12
"""Sliders of one page."""

SAMPLES = 6
SWEEP = strengths_between(-1.0, 1.5, 24)


@dataclass(frozen=True)
class Picture:
    """A picture that was chosen, and all that edits of it need.

    Args:
        w_plus: [1, num_layers, w_dim].
        before: as the encoder sees it, of the size of edited images.
        name: of its file, without folder and ending.
        source: the file itself, to put edits back into; None: one of the domain's.
        aligned: whether it was said to be cropped to the face already.
    """

    w_plus: Tensor
    before: Image.Image
    name: str
    source: Path | None = None
    aligned: bool = False


@dataclass(frozen=True)
class Session:
    """What one tab of a browser has open.

    Args:
        editor: applies its edits. runs: their names, a slider each.
        picture: the one that is edited; None: none yet.
    """

    editor: Editor
    runs: tuple[str, ...]
    picture: Picture | None = None

    @property
    def prompts(self) -> list[str]:
        """What to call the sliders."""
        pairs = zip(self.editor.infos, self.runs, strict=True)
        return [info.prompt or name for info, name in pairs]

    @property
    def levels(self) -> list[str]:
        """Those that its edits change, the coarse ones first."""
        changed = {level for info in self.editor.infos for level in info.levels}
        return [level for level in LEVELS if level in changed] or list(LEVELS)


@dataclass(frozen=True)
class Settings:
    """Where the controls of a page are.

    Args:
        strengths: one for each edit of the session; more are those of sliders that are not shown.
        levels: which to change; None: all.
    """

    strengths: Sequence[float]
    levels: Sequence[str] | None = None


@dataclass
class Studio:
    """Opens pictures, edits them and adds runs, for the sessions of one server.

    Args:
        editor: of the runs that every session begins with.
        library: where runs are found; those that it was given are those of `editor`.
        domain: that all edits belong to; None: `editor` is a whole one of a file.

    Networks are used by one thread at a time, for one pass at a time: an animation does not keep a
    slider waiting.
    """

    editor: Editor
    library: Library
    domain: Domain | None = None
    samples: list[Image.Image] = field(default_factory=list)
    encoded: int = 0
    """Pictures that went through the encoder."""

    def __post_init__(self) -> None:
        self._networks = threading.RLock()
        if self.domain is not None:
            with shielded(grad=False):
                images = self.editor.generator.synthesis(self.domain.held_out[:SAMPLES])
            self.samples = [to_pil(image) for image in images.clamp(-1, 1).cpu()]

    @property
    def takes_photos(self) -> bool:
        """Whether pictures of one's own can be edited."""
        return self.editor.encoder is not None

    def new_session(self) -> Session:
        """A session with the runs that the server was given, and no picture."""
        names, count = [run.name for run in self.library.given], len(self.editor.infos)
        if len(names) != count:  # a whole editor is one file
            names = [f"{names[0]}, edit {i}" for i in range(1, count + 1)]
        return Session(self.editor, tuple(names))

    @shielded(grad=False)
    def open_sample(self, session: Session, index: int) -> Session:
        """Take one of the domain's pictures.

        Raises:
            ValueError: there is no such one.
        """
        if not 0 <= index < len(self.samples):
            raise ValueError(f"there is no sample {index + 1} here")
        name, image = f"sample-{index + 1}", self.samples[index]
        if self.takes_photos:
            return self._opened(session, load_image(image), name=name)
        assert self.domain is not None  # as it has samples
        w_plus = self.domain.held_out[index : index + 1].to(self.editor.device)
        return replace(session, picture=Picture(w_plus, image, name))

    @shielded(grad=False)
    def open_file(self, session: Session, path: PathLike, *, aligned: bool = False) -> Session:
        """Take a picture's file, such as an upload.

        Raises:
            ValueError: no picture, a damaged or too large one, no face in it where there should be
                one, or this editor takes latents only.
            OSError: it is not there any more.
        """
        source = Path(path)
        if not self.takes_photos:
            raise ValueError(
                "this editor has no encoder and edits its own samples only; start it with "
                "--encoder, or with a domain that has one"
            )
        try:
            crop = self.editor.load_images([source], aligned=aligned)[0]
        except ValueError as error:  # visitors know their file, not where it lies here
            raise ValueError(str(error).replace(str(source), source.name)) from error
        return self._opened(session, crop, name=source.stem, source=source, aligned=aligned)

    def _opened(self, session: Session, image: Tensor, **rest: Any) -> Session:
        """Encode an image [3, H, W] in [-1, 1], once for all that follows."""
        with self._networks:
            w_plus = session.editor.encode(fit(image, session.editor.input_size)[None])
            self.encoded += 1
        before = to_pil(fit(image, session.editor.image_size))
        return replace(session, picture=Picture(w_plus, before, **rest))

    def edit(self, session: Session, settings: Settings) -> Image.Image:
        """The edited picture, in one pass of mappers and generator.

        Raises:
            ValueError: there is no picture, or strengths for edits that the session does not have.
        """
        picture = _picture_of(session)
        strengths = _strengths_of(session, settings)
        with self._networks:
            edited = session.editor.edit(picture.w_plus, [strengths], settings.levels)
        return to_pil(edited[0])

    def write_animation(
        self, session: Session, settings: Settings, which: int | None, path: PathLike
    ) -> Path:
        """Write the edit at growing strength as an animated picture.

        Args:
            which: the edit whose strength grows, while the others stay; None: all of them together.

        Raises:
            ValueError: as `edit`, or no such edit.
        """
        picture, held = _picture_of(session), _strengths_of(session, settings)
        if which is not None and not 0 <= which < len(held):
            raise ValueError(f"there is no edit {which + 1} here")
        frames = sweep(_OneOf(self, session, held, which), picture.w_plus, SWEEP, settings.levels)
        return save_animation(path, frames)

    def write_picture(
        self, session: Session, settings: Settings, path: PathLike, *, into_photo: bool = False
    ) -> Path:
        """Write the edited picture as a PNG in full size.

        Args:
            into_photo: put what the edit changed into the whole photograph.

        Raises:
            ValueError: as `edit`. OSError: the photograph is not there any more.
        """
        picture = _picture_of(session)
        if not into_photo or picture.source is None:
            save_png(path, self.edit(session, settings))
            return Path(path)
        if not picture.source.is_file():
            raise FileNotFoundError(
                f"{picture.source.name} is not kept that long; choose the picture again"
            )
        editor = session.editor
        align = None if picture.aligned else editor.align
        placed = load_placed(picture.source, editor.input_size, align)
        strengths = _strengths_of(session, settings)
        with self._networks:
            before = editor.edit(picture.w_plus, 0.0, settings.levels)
            after = editor.edit(picture.w_plus, [strengths], settings.levels)
        save_png(path, paste_back(placed.photo, after[0], before[0], placed.quad))
        return Path(path)

    def add_run(self, session: Session, name: str) -> Session:
        """The session with one more edit, of a run that the library knows.

        Raises:
            ValueError: there is no such run, it is here already, it belongs to another domain, or
                there are as many edits as sliders.
            OSError: its mapper cannot be read.
        """
        run = self.library.find(name)
        if run.name in session.runs:
            raise ValueError(f"“{run.name}” is among the sliders already")
        if len(session.runs) >= MOST_EDITS:
            raise ValueError(
                f"there are {MOST_EDITS} edits here, which is the most; reload the page"
            )
        mapper, info = read_edit(run)
        self._check_domain(run, info)
        old = session.editor
        assert isinstance(mapper, nn.Module)
        pairs = [*zip(old.mappers, old.infos, strict=True), (mapper.to(old.device), info)]
        editor = Editor(old.generator, pairs, old.encoder, old.align)
        return replace(session, editor=editor, runs=(*session.runs, run.name))

    def _check_domain(self, run: KnownRun, info: MapperInfo) -> None:
        """Refuse a run of another domain by what it says; whatever it names is not opened."""
        here = self.domain.name if self.domain is not None else self.editor.infos[0].domain
        theirs = info.domain if info.domain and here and info.domain != here else ""
        home = remembered_domain(run.path) if run.path.is_dir() else None
        if not theirs and home and self.domain is not None and home != self.domain.reference:
            theirs = f"another one that is called {here} as well"
        if theirs:
            raise ValueError(
                f"“{run.name}” was distilled in another domain: {theirs}; this page edits pictures "
                f"of {here or 'one without a name'}. Start a page of its own for it (sdd app), or "
                "distill its prompt here"
            )


@dataclass(frozen=True)
class _OneOf:
    """An editor for `sweep` that lets one strength grow, or all, and others come in between."""

    studio: Studio
    session: Session
    held: Sequence[float]
    which: int | None

    def encode(self, images: Any, /, *, aligned: bool) -> Tensor:
        return images  # they are latents

    def edit(self, images: Tensor, strength: Any, levels: Sequence[str] | None, /) -> Tensor:
        strengths = [
            strength if self.which in (None, i) else value for i, value in enumerate(self.held)
        ]
        with self.studio._networks:
            edited: Tensor = self.session.editor.edit(images, [strengths], levels)
        return edited


def _picture_of(session: Session) -> Picture:
    if session.picture is None:
        raise ValueError("choose a picture first")
    return session.picture


def _strengths_of(session: Session, settings: Settings) -> list[float]:
    count = len(session.runs)
    strengths = [float(value) for value in settings.strengths]
    if len(strengths) < count or any(strengths[count:]):
        raise ValueError(
            f"this page has sliders for other edits than the {count} that are open; reload it"
        )
    return strengths[:count]
