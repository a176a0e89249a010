"""Images that are no files on disk: bytes, such as of an upload, and open files."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import IO, Any

MOST_BYTES = 2**30
"""Of an open file: a stream may never end."""


@dataclass(frozen=True)
class ImageBytes:
    """The content of an image file; has what `decoding` uses of a `Path`."""

    data: bytes
    name: str = "the image"

    def __str__(self) -> str:
        return self.name

    def open(self, mode: str = "rb") -> IO[bytes]:
        return io.BytesIO(self.data)

    def read_bytes(self) -> bytes:
        return self.data


def is_encoded(source: object) -> bool:
    """Tell whether `source` is bytes, or an open file."""
    return isinstance(source, (bytes, bytearray, memoryview)) or hasattr(source, "read")


def image_bytes(source: Any) -> ImageBytes:
    """Return bytes, or what is left to read of an open file, which is named by its name.

    Raises:
        TypeError: the file is open as text.
        ValueError: it holds more than `MOST_BYTES`.
    """
    if not hasattr(source, "read"):
        return ImageBytes(bytes(source), "the image (bytes)")
    told = getattr(source, "name", None)
    name = told if isinstance(told, str) else "the image (an open file)"
    data = source.read(MOST_BYTES + 1)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(
            f'{name} is open as text; an image needs open(…, "rb"), whose read() gives bytes, got '
            f"{type(data).__name__}"
        )
    if len(data) > MOST_BYTES:
        raise ValueError(
            f"{name} has more than {MOST_BYTES:,} bytes, which no image here has; give its path"
        )
    return ImageBytes(bytes(data), name)
