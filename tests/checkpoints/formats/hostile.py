"""Pickles put together operation by operation, as no pickler would, and files around them."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sdd_fast.checkpoints.formats.read import read_checkpoint

__all__ = [  # all but `pickle`, which tests have another one of
    "archive", "call", "call_system", "data", "integer", "items", "legacy", "name", "refused",
    "stack_name", "storage", "tensor", "text",
]  # fmt: skip
SYSTEM = "touch executed"  # the command that would leave a trace


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def data(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(full: str) -> bytes:
    module, _, function = full.rpartition(".")
    return f"c{module}\n{function}\n".encode()


def stack_name(module: str, function: str) -> bytes:
    return text(module) + text(function) + b"\x93"


def items(*parts: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(parts) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + items(*arguments) + b"R"


def pickle(*operations: bytes) -> bytes:
    return b"\x80\x04" + b"".join(operations) + b"."


def call_system() -> bytes:
    return call(name("os.system"), text(SYSTEM))


def archive(pickled: bytes, storages: dict[str, bytes] | None = None, **options: Any) -> bytes:
    """A file of torch since 1.6."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", **options) as file:
        file.writestr("archive/data.pkl", pickled)
        for key, numbers in (storages or {}).items():
            file.writestr(f"archive/data/{key}", numbers)
    return target.getvalue()


def storage(key: str = "0", elements: int = 4, kind: str = "torch.FloatStorage") -> bytes:
    return items(text("storage"), name(kind), text(key), text("cpu"), integer(elements)) + b"Q"


def tensor(
    where: bytes, offset: int = 0, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,)
) -> bytes:
    return call(
        name("torch._utils._rebuild_tensor_v2"),
        where,
        integer(offset),
        items(*map(integer, shape)),
        items(*map(integer, strides)),
        b"\x89",
        call(name("collections.OrderedDict")),
    )


def legacy(content: bytes, keys: list[str], numbers: list[tuple[int, bytes]]) -> bytes:
    """A file of torch before 1.6; `content` is a whole pickle."""
    machine = b"\x80\x02}" + text("little_endian") + b"\x88s."
    names = b"\x80\x02](" + b"".join(map(text, keys)) + b"e."
    rest = b"".join(struct.pack("<q", count) + raw for count, raw in numbers)
    magic = b"\x80\x02" + integer(0x1950A86A20F9469CFC6C) + b"."
    return magic + b"\x80\x02M\xe9\x03." + machine + content + names + rest


def refused(path: Path, content: bytes, message: str = r"a\.p") -> str:
    """The message of the error that reading a file of this `content` raises."""
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)
    return str(error.value)
