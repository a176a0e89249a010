"""The binary form of pickles: one operation after another, each with at most one argument.

Only decodes: nothing is built, and no argument can be larger than the bytes that the file holds
for it. Operations that no checkpoint needs (the extension registry, out-of-band buffers) are left
out, hence unknown. The meaning of each is documented in Python's `pickletools`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

Argument = Any
Reader = Callable[[memoryview, int], tuple[Argument, int]]

LONGEST_TEXT = 16 * 2**20  # bytes; the source code inside NVIDIA's pickles has some 40 KiB
LONGEST_INTEGER = 128  # bytes; states of random generators have 16
LARGE = 4096  # bytes from here on stay where they are: a memoryview instead of a copy


def read_operation(data: memoryview, position: int) -> tuple[str, Argument, int]:
    """The operation at `position`: its name, its argument (None without), where the next begins.

    Raises:
        ValueError: the data end, or hold no such operation.
    """
    if position >= len(data):
        raise ValueError("the data end before the pickle does")
    code = data[position]
    if code not in _OPERATIONS:
        raise ValueError(f"operation {bytes([code])!r} is not one that checkpoints use")
    name, reader = _OPERATIONS[code]
    if reader is None:
        return name, None, position + 1
    argument, position = reader(data, position + 1)
    return name, argument, position


def _take(data: memoryview, position: int, length: int) -> tuple[memoryview, int]:
    end = position + length
    if end > len(data):
        raise ValueError(f"{length} bytes are announced, {len(data) - position} are left")
    return data[position:end], end


def _number(layout: str) -> Reader:
    packed = struct.Struct(layout)

    def read(data: memoryview, position: int) -> tuple[Argument, int]:
        raw, position = _take(data, position, packed.size)
        return packed.unpack(raw)[0], position

    return read


def _counted(layout: str, convert: Callable[[memoryview], Argument]) -> Reader:
    """Data that follow their own length."""
    read_length = _number(layout)

    def read(data: memoryview, position: int) -> tuple[Argument, int]:
        length, position = read_length(data, position)
        if length < 0:
            raise ValueError(f"a negative length ({length})")
        raw, position = _take(data, position, length)
        return convert(raw), position

    return read


def _line(data: memoryview, position: int) -> tuple[bytes, int]:
    length = 128
    while True:  # a memoryview cannot be searched: copy ever longer pieces
        piece = bytes(data[position : position + length])
        end = piece.find(b"\n")
        if end >= 0:
            return piece[:end], position + end + 1
        if len(piece) < length or length > LONGEST_TEXT:
            raise ValueError("a line of text does not end")
        length *= 2


def _lined(convert: Callable[[bytes], Argument]) -> Reader:
    def read(data: memoryview, position: int) -> tuple[Argument, int]:
        line, position = _line(data, position)
        return convert(line), position

    return read


def _two_lines(data: memoryview, position: int) -> tuple[Argument, int]:
    first, position = _line(data, position)
    second, position = _line(data, position)
    return (first.decode("utf-8"), second.decode("utf-8")), position


def _as_text(raw: memoryview) -> str:
    if len(raw) > LONGEST_TEXT:
        raise ValueError(f"a text of {len(raw)} bytes; at most {LONGEST_TEXT} are accepted")
    return str(raw, "utf-8")


def _as_bytes(raw: memoryview) -> bytes | memoryview:
    return raw if len(raw) >= LARGE else bytes(raw)


def _as_python2_text(raw: bytes | memoryview) -> str | bytes:
    """Python 2 did not tell text from bytes."""
    data = bytes(raw[: LONGEST_TEXT + 1])
    if len(data) > LONGEST_TEXT:
        raise ValueError(f"a text of {len(raw)} bytes; at most {LONGEST_TEXT} are accepted")
    return data.decode("ascii") if data.isascii() else data


def _as_integer(raw: memoryview) -> int:
    if len(raw) > LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(raw)} bytes; at most {LONGEST_INTEGER} are accepted")
    return int.from_bytes(raw, "little", signed=True)


_DECIMAL = re.compile(rb"[+-]?[0-9]{1,300}")
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[\\'\"nrt])")
_ESCAPED = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def _decimal(line: bytes) -> int:
    if not _DECIMAL.fullmatch(line):
        raise ValueError(f"{line[:20]!r} is not an integer")
    return int(line)


def _decimal_or_bool(line: bytes) -> int | bool:
    return line == b"01" if line in (b"00", b"01") else _decimal(line)


def _quoted(line: bytes) -> str | bytes:
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise ValueError(f"{line[:20]!r} is not a quoted text")

    def unescape(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code[1:], 16)]) if code[:1] == b"x" else _ESCAPED[code]

    return _as_python2_text(_ESCAPE.sub(unescape, line[1:-1]))


_OPERATIONS: dict[int, tuple[str, Reader | None]] = {
    ord(code): (name, reader)
    for code, name, reader in [
        # The frame of a pickle.
        ("\x80", "PROTO", _number("<B")),
        ("\x95", "FRAME", _number("<Q")),
        (".", "STOP", None),
        # Numbers.
        ("N", "NONE", None),
        ("\x88", "NEWTRUE", None),
        ("\x89", "NEWFALSE", None),
        ("I", "PUSH", _lined(_decimal_or_bool)),
        ("L", "PUSH", _lined(lambda line: _decimal(line.removesuffix(b"L")))),
        ("F", "PUSH", _lined(float)),
        ("J", "PUSH", _number("<i")),
        ("K", "PUSH", _number("<B")),
        ("M", "PUSH", _number("<H")),
        ("\x8a", "PUSH", _counted("<B", _as_integer)),
        ("\x8b", "PUSH", _counted("<i", _as_integer)),
        ("G", "PUSH", _number(">d")),
        # Text and bytes.
        ("S", "PUSH", _lined(_quoted)),
        ("T", "PUSH", _counted("<i", _as_python2_text)),
        ("U", "PUSH", _counted("<B", _as_python2_text)),
        ("V", "PUSH", _lined(lambda line: line.decode("raw-unicode-escape"))),
        ("X", "PUSH", _counted("<I", _as_text)),
        ("\x8c", "PUSH", _counted("<B", _as_text)),
        ("\x8d", "PUSH", _counted("<Q", _as_text)),
        ("B", "PUSH", _counted("<I", _as_bytes)),
        ("C", "PUSH", _counted("<B", _as_bytes)),
        ("\x8e", "PUSH", _counted("<Q", _as_bytes)),
        ("\x96", "PUSH", _counted("<Q", _as_bytes)),  # a bytearray
        # Containers.
        (")", "EMPTY_TUPLE", None),
        ("t", "TUPLE", None),
        ("\x85", "TUPLE1", None),
        ("\x86", "TUPLE2", None),
        ("\x87", "TUPLE3", None),
        ("]", "EMPTY_LIST", None),
        ("l", "LIST", None),
        ("a", "APPEND", None),
        ("e", "APPENDS", None),
        ("}", "EMPTY_DICT", None),
        ("d", "DICT", None),
        ("s", "SETITEM", None),
        ("u", "SETITEMS", None),
        ("\x8f", "EMPTY_SET", None),
        ("\x90", "ADDITEMS", None),
        ("\x91", "FROZENSET", None),
        # The stack and the memo.
        ("(", "MARK", None),
        ("0", "POP", None),
        ("1", "POP_MARK", None),
        ("2", "DUP", None),
        ("p", "PUT", _lined(_decimal)),
        ("q", "PUT", _number("<B")),
        ("r", "PUT", _number("<I")),
        ("\x94", "MEMOIZE", None),
        ("g", "GET", _lined(_decimal)),
        ("h", "GET", _number("<B")),
        ("j", "GET", _number("<I")),
        # Objects.
        ("c", "GLOBAL", _two_lines),
        ("\x93", "STACK_GLOBAL", None),
        ("R", "REDUCE", None),
        ("b", "BUILD", None),
        ("\x81", "NEWOBJ", None),
        ("\x92", "NEWOBJ_EX", None),
        ("i", "INST", _two_lines),
        ("o", "OBJ", None),
        ("Q", "BINPERSID", None),
    ]
}
