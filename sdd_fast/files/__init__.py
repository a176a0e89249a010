"""Reading and writing files: written whole or not at all, read within bounds, never executed."""

from .atomic import TEMPORARY, atomic_path, write_bytes, write_text
from .content import content_kind
from .errors import library_text, listed, os_error_text
from .json import parse_json, read_json, write_json
from .paths import (
    PathLike,
    expanded,
    make_folder,
    read_bytes,
    readable,
    regular_file,
    settled,
    shown,
    unused,
)
from .tensors import load_tensors, read_metadata, safetensors_path, save_tensors

__all__ = [
    "TEMPORARY", "PathLike", "atomic_path", "content_kind", "expanded", "library_text", "listed",
    "load_tensors", "make_folder", "os_error_text", "parse_json", "read_bytes", "read_json",
    "read_metadata", "readable", "regular_file", "safetensors_path", "save_tensors", "settled",
    "shown", "unused", "write_bytes", "write_json", "write_text",
]  # fmt: skip
