"""What a file of weights is, told from its first bytes."""

from __future__ import annotations

import os
from typing import Literal

from .paths import PathLike, regular_file


def content_kind(path: PathLike) -> Literal["safetensors", "zip", "pickle"]:
    """Tell what a weights file is by its first bytes, whatever it is called.

    "zip" is what `torch.save` writes since torch 1.6; "pickle" what it wrote before, and any other
    pickle.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty or something that people mistake for weights.
    """
    source = regular_file(path)
    with open(source, "rb") as handle:
        head = handle.read(512)
        handle.seek(0, os.SEEK_END)
        handle.seek(max(0, handle.tell() - 1))
        last = handle.read(1)
    if not head:
        raise ValueError(f"{source} is empty (0 bytes); write or download it again")
    # A safetensors file starts with its header's length (8 bytes, little-endian, at most 100 MB)
    # and then '{'.
    if head[4:9] == b"\0\0\0\0{" and not head.startswith((b"PK\x03\x04", b"<")):
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    # The PROTO operation of protocols 2–5; protocols 0 and 1 begin with one of several operations.
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    for start, problem in _MISTAKEN.items():
        if head.lstrip().startswith(start):
            raise ValueError(f"{source} is {problem}")
    if head[257:262] == b"ustar":
        raise ValueError(
            f"{source} is a tar archive: unpack it first if the checkpoint is a file inside of it. "
            "If torch < 0.4 wrote it, load it with torch.load where you trust it, and save it again"
        )
    if head[:1] in b"(]})c" and last == b".":
        return "pickle"
    raise ValueError(
        f"{source} is not a safetensors file (its content is unknown) nor any other kind of "
        "weights; it may be truncated or corrupt, or of another format"
    )


_MISTAKEN = {
    b"version https://git-lfs": "a Git LFS pointer, not the weights themselves; run 'git lfs pull'",
    b"<": "a web page, not weights; download the file itself",
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\x89HDF": "an HDF5 file (Keras, TensorFlow), not weights of a PyTorch network",
    b"GGUF": "a GGUF file, whose weights are quantized; use the original ones",
}
