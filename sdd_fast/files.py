"""Reading and writing files so that nothing is ever half-written.

Every file the package writes goes through `atomic_path`: the bytes go to a temporary sibling which
is renamed over the target once complete.  A full disk, an exception or Ctrl-C therefore leaves the
old file (or none), never a broken one.

Tensors are stored as safetensors only.  Pickles are recognized by their content and refused,
because loading one can run any code it contains.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

PathLike = str | os.PathLike[str]

_OUT_OF_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def expanded(path: PathLike) -> Path:
    """Return a path of a user's, with ~ as the home folder.

    Raises:
        ValueError: the home of a user that does not exist.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{os.fspath(path)!r} names no home folder: {error}") from error


def unused(path: Path) -> Path:
    """Return `path`, or where that exists the first free one of name-2, name-3, …."""
    names = (path.with_stem(f"{path.stem}-{i}") for i in itertools.count(2))
    return next(p for p in itertools.chain([path], names) if not p.exists())


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary sibling of `path`, renamed onto it on success, removed on any error.

    The parent folder is created.  The temporary name keeps the suffix, so writers that choose a
    format by it work. "Any error" includes KeyboardInterrupt and SystemExit.

    Raises:
        OSError: naming `path`, not the temporary file; where the disk or quota is full, with the
            space left.
        IsADirectoryError: `path` is a folder.

    >>> with atomic_path("runs/hair/curve.png") as tmp:  # doctest: +SKIP
    ...     figure.savefig(tmp)
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "expected a file name to write to, but this is a folder", str(target)
        )
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        if error.errno in _OUT_OF_SPACE:
            raise _out_of_space(target) from error
        if error.errno == errno.EFBIG:
            limit = "larger than this process or file system may write (see ulimit -f)"
            raise OSError(
                error.errno, f"a file {limit}; nothing was written", str(target)
            ) from error
        if str(error.filename) == str(temporary):
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
    finally:
        # After a successful rename there is nothing left to remove.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()


def _out_of_space(target: Path) -> OSError:
    folder = target.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB free"
    except OSError:
        free = "free space unknown"
    message = (
        f"no space left while writing {target} ({free} in {folder}). Nothing was half-written; "
        "free some space or choose another output folder, then run the same command again"
    )
    return OSError(errno.ENOSPC, message, str(target))


def write_bytes(path: PathLike, data: bytes) -> None:
    """Write `data` to `path` atomically (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: PathLike, text: str) -> None:
    """Write `text` to `path` as UTF-8 with Unix line ends, atomically (see `atomic_path`)."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"cannot write {path}: {_half_character(error)}") from error
    write_bytes(path, data)


def _half_character(error: UnicodeEncodeError) -> str:
    return (
        f"the text holds {ascii(error.object[error.start])}, which is half a character (a lone "
        "surrogate) and cannot be written"
    )


def write_json(path: PathLike, value: Any) -> None:
    """Write `value` as indented standard JSON, atomically.

    Paths become strings; tensors, arrays and numpy scalars become lists and numbers.  NaN and
    infinity raise ValueError, since standard JSON cannot hold them.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False, default=_jsonable, ensure_ascii=False)
    except ValueError as error:
        raise ValueError(
            f"cannot write {path}: {error}; replace NaN and infinity by None before writing"
        ) from error
    write_text(path, text + "\n")


def _jsonable(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # torch.Tensor, numpy.ndarray, numpy scalars
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON: {value!r}")


def read_json(path: PathLike) -> Any:
    """Parse the JSON file `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON; the message names file, line and column.
    """
    source = _existing_file(path)
    try:
        return parse_json(source.read_bytes().decode("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{source} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not a JSON text file: it is not UTF-8") from error
    except ValueError as error:
        raise ValueError(f"{source} is not valid JSON: {error}") from error


def parse_json(text: str) -> Any:
    """Parse JSON like `json.loads`, which here raises ValueError for everything that is wrong.

    Integers that no float holds and texts that cannot be printed are wrong too: whoever uses them
    would fail in ways that do not speak of the file.
    """
    try:
        value = json.loads(text, parse_int=_integer)
        if _HALF_CHARACTER.search(text):  # cheap, and seldom there
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeEncodeError as error:
        raise ValueError(_half_character(error)) from error
    except RecursionError:
        raise ValueError("it is nested too deep") from None


_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_MOST_DIGITS = 300  # floats end at 1.8e308


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits; at most {_MOST_DIGITS} are accepted")
    return int(digits)


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
    """
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
                raise ValueError(f"cannot write {path}: {_half_character(error)}") from error
    # safetensors refuses views of one storage, hence a copy of each.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # Through bytes rather than save_file: a full disk then surfaces as OSError, which atomic_path
    # explains.
    write_bytes(path, _with_metadata(safetensors_bytes(copies), metadata or {}))


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
    source = Path(path)
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
        raise ValueError(
            f"{source} is not a complete safetensors file ({error}); it may be truncated or "
            "corrupt: write or download it again"
        ) from error


MOST_TENSORS = 100_000  # far beyond any known network
_LONGEST_HEADER = 100_000_000  # bytes, as safetensors has it


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
        if start > _LONGEST_HEADER:
            raise ValueError(f"{source} is no safetensors file: its header has {start - 8:,} bytes")
        text = handle.read(start - 8)
    if text.count(b'"data_offsets"') > MOST_TENSORS:
        raise ValueError(f"{source} lists more than {MOST_TENSORS:,} tensors, which is refused")
    try:
        header = parse_json(text.decode("utf-8"))
        entries = [(name, header[name]) for name in header if name != "__metadata__"]
        ends = [0, *(int(entry["data_offsets"][1]) for _, entry in entries)]
        elements = [math.prod(max(n, 1) for n in entry["shape"][:65]) for _, entry in entries]
        dimensions = [len(entry["shape"]) for _, entry in entries]
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
        raise ValueError(
            f"{source} is not a complete safetensors file (its header is damaged: {error}); {again}"
        ) from error
    for (name, _), count, rank in zip(entries, elements, dimensions, strict=True):
        # Without elements it may claim any size, at which torch fails.
        if count >= 2**62 or rank > 64:
            raise ValueError(f"{source}: tensor {ascii(name)[:200]} has an impossible shape")
    if start + max(ends) > size:
        raise ValueError(
            f"{source} is truncated: not a complete safetensors file (its tensors end at byte "
            f"{start + max(ends):,}, the file has {size:,}); {again}"
        )


def _existing_file(path: PathLike) -> Path:
    source = Path(path)
    if source.is_dir():
        raise IsADirectoryError(errno.EISDIR, "expected a file, but this is a folder", str(source))
    if not source.exists():
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(source))
    return source


def content_kind(path: PathLike) -> Literal["safetensors", "zip", "pickle"]:
    """Tell what a weights file is by its first bytes, whatever it is called.

    "zip" is what `torch.save` writes since torch 1.6; "pickle" what it wrote before, and any other
    pickle.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty or something that people mistake for weights.
    """
    source = _existing_file(path)
    if not source.is_file():
        raise ValueError(f"{source} is a device or pipe, not a file")
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
        f"{source} is not a safetensors file (unknown content {head[:8]!r}) nor any other kind of "
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
