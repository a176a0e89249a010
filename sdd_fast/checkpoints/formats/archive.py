"""Where the entries of a zip archive lie in the file.

`zipfile` reads the directory. It is lenient, which lets two programs read one file differently, and
copies what it reads; hence our own checks that entries do not overlap, lie within the file and are
what the directory says, that the directory ends the file, and that entries are stored as they are.
That is how torch writes them, and it leaves nothing for an archive to expand to.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import BinaryIO

_END = struct.Struct("<4s4H2IH")
_LOCAL = struct.Struct("<4sH2H2H3I2H")
_IN_64 = 0xFFFFFFFF
_ENCRYPTED, _UTF_8 = 1, 0x800  # bits of an entry's flags


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


def entries_of(file: BinaryIO, archive: memoryview) -> dict[str, Entry]:
    """The entries by name.

    Args:
        file: the archive, open for reading.
        archive: its bytes.

    Raises:
        ValueError: the archive is truncated, damaged, compressed or made to confuse.
    """
    count = _promised_entries(archive)
    try:
        with zipfile.ZipFile(file) as directory:
            infos, end = directory.infolist(), directory.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        raise ValueError(f"the archive's directory is damaged: {error}") from error
    if count not in (len(infos), 0xFFFF):
        raise ValueError(f"the archive's directory is damaged: it has {len(infos)} entries, "
                         f"not {count}")  # fmt: skip
    entries: dict[str, Entry] = {}
    before, previous = 0, ""
    for info in sorted(infos, key=lambda info: info.header_offset):
        name = info.orig_filename
        if "\0" in name or "\\" in name or name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"an entry of the archive is called {_shown(name)}")
        if name in entries:
            raise ValueError(f"the archive has two entries called {_shown(name)}")
        if info.flag_bits & _ENCRYPTED:
            raise ValueError(f"{_shown(name)} is encrypted")
        if not info.compress_type and info.file_size != info.compress_size:
            raise ValueError(f"{_shown(name)} has two different sizes")
        start = _first_byte(archive, info)
        if start + info.compress_size > end:
            raise ValueError(f"{_shown(name)} reaches beyond the archive: it may be truncated")
        if info.header_offset < before:
            raise ValueError(f"{_shown(name)} overlaps {_shown(previous)} in the archive")
        before, previous = start + info.compress_size, name
        entries[name] = Entry(name, start, before, info.CRC, info.compress_type != 0)
    return entries


def _promised_entries(archive: memoryview) -> int:
    """How many entries the end of the archive speaks of; 0xFFFF where that is elsewhere."""
    last = len(archive) - _END.size
    if last < 0 or archive[last : last + 4] != b"PK\x05\x06":
        raise ValueError(
            "the archive does not end with its directory: the file is truncated; download or "
            "write it again"
        )
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(archive, last)
    misplaced = _IN_64 not in (size, start) and count != 0xFFFF and start + size > last
    if disk or first_disk or here != count or comment or misplaced:
        raise ValueError("the archive's directory is damaged or spread over several files")
    return int(count)


def _first_byte(archive: memoryview, info: zipfile.ZipInfo) -> int:
    """Where the data of the entry begin."""
    name, header = info.orig_filename, info.header_offset
    if not 0 <= header <= len(archive) - _LOCAL.size:
        raise ValueError(f"{_shown(name)} lies beyond the archive: it may be truncated")
    signature, _, flags, method, _, _, _, _, _, name_length, extra_length = _LOCAL.unpack_from(
        archive, header
    )
    names = header + _LOCAL.size
    raw = name.encode("utf-8" if info.flag_bits & _UTF_8 else "cp437")
    same_name = archive[names : names + name_length] == raw
    same_form = not flags & _ENCRYPTED and method == info.compress_type
    if signature != b"PK\x03\x04" or not same_name or not same_form:
        raise ValueError(f"the header of {_shown(name)} contradicts the archive's directory")
    return names + name_length + extra_length


def _shown(name: str) -> str:
    return ascii(name[:200])
