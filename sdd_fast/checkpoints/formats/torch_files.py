"""The files of `torch.save`: a pickle for the structure, and the elements of the tensors beside it.

Since torch 1.6 a file is a zip archive:

    NAME/data.pkl     the pickle; its tensors refer to storages by a key
    NAME/data/KEY     the elements of one storage
    NAME/byteorder    "little" or "big" (not in old files)

Before, and still wherever a tensor is pickled by something else than torch, it is a sequence:

    a magic number, the protocol's version, facts about the machine, the pickle, the keys of all
    storages (five pickles) · for each storage its number of elements (8 bytes) and the elements

In both, several tensors may lie in one storage, and then do so again.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .allowed import check_allowed
from .archive import Entry, entries_of
from .bounds import Budget
from .build import Builder
from .pickles import Unpickler
from .plain import Global
from .tensors import STORAGES, Storage, bytes_in, is_index, storage_in

_MAGIC = 0x1950A86A20F9469CFC6C
# Protocol, perhaps a frame, an integer of 10 bytes, the end.
_MAGIC_PICKLE = re.compile(
    rb"\x80[\x02-\x05](\x95.{8})?\x8a\x0a" + re.escape(_MAGIC.to_bytes(10, "little")) + rb"\.",
    re.DOTALL,
)
_PROTOCOL = 1001
LEGACY_PICKLES = 5


def is_legacy(data: bytes | memoryview) -> bool:
    """Say whether `data` begin like a file of torch before 1.6."""
    return _MAGIC_PICKLE.match(data) is not None


def read_zip(file: BinaryIO, archive: memoryview, budget: Budget) -> Any:
    """Read a file of torch since 1.6; its tensors lie in `archive`, its bytes.

    Raises:
        ValueError: it is damaged, not such a file, or holds something that is not allowed.
    """
    entries = entries_of(file, archive)
    folder = _folder(entries)
    if f"{folder}constants.pkl" in entries:
        raise ValueError(
            "it is a TorchScript program, whose tensors belong to code that would have to run. "
            "Load it with torch.jit.load where you trust it, and save its state_dict()"
        )
    order = f"{folder}byteorder"
    if order in entries and bytes(entries[order].read(archive)) != b"little":
        raise ValueError(
            "it was written on a big-endian machine: load and save it again on a little-endian one"
        )
    raw: dict[str, Tensor] = {}
    storages: dict[tuple[str, torch.dtype], Storage] = {}

    def find_storage(identifier: tuple[Any, ...]) -> Storage:
        dtype, key, elements, _ = _described(identifier)
        if key not in raw:
            entry = entries.get(f"{folder}data/{key}")
            if entry is None:
                raise ValueError(f"the bytes of tensor data {ascii(key)[:40]} are missing")
            raw[key] = bytes_in(entry.read(archive))
        if elements * dtype.itemsize != len(raw[key]):
            raise ValueError(
                f"tensor data {ascii(key)[:40]} should have {elements} elements of {dtype}, and "
                f"have {len(raw[key])} bytes"
            )
        if (key, dtype) not in storages:
            storages[key, dtype] = storage_in(raw[key], dtype)
        return storages[key, dtype]

    pickle = entries[f"{folder}data.pkl"].read(archive)
    return read_pickle(pickle, budget, find_storage)


def read_pickle(
    data: memoryview,
    budget: Budget,
    find_storage: Callable[[tuple[Any, ...]], Storage] | None = None,
) -> Any:
    """Read the one pickle in `data`."""
    described, end, _ = _described_from(data, 0, budget)
    check_end(data, end)
    return Builder(budget, find_storage, load_nested).build(described)


def _described_from(
    data: memoryview, start: int, budget: Budget
) -> tuple[Any, int, list[tuple[Any, ...]]]:
    """Return what the pickle at `start` describes, its end, and the tensor data it refers to."""
    unpickler = Unpickler(data, start, budget, check_allowed)
    return unpickler.load(), unpickler.position, unpickler.tensor_data


def _folder(entries: dict[str, Entry]) -> str:
    """Find the folder that all entries are in, with its slash."""
    # torch takes DATA.PKL for data.pkl: two of them, and it may read another one than is read here.
    found = [name for name in entries if name.lower().endswith("/data.pkl")]
    if len(found) != 1 or found[0].count("/") != 1 or not found[0].endswith("/data.pkl"):
        raise ValueError(
            "it is a zip archive, but not one of torch.save (it has no data.pkl). If the "
            "checkpoint is a file inside of it, unpack it first"
        )
    return found[0].removesuffix("data.pkl")


def zip_pickles(file: BinaryIO, archive: memoryview) -> tuple[str, Iterator[memoryview]]:
    """Return the format of an archive, and all the pickles in it."""
    entries = entries_of(file, archive)
    script = any(name.lower().endswith("/constants.pkl") for name in entries)
    if not script:
        _folder(entries)
    pickles = [entry for name, entry in entries.items() if name.lower().endswith(".pkl")]
    return "torchscript" if script else "torch", (entry.read(archive) for entry in pickles)


def read_legacy(data: memoryview, budget: Budget, *, inside_pickle: bool = False) -> Any:
    """Read a file of torch before 1.6; aligned tensors lie in `data`, others are copied.

    Args:
        data: the file.
        budget: what it may cost.
        inside_pickle: the file is itself part of a pickle, and may not contain further ones.

    Raises:
        ValueError: it is damaged, not such a file, or holds something that is not allowed.
    """
    start = _legacy_content(data, budget)
    content, position, identifiers = _described_from(data, start, budget)
    # The elements come after the pickle that needs them, and where they lie depends on their types.
    described: dict[str, tuple[torch.dtype, int]] = {}
    for identifier in identifiers:
        dtype, key, elements, _ = _described(identifier)
        if described.setdefault(key, (dtype, elements)) != (dtype, elements):
            raise ValueError("one storage of tensor data is described in two ways")
    keys, position, _ = _described_from(data, position, budget)
    raw = _legacy_storages(data, keys, position, described)
    storages: dict[str, Storage] = {}

    def find_storage(identifier: tuple[Any, ...]) -> Storage:
        dtype, key, _, view = _described(identifier)
        if key not in storages:
            storages[key] = storage_in(bytes_in(raw[key]), dtype)
        return storages[key] if view is None else _view_of(storages[key], view)

    nested = None if inside_pickle else load_nested
    return Builder(budget, find_storage, nested).build(content)


def _legacy_content(data: memoryview, budget: Budget) -> int:
    """Find where in a file of torch before 1.6 the pickle with the content begins."""
    position = 0
    header = []
    for _ in range(3):
        described, position, _ = _described_from(data, position, budget)
        header.append(Builder(budget).build(described))
    magic, protocol, machine = header
    if type(magic) is not int or magic != _MAGIC or type(protocol) is not int:
        raise ValueError("the header of the file is damaged")
    if protocol != _PROTOCOL or type(machine) is not dict:
        raise ValueError(f"protocol {protocol} of torch files is unknown")
    if machine.get("little_endian") is not True:
        raise ValueError(
            "it was written on a big-endian machine: load and save it again on a little-endian one"
        )
    return position


def _legacy_storages(
    data: memoryview, keys: Any, position: int, described: dict[str, tuple[torch.dtype, int]]
) -> dict[str, memoryview]:
    """Find the bytes of each storage, which follow each other from `position` to the end."""
    raw: dict[str, memoryview] = {}
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise ValueError("the list of tensor data is damaged")
    for key in keys:
        if key not in described or key in raw or position + 8 > len(data):
            raise ValueError("the list of tensor data does not fit the rest; it may be truncated")
        dtype, expected = described[key]
        (elements,) = struct.unpack_from("<q", data, position)
        if elements != expected:
            raise ValueError(
                f"tensor data {ascii(key)[:40]} should have {expected} elements, not {elements}"
            )
        start = position + 8
        position = start + elements * dtype.itemsize
        if position > len(data):
            raise ValueError("the file is truncated: tensor data are missing")
        raw[key] = data[start:position]
    if len(raw) != len(described):
        raise ValueError("the file is truncated: tensor data are missing")
    check_end(data, position)
    return raw


def load_nested(raw: memoryview, budget: Budget) -> Storage:
    """Read the storage in a file that is itself part of a pickle: how Python pickles a tensor."""
    if not is_legacy(raw):
        raise ValueError("a tensor in the pickle is not in the form that torch writes")
    storage = read_legacy(raw, budget, inside_pickle=True)
    if not isinstance(storage, Storage):
        raise ValueError("a tensor in the pickle has other data than numbers")
    return storage


def _described(identifier: tuple[Any, ...]) -> tuple[torch.dtype, str, int, Any]:
    """Parse an identifier: data type, key, number of elements and view of the storage."""
    if len(identifier) not in (5, 6) or not all(type(identifier[i]) is str for i in (0, 2, 3)):
        raise ValueError("it refers to something outside of the pickle that is not tensor data")
    name, kind, key, location, elements = identifier[:5]
    if name != "storage" or type(kind) is not Global or kind.type not in STORAGES:
        raise ValueError("it refers to something outside of the pickle that is not tensor data")
    if location == "meta":
        raise ValueError("its tensors have shapes but no elements (they are on the meta device)")
    if not is_index(elements):
        raise ValueError("tensor data have an impossible number of elements")
    return STORAGES[kind.type], key, elements, identifier[5] if len(identifier) == 6 else None


def _view_of(storage: Storage, view: Any) -> Storage:
    """Cut out the part of `storage` that files of torch before 0.4 treat as a storage."""
    size = storage.dtype.itemsize
    if type(view) is not tuple or len(view) != 3 or not all(is_index(item) for item in view[1:]):
        raise ValueError("a part of tensor data is not described by offset and size")
    _, offset, elements = view
    if (offset + elements) * size > len(storage.data):
        raise ValueError("a part of tensor data reaches beyond them")
    return Storage(storage.data[offset * size : (offset + elements) * size], storage.dtype)


def check_end(data: memoryview, position: int) -> None:
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes follow the pickle's end")
