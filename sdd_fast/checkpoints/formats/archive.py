"""Where the entries of a zip archive lie in the file.

`zipfile` reads the directory. It is lenient, which lets two programs read one file differently, and
copies what it reads; hence our own checks that entries do not overlap, lie within the file and are
what the directory says, that the directory ends the file, and that entries are stored as they are.
That is how torch writes them, and it leaves nothing for an archive to expand to.
"""

from __future__ import annotations

import codecs
import struct
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import BinaryIO

_END = struct.Struct("<4s4H2IH")
_IN_64 = 0xFFFFFFFF
codecs.lookup("cp437")  # loaded by zipfile's first use: now, so that reading a file imports nothing
_ENCRYPTED = 1  # of an entry's flags


@dataclass(frozen=True)
class Entry:
    """One file in an archive, whose bytes begin at `start`."""

    info: zipfile.ZipInfo
    start: int

    def read(self, archive: memoryview) -> memoryview:
        """Return its bytes, unless they are compressed or damaged."""
        if self.info.compress_type:
            raise _refused(
                self.info,
                "is compressed, which torch's own files never are; unpack the archive, and pack "
                "its folder again without compression (zip -0 -r)",
            )
        data = archive[self.start : self.start + self.info.file_size]
        # torch writes 0 when it is told not to compute checksums.
        if self.info.CRC and zlib.crc32(data) != self.info.CRC:
            raise _refused(self.info, "is damaged (its checksum differs)")
        return data


def entries_of(file: BinaryIO, archive: memoryview) -> dict[str, Entry]:
    """List the entries by name.

    Args:
        file: the archive, open for reading.
        archive: its bytes.

    Raises:
        ValueError: the archive is truncated, damaged, compressed or made to confuse.
    """
    count = _promised_entries(archive)
    entries: dict[str, Entry] = {}
    before = 0
    try:
        with zipfile.ZipFile(file) as directory:
            infos = directory.infolist()
            if count not in (len(infos), 0xFFFF):
                raise zipfile.BadZipFile(f"it has {len(infos)} entries, not {count}")
            for info in sorted(infos, key=lambda info: info.header_offset):
                _check(info, entries)
                with directory.open(info):  # compares the entry's own header
                    start, end = file.tell(), file.tell() + info.compress_size
                if end > directory.start_dir:
                    raise _refused(info, "reaches beyond the archive: it may be truncated")
                if info.header_offset < before:
                    raise _refused(info, "overlaps another entry of the archive")
                before = end
                entries[info.orig_filename] = Entry(info, start)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        UnicodeError,
        OverflowError,
        OSError,
        struct.error,
    ) as error:
        raise ValueError(f"the archive's directory is damaged: {error}") from error
    return entries


def _check(info: zipfile.ZipInfo, others: Collection[str]) -> None:
    name = info.orig_filename
    if "\0" in name or "\\" in name or name.startswith("/") or ".." in name.split("/"):
        raise _refused(info, "is no name for an entry of an archive")
    if name in others:
        raise _refused(info, "is the name of two entries of the archive")
    if info.flag_bits & _ENCRYPTED:
        raise _refused(info, "is encrypted")
    if not info.compress_type and info.file_size != info.compress_size:
        raise _refused(info, "has two different sizes")


def _promised_entries(archive: memoryview) -> int:
    """Return how many entries the end of the archive speaks of; 0xFFFF: more than it can say."""
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


def _refused(info: zipfile.ZipInfo, problem: str) -> ValueError:
    return ValueError(f"{ascii(info.orig_filename[:200])} {problem}")
