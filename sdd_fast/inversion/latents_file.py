"""The file that an inversion writes, and what tells whether it belongs to the same images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.latents import KIND
from ..files import load_tensors, parse_json, save_tensors
from ..schema import Rule, is_list_of, is_object_of, is_text, problems

UNFINISHED = "unfinished w_plus latents"
_LISTS = ("names", "psnr", "psnr_encoder", "skipped", "notes")  # of an `Inversion`, as metadata


def _is_decibels(value: Any) -> bool:  # of equal images infinite
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_RULES = {
    "names": Rule(is_list_of(is_text), "a list of file names", required=True),
    **dict.fromkeys(
        ("psnr", "psnr_encoder"),
        Rule(is_list_of(_is_decibels), "a list of decibels", required=True),
    ),
    **dict.fromkeys(
        ("skipped", "notes"), Rule(is_object_of(is_text), "an object of texts", required=True)
    ),
    "settings": Rule(
        lambda value: isinstance(value, dict) and isinstance(value.get("pictures", {}), dict),
        "an object with that of pictures",
        required=True,
    ),
}


@dataclass
class Inversion:
    """The latents of a folder of images.

    Args:
        path: the latents file: `w_plus`, and the rest of this as metadata.
        names: the file name of each latent's image.
        psnr: of each, the generator's image against the input in dB; `psnr_encoder`: before the
            refinement.
        skipped: {file name: a sentence that says why it has no latent}.
        notes: {file name: something to know about it, such as several faces in the image}.
        sheet: the contact sheet.
    """

    path: Path
    w_plus: Tensor
    names: list[str] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    psnr_encoder: list[float] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def joined(self, more: Inversion) -> Inversion:
        """Return this with what was found of more pictures."""
        return Inversion(
            self.path,
            torch.cat([self.w_plus, more.w_plus]),
            self.names + more.names,
            self.psnr + more.psnr,
            self.psnr_encoder + more.psnr_encoder,
            self.skipped | more.skipped,
            self.notes | more.notes,
        )

    @property
    def sheet(self) -> Path:
        return self.path.with_suffix(".png")

    @property
    def done(self) -> int:
        return len(self.names) + len(self.skipped)


def partial_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.partial.safetensors")


def write(
    path: Path, state: Inversion, settings: dict[str, Any], kind: str, domain: str = ""
) -> None:
    metadata = {name: json.dumps(getattr(state, name)) for name in _LISTS}
    metadata |= {"kind": kind, "domain": domain, "settings": json.dumps(settings)}
    metadata |= {name: settings[name] for name in ("encoder", "generator")}
    metadata["refinement"] = json.dumps(settings["refinement"])
    save_tensors(path, {"w_plus": state.w_plus}, metadata)


def restore(target: Path, settings: dict[str, Any], resume: bool, empty: Tensor) -> Inversion:
    """What an earlier call left for these images and settings."""
    for path, kind in ((target, KIND), (partial_path(target), UNFINISHED)):
        if not path.exists():
            continue
        try:
            tensors, metadata = load_tensors(path)
        except ValueError as error:
            raise ValueError(
                f"{error}. It is kept: delete it and give the same again, or choose another file "
                "to write"
            ) from error
        if metadata.get("kind") != kind:
            raise ValueError(f"{path} exists and holds no inversion; choose another file to write")
        if not resume:
            continue
        told = _told(path, tensors, metadata, empty)
        differing = _differences(told.pop("settings"), settings)
        if differing:
            raise ValueError(
                f"{path} belongs to other pictures or settings:\n  "
                + "\n  ".join(differing)
                + "\nRepeat those to go on, choose another file, or pass resume=False to start "
                "over and discard it"
            )
        return Inversion(target, tensors["w_plus"], **told)
    if not resume:
        partial_path(target).unlink(missing_ok=True)
    return Inversion(target, empty)


def _told(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], empty: Tensor
) -> dict[str, Any]:
    """What a file says of its latents, parsed; ValueError for a damaged one.

    Args:
        empty: [0, num_layers, w_dim].
    """
    try:
        told = {k: parse_json(metadata[k], infinite=True) for k in _RULES if k in metadata}
        found = problems(told, _RULES)
    except ValueError as error:
        found = [str(error)]
    w_plus = tensors.get("w_plus", empty)
    if not found:
        counts = {len(told[name]) for name in ("names", "psnr", "psnr_encoder")}
        if counts != {len(w_plus)} or w_plus.shape[1:] != empty.shape[1:]:
            found = [f"w_plus {list(w_plus.shape)} does not fit {len(told['names'])} names"]
        elif not torch.isfinite(w_plus).all():
            found = ["its latents are NaN or infinite"]
    if found:
        raise ValueError(
            f"{path} is damaged: {'; '.join(found)}. Choose another file, or pass resume=False to "
            "start over and discard it"
        )
    return told


def digest(network: nn.Module) -> str:
    hashed = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(network.state_dict().items()):
        hashed.update(name.encode())
        data = tensor.detach().cpu().reshape(-1).view(torch.uint8)  # bfloat16 has no numpy type
        hashed.update(data.numpy().tobytes())
    return hashed.hexdigest()


def fingerprint(path: Path, ends: int = 65536) -> str:
    """Of a file's size, beginning and end: photographs are large and there may be many."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        hashed = hashlib.blake2b(file.read(ends), digest_size=8)
        file.seek(max(0, size - ends))
        hashed.update(file.read(ends))
    return f"{size} bytes, {hashed.hexdigest()}"


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line for each setting that differs, and one for the images."""
    refinement = old.get("refinement")
    if isinstance(refinement, dict) and "pull" in refinement:  # its name in earlier versions
        refinement["l2_weight"] = refinement.pop("pull")
    then, now = old.pop("pictures", {}), new["pictures"]
    lines = [
        f"{name}: {old.get(name)} there, {new.get(name)} now"
        for name in sorted({*old, *new} - {"pictures"})
        if old.get(name) != new.get(name)
    ]
    groups = {
        "new": sorted(now.keys() - then.keys()),
        "gone": sorted(then.keys() - now.keys()),
        "changed": sorted(name for name in then.keys() & now.keys() if then[name] != now[name]),
    }
    for word, names in groups.items():
        if names:
            some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            lines.append(f"pictures: {len(names)} {word} ({some})")
    return lines
