"""What a checkpoint file is, in words, and whether it is safe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import PathLike, parse_json
from .formats.allowed import shown
from .formats.npy import is_npy, read_npy
from .formats.read import Checkpoint, PickledObject, read_checkpoint, scan

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
_SOURCE_CODE = "torch_utils.persistence._reconstruct_persistent_obj"
_SHOWN = 6
A_PROGRAM = "a program: torch.jit.load, and nothing else, runs it"
_TOLD = ("network", "prompt", "lam", "levels", "timesteps", "domain", "config", "source")


def what_is(checkpoint: Checkpoint) -> str:
    """A short description for error messages, such as "an encoder (e4e on IR-SE50, …)"."""
    found = [f"{KINDS[kind]} ({text})" for kind, text in held(checkpoint).items() if kind in KINDS]
    if found:
        return " and ".join(found)
    network = checkpoint.metadata.get("network")
    if network:
        return f"a {shown(network)} of sdd_fast"
    kind = _FORMATS.get(checkpoint.format, checkpoint.format)
    return f"a {kind} file with {_summary(checkpoint.content)}"


def held(checkpoint: Checkpoint) -> dict[str, str]:
    """Everything that is known of what the file holds: those of `KINDS` in it, and their facts."""
    # Here rather than above: these modules describe unknown files by `what_is`.
    from . import encoder, generator, identity, latents, mapper
    from .teacher_facts import describe_teacher

    facts: dict[str, str] = {}
    for describe in (
        generator.describe,
        encoder.describe,
        identity.describe,
        mapper.describe,
        latents.describe,
        describe_teacher,
    ):
        facts |= describe(checkpoint) or {}
    return facts


def describe_file(path: PathLike) -> dict[str, Any]:
    """Facts about a checkpoint file: what it holds, its format, size, and whether it is safe.

    A file that is refused is described by what it refers to. Of our own files also what their
    metadata tell: "network", "prompt", "source" (of a converted file) and more.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint file, or is damaged.
    """
    size = {"size": size_of(path)}
    if is_npy(path):
        checkpoint = read_npy(path)
        return {**_contents(checkpoint), **size, "safety": "safe: numbers, nothing in it can run"}
    found = scan(path)
    if found.format == "torchscript" or found.refused:
        refused = {"format": _FORMATS[found.format], **size}
        if found.format == "torchscript":
            return refused | {"safety": A_PROGRAM}
        return refused | {"safety": _refusal(found.refused), "refers to": list(found.globals)}
    facts = {**_contents(read_checkpoint(path)), **size}
    if found.format == "safetensors":
        facts["safety"] = "safe: safetensors, nothing in it can run"
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
    found: dict[str, Any] = dict(held(checkpoint))
    if not found and "network" not in facts:
        found["holds"] = _summary(checkpoint.content)
    count = sum(1 for _ in _tensors("", checkpoint.content))
    return {**found, **facts, "tensors": count, "format": _FORMATS[checkpoint.format]}


def _parsed(text: str) -> Any:
    try:
        value = parse_json(text)
    except ValueError:
        return text
    return value if _is_shallow(value) else text


def _is_shallow(value: Any, levels: int = 8) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)


def size_of(path: PathLike) -> str:
    size = Path(path).stat().st_size
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1024:.0f} KiB"


def _summary(content: Any) -> str:
    """What an unknown file has in it: how many tensors, and the first names."""
    if isinstance(content, Tensor):
        return f"one tensor {list(content.shape)}"
    count = sum(1 for _ in _tensors("", content))
    if not count:
        inner = content.type if isinstance(content, PickledObject) else type(content).__name__
        return f"no tensors: a {shown(inner)}"
    first = ", ".join(
        f"{shown(name)} {list(tensor.shape)}"
        for name, tensor in islice(_tensors("", content), _SHOWN)
    )
    return f"{count} tensors: {first}{', …' if count > _SHOWN else ''}"


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, PickledObject):
        value = value.state
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _tensors(f"{name}.{i}" if name else str(i), inner)
    elif isinstance(value, Tensor):
        yield name, value
