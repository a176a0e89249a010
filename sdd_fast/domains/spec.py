"""The declarative file of a domain: what it may say, and where the files that it names are found.

A domain file is JSON. Everything but `name` and `source_text` may be left out::

    {
      "name": "ffhq-1024",
      "source_text": "a photo of a face",        what images show before an edit
      "generator": "stylegan2-ffhq-config-f.pt", a file, or alternatives: the first that exists
      "encoder": "e4e_ffhq_encode.pt",
      "diffusion": "owner/name",                 a folder, a single file or a hub id
      "vae": "better-vae.safetensors",           in place of the diffusion model's own
      "lora": "style.safetensors:0.8",           fused into it; a scale may follow; or a list
      "variant": "fp16",                         of the weights in its folder
      "identity": "model_ir_se50.pth",
      "clip": "clip-vit-base-patch32",           a folder of transformers' CLIPModel, to judge by
      "latents": "train_faces.pt",               images to distill with; else drawn at random
      "held_out": "test_faces.pt",               images to judge by; else some of the latents
      "align": "ffhq",                           raw photographs are cropped by landmarks
      "detector": "yunet.onnx",                  what finds the landmarks
      "content_rows": [64, 448],                 rows of a generated image that show something
      "nouns": {"image": "face", "subject": "person"},   what reports say for these words
      "prompt_templates": {"attribute": "a photo of a face with {}"},
      "levels": {"a smile": ["medium"]},         mapper levels that suit a prompt
      "guidance_rms": {"a smile": 2},            and how hard it is guided
      "direction_above": 0.2                     direction that tells edits that work, by its clip
    }

Relative names are looked for beside the domain file, then in the folder of checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import expanded, read_json
from ..hub.names import is_hub_id
from ..schema import Rule, is_list_of, is_number, is_object_of, is_text, is_whole, problems
from ..teacher.lora import split_scale

FOLDER_VARIABLE = "SDD_FAST_CHECKPOINTS"
PRESETS_FOLDER = Path(__file__).parent / "presets"
PRESETS = {path.stem: path for path in sorted(PRESETS_FOLDER.glob("*.json"))}
PARTS = (
    "generator", "encoder", "diffusion", "latents", "held_out", "clip", "identity", "classifier",
    "detector", "vae",
)  # fmt: skip
_KINDS = {"clip": "FOLDER", "diffusion": "FOLDER, FILE or hub id", "vae": "FILE or FOLDER"}


@dataclass(frozen=True)
class DomainSpec:
    """A domain file, checked, with its files found.

    Args:
        name: written into every mapper distilled with the domain.
        source_text: what its images show before an edit.
        parts: part → path, or hub id for "diffusion"; of the parts that the domain has.
        absent: part → why its file was not found and what to do; said when the part is needed.
        resolution: side of its images in pixels; None: that of the generator.
        prompts: prompts to try: known to work, or the commonest captions of a trained domain.
        prompt_templates: {name: text with "{}"}, see `Domain.prompt`.
        levels: {prompt: mapper levels that suit it}.
        guidance_rms: {prompt: see `balanced_guidance_scale`}.
        nouns: what reports call an "image", several "images" (default: with an s) and the "subject"
            whose identity an edit keeps (default: the image's noun).
        align: "ffhq" if raw photographs are to be cropped by the landmarks of the face.
        content_rows: first and one past the last row of generated images that show something.
        direction_above: `direction` of an `EditMonitor` that edits which work exceed and others do
            not, measured with the domain's clip; None: not calibrated.
        lora, variant: of the diffusion model, see `DiffusionPrior.from_pretrained`.
    """

    name: str
    source_text: str
    parts: dict[str, str]
    absent: dict[str, str] = field(default_factory=dict)
    resolution: int | None = None
    prompts: tuple[str, ...] = ()
    prompt_templates: dict[str, str] = field(default_factory=dict)
    levels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    guidance_rms: dict[str, float] = field(default_factory=dict)
    nouns: dict[str, str] = field(default_factory=dict)
    align: str | None = None
    content_rows: tuple[int, int] | None = None
    direction_above: float | None = None
    lora: tuple[str, ...] = ()
    variant: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The domain file that says the same, with absolute paths."""
        found: dict[str, Any] = {"name": self.name, "source_text": self.source_text, **self.parts}
        for key in ("resolution", "align", "variant", "direction_above"):
            if getattr(self, key) is not None:
                found[key] = getattr(self, key)
        for key in ("prompts", "content_rows", "lora"):
            if getattr(self, key):
                found[key] = list(getattr(self, key))
        for key in ("prompt_templates", "guidance_rms", "nouns"):
            if getattr(self, key):
                found[key] = dict(getattr(self, key))
        if self.levels:
            found["levels"] = {prompt: list(names) for prompt, names in self.levels.items()}
        return found


def read_spec(path: Path, replaced: Mapping[str, Any], *, lenient: bool) -> DomainSpec:
    """Read a domain file; `replaced` gives other files for some parts, None for doing without.

    It may also hold another "lora" (a list) and "variant".

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
    content: Any, folder: Path, source: str, replaced: Mapping[str, Any], *, lenient: bool
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
    lora = replaced["lora"] if "lora" in replaced else content.get("lora") or ()
    places = () if "lora" in replaced else (folder, checkpoints_folder())
    guidance_rms = content.get("guidance_rms") or content.get("pull", {})
    return DomainSpec(
        name=content["name"],
        source_text=content["source_text"],
        parts=parts,
        absent=absent,
        # Of another generator the resolution is its own.
        resolution=None if replaced.get("generator") else content.get("resolution"),
        prompts=tuple(content.get("prompts", ())),
        prompt_templates=dict(content.get("prompt_templates", {})),
        levels={prompt: tuple(names) for prompt, names in content.get("levels", {}).items()},
        guidance_rms={prompt: float(rms) for prompt, rms in guidance_rms.items()},
        nouns=dict(content.get("nouns", {})),
        align=content.get("align"),
        content_rows=None if rows is None else (rows[0], rows[1]),
        # Measured with these, it says nothing of others.
        direction_above=None
        if {"clip", "generator", "diffusion"} & replaced.keys()
        else content.get("direction_above"),
        lora=tuple(_find_lora(one, places) for one in ([lora] if isinstance(lora, str) else lora)),
        variant=replaced.get("variant", content.get("variant")),
    )


def complete_nouns(named: Mapping[str, str]) -> dict[str, str]:
    """Return nouns with defaults for those that are not named."""
    nouns = {"image": "image", "subject": named.get("image", "subject"), **named}
    ending = "es" if nouns["image"].endswith(("s", "x", "z", "ch", "sh")) else "s"
    return {"images": nouns["image"] + ending, **nouns}


def checkpoints_folder() -> Path:
    """Where files that a preset names are looked for: $SDD_FAST_CHECKPOINTS, or ./checkpoints."""
    return expanded(os.environ.get(FOLDER_VARIABLE) or "checkpoints")


def _given(part: str, value: str) -> str:
    path = expanded(value)
    if path.exists():
        return str(path.resolve())
    if part == "diffusion" and is_hub_id(value):
        return value
    raise FileNotFoundError(f"{value}, given as the {part}, does not exist")


def _find(part: str, names: str | list[str], folder: Path) -> str | None:
    listed = [names] if isinstance(names, str) else names
    for name in listed:
        for place in (folder, checkpoints_folder()):
            path = place / expanded(name)
            if path.exists():
                return str(path.resolve())
    hub_ids = [name for name in listed if part == "diffusion" and is_hub_id(name)]
    return hub_ids[0] if hub_ids else None


def _find_lora(given: str, places: Iterable[Path]) -> str:
    """Return "path:scale" of `FILE` or `FILE:scale`, looked for in `places` first."""
    for place in places:
        try:
            path, scale = split_scale(place / expanded(given))
        except FileNotFoundError:
            continue
        return f"{path.resolve()}:{scale!r}"
    path, scale = split_scale(given)
    return f"{path.resolve()}:{scale!r}"


def _absence(source: str, part: str, content: dict[str, Any], folder: Path) -> str:
    names = content[part]
    listed = names if isinstance(names, str) else " or ".join(names)
    where = content.get("where", {}).get(part)
    places = [checkpoints_folder()] if folder == PRESETS_FOLDER else [folder, checkpoints_folder()]
    return (
        f"the {part} of {source} is missing: {listed}, looked for in "
        f"{' and '.join(map(str, places))} (${FOLDER_VARIABLE}). Put it there or give "
        f"--{part.replace('_', '-')} {_KINDS.get(part, 'FILE')}"
        + (f"; published at {where}" if where else "")
    )


def _check(source: str, content: Any) -> None:
    unknown = [key for key in content if key not in _RULES] if isinstance(content, dict) else []
    found = problems(content, _RULES)
    if unknown:
        known = ", ".join(key for key in _RULES if key not in _EARLIER)
        found.append(f"unknown {', '.join(map(repr, unknown))}; there may be {known}")
    if found:
        raise ValueError(f"{source}: " + "; ".join(found))


def _is_alternatives(value: Any) -> bool:
    return is_text(value) or (is_list_of(is_text)(value) and bool(value))


def _is_template(value: Any) -> bool:
    return is_text(value) and value.count("{}") == 1


def _is_rows(value: Any) -> bool:
    return is_list_of(is_whole)(value) and len(value) == 2 and 0 <= value[0] < value[1]


def _is_nouns(value: Any) -> bool:
    return is_object_of(is_text)(value) and set(value) <= {"image", "images", "subject"}


_POSITIVE = Rule(
    is_object_of(lambda value: is_number(value) and value > 0), "an object of positive numbers"
)
_RULES = {
    "name": Rule(is_text, "non-empty text", required=True),
    "source_text": Rule(is_text, "non-empty text", required=True),
    **dict.fromkeys(PARTS, Rule(_is_alternatives, "a file name, or a list of alternatives")),
    "lora": Rule(_is_alternatives, "FILE or FILE:scale, or a list of these"),
    "variant": Rule(is_text, "non-empty text"),
    "resolution": Rule(
        lambda value: is_whole(value) and 8 <= value <= 2**16,
        "a whole number of at least 8 pixels",
    ),
    "prompts": Rule(is_list_of(is_text), "a list of texts"),
    "prompt_templates": Rule(is_object_of(_is_template), "an object of texts that hold {} once"),
    "levels": Rule(is_object_of(is_list_of(is_text)), "an object of lists of levels"),
    "guidance_rms": _POSITIVE,
    "nouns": Rule(_is_nouns, "an object of texts named image, images or subject"),
    "align": Rule(lambda value: value == "ffhq", '"ffhq"'),
    "content_rows": Rule(_is_rows, "[first row, one past the last row]"),
    "direction_above": Rule(lambda value: is_number(value) and 0 < value < 1, "between 0 and 1"),
    "where": Rule(is_object_of(is_text), "an object of texts"),
    "pull": _POSITIVE,
}
_EARLIER = ("pull",)
"""Keys of earlier versions that are still read; pull: guidance_rms."""
