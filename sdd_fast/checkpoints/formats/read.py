"""Any checkpoint file → tensors and plain containers, without executing anything in it."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ...files import PathLike, content_kind, load_tensors, regular_file
from .allowed import ALLOWED, encoded
from .bounds import Budget
from .pickles import Call, Unpickler
from .plain import PickledObject, check_plain, shown
from .torch_files import (
    LEGACY_PICKLES,
    check_end,
    is_legacy,
    read_legacy,
    read_pickle,
    read_zip,
    zip_pickles,
)

_WRAPPERS = ("module.", "_orig_mod.")

__all__ = ["Checkpoint", "PickledObject", "Scan", "read_checkpoint", "scan", "shown", "unwrapped"]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Args:
        path: of the file.
        format: "safetensors", "torch" (zip, since torch 1.6), "torch-legacy", "pickle" or "npy".
        content: tensors (on the CPU, none requires a gradient) and numpy arrays of numbers, in
            dicts, lists, tuples and sets; numbers, texts, bytes (a memoryview where there are
            many), dtypes of torch and numpy; `PickledObject`s, which are also what stands for a
            class that is itself a value. Paths and devices are texts, every kind of dict is a
            dict, parameters are tensors. Nothing contains itself, and nothing is nested more than
            100 deep.
        metadata: of a safetensors file.
    """

    path: Path
    format: str
    content: Any
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scan:
    """What a file refers to by name.

    Args:
        format: as of `Checkpoint`, or "torchscript".
        globals: the functions and classes that Python would look up to unpickle the file, in order
            of appearance, such as "torch._utils._rebuild_tensor_v2". None in safetensors and npy.
        refused: those among them that `read_checkpoint` refuses. If there are none, the file holds
            only tensors and plain data (and, in NVIDIA's pickles, source code that we do not look
            at: "torch_utils.persistence._reconstruct_persistent_obj" would execute it).
    """

    format: str
    globals: tuple[str, ...]
    refused: tuple[str, ...]


def read_checkpoint(path: PathLike) -> Checkpoint:
    """Read a file of any format that checkpoints come in, or a NumPy array.

    The content decides on the format, not the suffix, but for .npy.

    Nothing in the file is executed or imported: a pickle may only refer to the names listed in
    `allowed`, and for each we build plain data ourselves. Tensors are mapped from the file where
    their alignment allows it, so that what is not used is not read. Hence the file must not be
    changed in place while they are in use (replacing it, as `atomic_path` does, is fine): if it is
    shortened, the operating system ends the process (SIGBUS). Writing to the tensors does not
    change the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, truncated, of another format, needs absurd amounts of
            memory or time, or refers to something that is not allowed in a checkpoint.
    """
    path = regular_file(path)
    if _is_npy(path):
        return Checkpoint(path, "npy", _read_npy(path))
    kind = content_kind(path)
    if kind == "safetensors":
        tensors, metadata = load_tensors(path)
        return Checkpoint(path, "safetensors", unwrapped(tensors), metadata)
    with _opened(path) as (file, data):
        budget = Budget(len(data))
        if kind == "zip":
            found, content = "torch", read_zip(file, data, budget)
        elif is_legacy(data):
            found, content = "torch-legacy", read_legacy(data, budget)
        else:
            found, content = "pickle", read_pickle(data, budget)
        check_plain(content, len(data))
    return Checkpoint(path, found, unwrapped(content))


def unwrapped(content: Any) -> Any:
    """Name tensors as the network does that DataParallel or torch.compile was wrapped around."""
    if type(content) is not dict:
        return content
    named = {key: unwrapped(value) for key, value in content.items()}
    for wrapper in _WRAPPERS * 2:  # in either order
        # What has no dot in its name, such as a number of steps, was put beside the network.
        inside = [k for k, v in named.items() if isinstance(v, torch.Tensor) and "." in str(k)]
        if inside and all(type(key) is str and key.startswith(wrapper) for key in inside):
            plain = {key: key.removeprefix(wrapper) for key in inside}
            if not named.keys() & set(plain.values()):
                named = {plain.get(key, key): value for key, value in named.items()}
    return named


def _is_npy(path: Path) -> bool:
    return path.suffix.lower() == ".npy"


def _read_npy(path: Path) -> torch.Tensor:
    try:
        # Mapped first: a header that promises more than the file holds then claims no memory.
        mapped = np.lib.format.open_memmap(path, mode="r")
        torch.from_numpy(np.empty(0, mapped.dtype))  # raises where torch has no such dtype
    except OSError:
        raise
    except Exception as error:  # the header is a Python expression: whatever its parser raises
        raise ValueError(
            f"{path} is no complete .npy file of numbers; it may be truncated or corrupt"
        ) from error
    return torch.from_numpy(np.array(mapped))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, memoryview]]:
    """Yield the file and its bytes; a ValueError then names the file."""
    try:
        with open(path, "rb") as file:
            # ACCESS_COPY: writable memory, as tensors need it, that never reaches the file.
            yield file, memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def scan(path: PathLike) -> Scan:
    """List the functions and classes that a file refers to, whether or not it is refused.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another format, or damaged before it refers to anything that is
            refused.
    """
    path = regular_file(path)
    kind = "npy" if _is_npy(path) else content_kind(path)
    if kind in ("npy", "safetensors"):
        return Scan(kind, (), ())
    names: dict[str, None] = {}
    with _opened(path) as (file, data):
        budget = Budget(len(data))
        try:
            if kind == "zip":
                found, pickles = zip_pickles(file, data)
                for pickle in pickles:
                    _scan_pickles(pickle, 1, names, Budget(len(data)))
            elif is_legacy(data):
                found = "torch-legacy"
                _scan_pickles(data, LEGACY_PICKLES, names, budget)
            else:
                found = "pickle"
                check_end(data, _scan_pickles(data, 1, names, budget))
        except ValueError:
            if all(name in ALLOWED for name in names):
                raise
    refused = tuple(shown(name) for name in names if name not in ALLOWED)
    return Scan(found, tuple(shown(name) for name in names), refused)


def _scan_pickles(
    data: memoryview, count: int, names: dict[str, None], budget: Budget, *, inside: bool = False
) -> int:
    """Add to `names` what the first `count` pickles in `data` refer to, even if one is damaged.

    Returns:
        where they end.
    """

    def scan_nested(arguments: Any) -> None:
        for raw in arguments if type(arguments) is tuple else (None,):
            # Protocols 0 to 2 have no bytes, hence the files inside of them are made by a call.
            if type(raw) is Call and raw.function == "_codecs.encode":
                with contextlib.suppress(ValueError, TypeError):
                    raw = encoded(budget, *raw.arguments)
            if inside or not isinstance(raw, bytes | memoryview) or not is_legacy(raw):
                names["<unknown data inside of the pickle>"] = None
            else:
                _scan_pickles(memoryview(raw), LEGACY_PICKLES, names, budget, inside=True)

    position = 0
    for _ in range(count):
        unpickler = Unpickler(data, position, budget, lambda name: names.update({name: None}),
                              scan_nested)  # fmt: skip
        unpickler.load()
        position = unpickler.position
    return position
