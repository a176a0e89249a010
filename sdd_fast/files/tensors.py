"""Tensors in safetensors files, the only format that is written; pickles are refused here.

Nothing in a safetensors file can be executed. Loading a pickle can run any code it contains.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from ..out_of_memory import check_ran_out
from .atomic import half_character, write_bytes
from .content import content_kind
from .errors import library_text
from .json import parse_json
from .paths import PathLike, expanded

SUFFIX = ".safetensors"
MOST_TENSORS = 100_000  # far beyond any known network
LONGEST_HEADER = 100_000_000  # bytes, as safetensors has it
_MOST_BRACKETS = 4_000_000  # three for each tensor, and those of JSON in the metadata


def save_tensors(
    path: PathLike,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named tensors as safetensors, atomically; equal contents give equal bytes.

    Args:
        tensors: name → tensor on any device, with any strides, storage may be shared; dtypes are
            kept.
        metadata: str → str, stored in the file's header.  Encode structured values as JSON
            yourself.

    Raises:
        ValueError: as of `safetensors_path`, or a text that is no Unicode.
        TypeError: metadata of other types.
    """
    target = safetensors_path(path)
    for key, text in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(
                f"metadata of {path} must map str to str, got {key!r}: {type(text).__name__}; "
                "encode the value with json.dumps"
            )
        for part in (key, text):
            try:
                part.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(f"cannot write {path}: {half_character(error)}") from error
    # safetensors refuses views of one storage, hence a copy of each.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # Through bytes rather than save_file: a full disk then surfaces as OSError, which atomic_path
    # explains.
    write_bytes(target, _with_metadata(safetensors_bytes(copies), metadata or {}))


def safetensors_path(path: PathLike) -> Path:
    """Return the path of a safetensors file to write; ~ is the home folder.

    Raises:
        ValueError: it does not end in .safetensors, by which all programs know these files.
    """
    target = expanded(path)
    if target.suffix.lower() != SUFFIX:
        raise ValueError(f"{str(path)!r} must end in {SUFFIX}, the format that is written")
    return target


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """Add `metadata` to the safetensors file `data` in one order; safetensors itself has none."""
    if not metadata:
        return data
    start = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8:start])}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # so that the tensors stay aligned
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[start:]])


def load_tensors(
    path: PathLike, device: str | torch.device = "cpu"
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file as (tensors by name, metadata).  Nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, truncated, a pickle (`.pt`, `.pth`, `.pkl`, `.ckpt`) or
            something else.
    """
    with _opened(path, device) as handle:
        names = handle.keys()  # a handle is not iterable itself
        return {name: handle.get_tensor(name) for name in names}, dict(handle.metadata() or {})


def read_metadata(path: PathLike) -> dict[str, str]:
    """Read a safetensors file's metadata, without its tensors; errors as for `load_tensors`."""
    with _opened(path) as handle:
        return dict(handle.metadata() or {})


@contextlib.contextmanager
def _opened(path: PathLike, device: str | torch.device = "cpu") -> Iterator[Any]:
    source = expanded(path)
    if content_kind(source) != "safetensors":
        raise ValueError(
            f"{source} is a pickle (PyTorch .pt/.pth/.ckpt or Python .pkl), which can run code "
            "when loaded and is refused here. If it is a checkpoint that sdd_fast knows, this "
            f"reads it without running anything in it: sdd convert {source} OUT.safetensors"
        )
    _check_header(source)
    try:
        with safe_open(str(source), framework="pt", device=str(device)) as handle:
            yield handle
    except SafetensorError as error:
        check_ran_out(error, source)
        raise ValueError(
            f"{source} is not a complete safetensors file ({library_text(error)}); it may be "
            "truncated or corrupt: write or download it again"
        ) from error


def _check_header(source: Path) -> None:
    """Raise ValueError for what safetensors or torch would answer late or in words of their own.

    A file of megabytes can list millions of tensors without elements, each of any size.
    """
    again = "write or download it again"
    size = source.stat().st_size
    with open(source, "rb") as handle:
        start = 8 + int.from_bytes(handle.read(8), "little")
        if start > size:
            raise ValueError(
                f"{source} is truncated: not a complete safetensors file (its header has "
                f"{start - 8:,} bytes, the file {size:,}); {again}"
            )
        if start > LONGEST_HEADER:
            raise ValueError(
                f"{source}: its header has {start - 8:,} bytes, far more than that of any network; "
                f"at most {LONGEST_HEADER:,} are read"
            )
        text = handle.read(start - 8)
    if text.count(b"[") + text.count(b"{") > _MOST_BRACKETS:
        raise ValueError(f"{source}: its header has more lists and objects than any network needs")
    # In the text first, since parsing takes long, and then in what it says, since JSON knows other
    # ways to write a name.
    _check_count(source, text.count(b'"data_offsets"'))
    try:
        header = parse_json(text.decode("utf-8"))
        entries = [(name, header[name]) for name in header if name != "__metadata__"]
        _check_count(source, len(entries))
        shapes = [entry["shape"] for _, entry in entries]
        offsets = [entry["data_offsets"] for _, entry in entries]
        if not all(type(n) is int and n >= 0 for row in (*shapes, *offsets) for n in row):
            raise ValueError("sizes that are no whole numbers")
        end = start + max((last for _, last in offsets), default=0)
    except _TooMany:
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(
            f"{source} is not a complete safetensors file (its header is damaged: "
            f"{library_text(error)}); {again}"
        ) from error
    for (name, _), shape in zip(entries, shapes, strict=True):
        # Without elements it may claim any size, at which torch fails.
        if len(shape) > 64 or math.prod(max(n, 1) for n in shape) >= 2**62:
            raise ValueError(f"{source}: tensor {ascii(name)[:200]} has an impossible shape")
    if end > size:
        raise ValueError(
            f"{source} is truncated: not a complete safetensors file (its tensors end at byte "
            f"{end:,}, the file has {size:,}); {again}"
        )


class _TooMany(ValueError):
    """More tensors than any network has."""


def _check_count(source: Path, count: int) -> None:
    if count > MOST_TENSORS:
        raise _TooMany(f"{source} lists more than {MOST_TENSORS:,} tensors, which is refused")
