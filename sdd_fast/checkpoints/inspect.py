"""What a checkpoint file is, in words, and whether it is safe."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from torch import Tensor

from ..files import PathLike, expanded, parse_json
from . import latents, stable_diffusion, stylegan2
from .arcface import IDENTITY
from .content import tensors_in
from .formats.read import Checkpoint, PickledObject, read_checkpoint, scan, shown
from .mapper import MAPPER
from .psp import ENCODER
from .stylegan2 import GENERATOR

KINDS = {
    "generator": "a generator",
    "encoder": "an encoder",
    "identity": "an identity network",
    "mapper": "a latent mapper",
    "latents": "a set of latents",
    "teacher": "a diffusion model",
}
"""What a file may hold, and how a sentence calls it. All but the last have a `load_` function."""

_FORMATS = {
    "safetensors": "safetensors",
    "torch": "PyTorch (zip)",
    "torch-legacy": "PyTorch (before 1.6)",
    "pickle": "Python pickle",
    "torchscript": "TorchScript",
    "npy": "NumPy array",
}
_SAFE = {"safetensors": "safetensors", "npy": "numbers"}
_SOURCE_CODE = "torch_utils.persistence._reconstruct_persistent_obj"
_SHOWN = 6
_LONGEST = 10_000  # characters of what a file tells
A_PROGRAM = "a program: torch.jit.load, and nothing else, runs it"
_TOLD = ("network", "prompt", "lam", "levels", "timesteps", "domain", "config", "source")


def contents(checkpoint: Checkpoint) -> dict[str, str]:
    """List everything known in a file: those of `KINDS` that it holds, and their facts."""
    facts: dict[str, str] = {}
    for layout in (GENERATOR, ENCODER, IDENTITY, MAPPER, latents, stable_diffusion):
        facts |= layout.describe(checkpoint) or {}
    return facts


def summarize(checkpoint: Checkpoint) -> str:
    """Say what a file is, for error messages: "an encoder (e4e on IR-SE50, …)"."""
    found = [
        f"{KINDS[kind]} ({text})" for kind, text in contents(checkpoint).items() if kind in KINDS
    ]
    if found:
        return " and ".join(found)
    network = checkpoint.metadata.get("network")
    if network:
        return f"a network of this package ({shown(network)})"
    if kin := _kin(checkpoint):
        return kin
    kind = _FORMATS.get(checkpoint.format, checkpoint.format)
    return f"a {kind} file with {_summary(checkpoint.content)}"


def _kin(checkpoint: Checkpoint) -> str | None:
    return stylegan2.kin(checkpoint.content) or stable_diffusion.kin(checkpoint)


def describe_file(path: PathLike) -> dict[str, Any]:
    """Describe a checkpoint file: its contents, format, size, and whether it is safe.

    A file that is refused is described by what it refers to. Of our own files also what their
    metadata tell: "network", "prompt", "source" (of a converted file) and more.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint file, or is damaged.
    """
    size = {"size": size_of(path)}
    found = scan(path)
    if found.format == "torchscript" or found.refused:
        refused = {"format": _FORMATS[found.format], **size}
        if found.format == "torchscript":
            return refused | {"safety": A_PROGRAM}
        return refused | {"safety": _refusal(found.refused), "refers to": list(found.globals)}
    facts = {**_contents(read_checkpoint(path)), **size}
    if found.format in _SAFE:
        facts["safety"] = f"safe: {_SAFE[found.format]}, nothing in it can run"
    elif _SOURCE_CODE in found.globals:
        facts["safety"] = (
            "safe to read here: the source code in this pickle is left alone; Python's own "
            "unpickler would run it"
        )
    else:
        facts["safety"] = "safe to read here: a pickle with tensors and plain data only"
    return facts


def _refusal(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"refused: would run {shown}{more} when unpickled"


def _contents(checkpoint: Checkpoint) -> dict[str, Any]:
    told = {name: _parsed(text) for name, text in checkpoint.metadata.items() if name in _TOLD}
    facts = {name: value for name, value in told.items() if value not in ("", [])}
    if "network" in checkpoint.metadata:
        facts["network"] = shown(checkpoint.metadata["network"])
    found: dict[str, Any] = contents(checkpoint) | stable_diffusion.check(checkpoint)
    if not found and "network" not in facts:
        found["holds"] = _kin(checkpoint) or _summary(checkpoint.content)
    count = sum(1 for _ in tensors_in(checkpoint.content))
    return {**found, **facts, "tensors": count, "format": _FORMATS[checkpoint.format]}


def _parsed(text: str) -> Any:
    if len(text) > _LONGEST:
        return f"{text[:_LONGEST]}…"
    try:
        value = parse_json(text)
    except ValueError:
        return text
    return value if _is_shallow(value) else text


def _is_shallow(value: Any, levels: int = 8) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)


def size_of(path: PathLike) -> str:
    size = expanded(path).stat().st_size
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1024:.0f} KiB"


def _summary(content: Any) -> str:
    """What an unknown file has in it: how many tensors, and the first names."""
    if isinstance(content, Tensor):
        return f"one tensor {list(content.shape)}"
    count = sum(1 for _ in tensors_in(content))
    if not count:
        inner = content.type if isinstance(content, PickledObject) else type(content).__name__
        return f"no tensors but an object of type {shown(inner)}"
    first = ", ".join(
        f"{shown(name)} {list(tensor.shape)}"
        for name, tensor in islice(tensors_in(content), _SHOWN)
    )
    return f"{count} tensors: {first}{', …' if count > _SHOWN else ''}"
