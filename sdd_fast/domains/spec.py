"""The declarative file of a domain: what it may say, and where the files that it names are found.

A domain file is JSON. Everything but `name` and `source_text` may be left out::

    {
      "name": "ffhq-1024",
      "source_text": "a photo of a face",        what pictures show before an edit
      "generator": "stylegan2-ffhq-config-f.pt", a file, or alternatives: the first that exists
      "encoder": "e4e_ffhq_encode.pt",
      "diffusion": "owner/name",                 a folder, a single file or a hub id
      "identity": "model_ir_se50.pth",
      "clip": "clip-vit-base-patch32",           a folder of transformers' CLIPModel, to judge by
      "latents": "train_faces.pt",               pictures to distil with; else drawn at random
      "held_out": "test_faces.pt",               pictures to judge by; else some of the latents
      "align": "ffhq",                           raw photographs are cropped by landmarks
      "detector": "yunet.onnx",                  what finds the landmarks
      "content_rows": [64, 448],                 rows of a generated picture that show something
      "prompt_templates": {"attribute": "a photo of a face with {}"}
    }

Relative names are looked for beside the domain file, then in the folder of checkpoints.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import read_json

PARTS = (
    "generator", "encoder", "diffusion", "latents", "held_out", "clip", "identity", "classifier",
    "detector",
)  # fmt: skip
FOLDER_VARIABLE = "SDD_FAST_CHECKPOINTS"
PRESETS_FOLDER = Path(__file__).parent / "presets"

_TEXTS = ("name", "source_text")
_OTHERS = ("resolution", "prompts", "prompt_templates", "levels", "pull", "align", "content_rows",
           "where")  # fmt: skip
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class DomainSpec:
    """A domain file, checked, with its files found.

    Args:
        name: written into every mapper distilled with the domain.
        source_text: what its pictures show before an edit.
        parts: part → path, or hub id for "diffusion"; of the parts that the domain has.
        absent: part → why its file was not found and what to do; said when the part is needed.
        resolution: side of its pictures in pixels; None: that of the generator.
        prompts: prompts that are known to work.
        prompt_templates: {name: text with "{}"}, see `Domain.prompt`.
        levels: {prompt: mapper levels that suit it}. pull: {prompt: see `balanced_guidance_scale`}.
        align: "ffhq" if raw photographs are to be cropped by the landmarks of the face.
        content_rows: first and one past the last row of generated pictures that show something.
    """

    name: str
    source_text: str
    parts: dict[str, str]
    absent: dict[str, str] = field(default_factory=dict)
    resolution: int | None = None
    prompts: tuple[str, ...] = ()
    prompt_templates: dict[str, str] = field(default_factory=dict)
    levels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pull: dict[str, float] = field(default_factory=dict)
    align: str | None = None
    content_rows: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """The domain file that says the same, with absolute paths."""
        found: dict[str, Any] = {"name": self.name, "source_text": self.source_text, **self.parts}
        for key in ("resolution", "align"):
            if getattr(self, key) is not None:
                found[key] = getattr(self, key)
        for key in ("prompts", "content_rows"):
            if getattr(self, key):
                found[key] = list(getattr(self, key))
        for key in ("prompt_templates", "pull"):
            if getattr(self, key):
                found[key] = dict(getattr(self, key))
        if self.levels:
            found["levels"] = {prompt: list(names) for prompt, names in self.levels.items()}
        return found


def read_spec(path: Path, replaced: Mapping[str, str | None], *, lenient: bool) -> DomainSpec:
    """Read a domain file; `replaced` gives other files for some parts, None for doing without.

    Args:
        lenient: a missing file is reported only when it is needed, as for the presets, which name
            more than everyone has.

    Raises:
        FileNotFoundError: a file that it names is missing.
        ValueError: it is not what it should be.
    """
    source = path.stem if path.parent == PRESETS_FOLDER else str(path)
    return make_spec(read_json(path), path.parent, source, replaced, lenient=lenient)


def make_spec(
    content: Any, folder: Path, source: str, replaced: Mapping[str, str | None], *, lenient: bool
) -> DomainSpec:
    """`read_spec` of what a domain file holds; `source` is how messages call it."""
    _check(source, content)
    parts, absent = {}, {}
    for part in PARTS:
        if part in replaced:
            if replaced[part] is not None:
                parts[part] = _given(part, str(replaced[part]))
        elif content.get(part):
            found = _find(part, content[part], folder)
            if found is not None:
                parts[part] = found
            else:
                absent[part] = _absence(source, part, content, folder)
                if not lenient:
                    raise FileNotFoundError(absent[part])
    rows = content.get("content_rows")
    return DomainSpec(
        name=content["name"],
        source_text=content["source_text"],
        parts=parts,
        absent=absent,
        resolution=content.get("resolution"),
        prompts=tuple(content.get("prompts", ())),
        prompt_templates=dict(content.get("prompt_templates", {})),
        levels={prompt: tuple(names) for prompt, names in content.get("levels", {}).items()},
        pull={prompt: float(pull) for prompt, pull in content.get("pull", {}).items()},
        align=content.get("align"),
        content_rows=None if rows is None else (rows[0], rows[1]),
    )


def checkpoints_folder() -> Path:
    """Where files that a preset names are looked for: $SDD_FAST_CHECKPOINTS, or ./checkpoints."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "checkpoints").expanduser()


def _given(part: str, value: str) -> str:
    path = Path(value).expanduser()
    if path.exists():
        return str(path.resolve())
    # "runs/model" below an existing folder "runs" is a mistyped path, not a hub id.
    if part == "diffusion" and HUB_ID.fullmatch(value) and not Path(value).parent.exists():
        return value
    raise FileNotFoundError(f"{value}, given as the {part}, does not exist")


def _find(part: str, names: str | list[str], folder: Path) -> str | None:
    listed = [names] if isinstance(names, str) else names
    for name in listed:
        for place in (folder, checkpoints_folder()):
            path = place / Path(name).expanduser()
            if path.exists():
                return str(path.resolve())
    hub_ids = [name for name in listed if part == "diffusion" and HUB_ID.fullmatch(name)]
    return hub_ids[0] if hub_ids else None


def _absence(source: str, part: str, content: dict[str, Any], folder: Path) -> str:
    names = content[part]
    listed = names if isinstance(names, str) else " or ".join(names)
    where = content.get("where", {}).get(part)
    places = [checkpoints_folder()] if folder == PRESETS_FOLDER else [folder, checkpoints_folder()]
    return (
        f"the {part} of {source} is missing: {listed}, looked for in "
        f"{' and '.join(map(str, places))} (${FOLDER_VARIABLE}). Put it there or give "
        f"--{part.replace('_', '-')} FILE" + (f"; published at {where}" if where else "")
    )


def _check(source: str, content: Any) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{source}: expected an object, got {type(content).__name__}")
    missing = [key for key in _TEXTS if key not in content]
    unknown = [key for key in content if key not in (*_TEXTS, *PARTS, *_OTHERS)]
    if missing or unknown:
        raise ValueError(
            f"{source}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}; "
            f"required are {', '.join(_TEXTS)}, optional {', '.join((*PARTS, *_OTHERS))}"
        )
    problems = [
        f"{key} must be {wanted}, got {content[key]!r}"
        for key, (fits, wanted) in _RULES.items()
        if content.get(key) is not None and not fits(content[key])
    ]
    if problems:
        raise ValueError(f"{source}: " + "; ".join(problems))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(item) for item in value)


def _maps_to(fits: Any) -> Any:
    return lambda value: isinstance(value, dict) and all(fits(item) for item in value.values())


def _is_rows(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(row, int) for row in value)
        and 0 <= value[0] < value[1]
    )


_RULES: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(_TEXTS, (_is_text, "non-empty text")),
    **dict.fromkeys(PARTS, (
        lambda value: _is_text(value) or (_is_texts(value) and value),
        "a file name, or a list of alternatives",
    )),
    "resolution": (
        lambda value: isinstance(value, int) and value >= 8,
        "a whole number of at least 8 pixels",
    ),
    "prompts": (_is_texts, "a list of texts"),
    "prompt_templates": (
        _maps_to(lambda text: _is_text(text) and text.count("{}") == 1),
        "an object of texts that hold {} once",
    ),
    "levels": (_maps_to(_is_texts), "an object of lists of levels"),
    "pull": (
        _maps_to(lambda number: isinstance(number, (int, float)) and number > 0),
        "an object of positive numbers",
    ),
    "align": (lambda value: value == "ffhq", '"ffhq"'),
    "content_rows": (_is_rows, "[first row, one past the last row]"),
    "where": (_maps_to(_is_text), "an object of texts"),
}  # fmt: skip
