"""Where the entries of a zip archive lie in the file.

Strict where archive programs are lenient: entries do not overlap and lie within the file, the
directory ends it, and only entries that are stored as they are can be read. That is how torch
writes them, and it leaves nothing for an archive to expand to.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_IN_64 = 0xFFFFFFFF
_ENCRYPTED = 1


@dataclass(frozen=True)
class Entry:
    """One file in an archive: its bytes are `archive[start:end]`."""

    name: str
    start: int
    end: int
    checksum: int
    compressed: bool

    def read(self, archive: memoryview) -> memoryview:
        """Its bytes, unless they are compressed or damaged."""
        if self.compressed:
            raise ValueError(
                f"{_shown(self.name)} is compressed, which torch's own files never are; unpack the "
                "archive, and pack its folder again without compression (zip -0 -r)"
            )
        data = archive[self.start : self.end]
        # torch writes 0 when it is told not to compute checksums.
        if self.checksum and zlib.crc32(data) != self.checksum:
            raise ValueError(f"{_shown(self.name)} is damaged (its checksum differs)")
        return data


def entries_of(archive: memoryview) -> dict[str, Entry]:
    """The entries by name.

    Raises:
        ValueError: the archive is truncated, damaged, compressed or made to confuse.
    """
    start, end, count = _directory(archive)
    entries: dict[str, Entry] = {}
    spans = []
    position = start
    for _ in range(count):
        if position + _ENTRY.size > end:
            raise ValueError("the archive's directory is damaged: it ends too early")
        (
            signature, _, _, flags, method, _, _, checksum, stored, size,
            name_length, extra_length, comment_length, _, _, _, header,
        ) = _ENTRY.unpack_from(archive, position)  # fmt: skip
        following = position + _ENTRY.size
        position = following + name_length + extra_length + comment_length
        if signature != b"PK\x01\x02" or position > end:
            raise ValueError("the archive's directory is damaged")
        name = _name(archive[following : following + name_length])
        extra = archive[following + name_length : following + name_length + extra_length]
        if name in entries:
            raise ValueError(f"the archive has two entries called {_shown(name)}")
        if flags & _ENCRYPTED:
            raise ValueError(f"{_shown(name)} is encrypted")
        size, stored, header = _wide(extra, [size, stored, header])
        first = _first_byte(archive, header, name, method)
        if not method and size != stored:
            raise ValueError(f"{_shown(name)} has two different sizes")
        if first + stored > start:
            raise ValueError(f"{_shown(name)} reaches beyond the archive: it may be truncated")
        entries[name] = Entry(name, first, first + stored, checksum, method != 0)
        spans.append((header, first + stored, name))
    if position != end:
        raise ValueError("the archive's directory is damaged: it is longer than its entries")
    spans.sort()
    for (_, before, _), (after, _, name) in zip(spans, spans[1:], strict=False):
        if after < before:
            raise ValueError(f"{_shown(name)} overlaps another entry of the archive")
    return entries


def _directory(archive: memoryview) -> tuple[int, int, int]:
    """Where the directory begins and ends, and how many entries it has."""
    last = len(archive) - _END.size
    if last < 0 or archive[last : last + 4] != b"PK\x05\x06":
        raise ValueError(
            "the archive does not end with its directory: the file is truncated; download or "
            "write it again"
        )
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(archive, last)
    end = last
    locator = last - _LOCATOR.size
    if locator >= 0 and archive[locator : locator + 4] == b"PK\x06\x07":
        end = _LOCATOR.unpack_from(archive, locator)[2]
        if end + _END_64.size > locator or archive[end : end + 4] != b"PK\x06\x06":
            raise ValueError("the archive's directory is damaged")
        _, _, _, _, disk, first_disk, here, count, size, start = _END_64.unpack_from(archive, end)
    if disk or first_disk or here != count or comment or start + size != end:
        raise ValueError("the archive's directory is damaged or spread over several files")
    return start, end, count


def _name(raw: memoryview) -> str:
    try:
        name = str(raw, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("an entry of the archive has a name that is not UTF-8") from error
    if "\0" in name or "\\" in name or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"an entry of the archive is called {_shown(name)}")
    return name


def _wide(extra: memoryview, fields: list[int]) -> list[int]:
    """`fields` with those that do not fit 32 bits taken from the entry's extra data."""
    position = 0
    while _IN_64 in fields and position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            numbers = struct.unpack_from(f"<{min(length, len(extra) - position - 4) // 8}Q", extra,
                                         position + 4)  # fmt: skip
            if len(numbers) < fields.count(_IN_64):
                break
            wide = iter(numbers)
            return [next(wide) if field == _IN_64 else field for field in fields]
        position += 4 + length
    if _IN_64 in fields:
        raise ValueError("the archive's directory is damaged: a size is missing")
    return fields


def _first_byte(archive: memoryview, header: int, name: str, stored_as: int) -> int:
    """Where the data of the entry begin whose own header is at `header`."""
    if header + _LOCAL.size > len(archive):
        raise ValueError(f"{_shown(name)} lies beyond the archive: it may be truncated")
    signature, _, flags, method, _, _, _, _, _, name_length, extra_length = _LOCAL.unpack_from(
        archive, header
    )
    names = header + _LOCAL.size
    same_name = bytes(archive[names : names + name_length]) == name.encode("utf-8")
    if signature != b"PK\x03\x04" or not same_name or flags & _ENCRYPTED or method != stored_as:
        raise ValueError(f"the header of {_shown(name)} contradicts the archive's directory")
    return names + name_length + extra_length


def _shown(name: str) -> str:
    return ascii(name[:200])
