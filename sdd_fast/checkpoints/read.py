"""Any checkpoint file → tensors and plain containers, without executing anything in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import PathLike, load_tensors


@dataclass(frozen=True)
class PickledObject:
    """An object of another program's class: its state, without the class.

    Args:
        type: what the class was called: "argparse.Namespace", or for a network that carries its
            own source code (NVIDIA's) the bare name, such as "Generator".
        state: its attributes. Of a torch module: also `_parameters`, `_buffers`, `_modules`.
    """

    type: str
    state: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Args:
        path: of the file.
        format: "safetensors", "torch" (zip, since torch 1.6), "torch-legacy" or "pickle".
        content: tensors in dicts, lists, tuples; numbers, texts; `PickledObject`s.
        metadata: of a safetensors file.
    """

    path: Path
    format: str
    content: Any
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: PathLike) -> Checkpoint:
    """Read a file of any format that checkpoints come in.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another format, or refers to something that is not
            allowed in a checkpoint.
    """
    import torch

    if Path(path).suffix == ".safetensors":
        tensors, metadata = load_tensors(path)
        return Checkpoint(Path(path), "safetensors", tensors, metadata)
    content = torch.load(path, map_location="cpu", weights_only=True)
    return Checkpoint(Path(path), "torch", content)
