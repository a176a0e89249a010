"""What a file of `sdd export` tells of itself, for `sdd info`; nothing in it runs."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

_EXTRA, _COMPILED, _MOST = "/extra/sdd.json", "_metadata.json", 2**20


def exported(path: Path) -> dict[str, Any] | None:
    """Facts of an exported edit; None for any other file."""
    from sdd_fast.checkpoints.inspect import A_PROGRAM
    from sdd_fast.files import parse_json

    try:
        kind, text = _onnx(path) if path.suffix.lower() == ".onnx" else _archive(path)
        about = parse_json(text) if text else None
        if kind == "AOTInductor" and isinstance(about, dict):
            about = parse_json(str(about.get("sdd.json", "null")))
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, ValueError):
        return None  # RuntimeError: encrypted
    if not isinstance(about, dict):
        return None
    facts: dict[str, Any] = {f"{kind} of {_what(about)}": path}
    edits = about.get("edits")
    told = edits if isinstance(edits, list) else [about]
    for name in ("prompt", "lam", "levels", "timesteps", "domain"):
        values = [edit[name] for edit in told if isinstance(edit, dict) and edit.get(name)]
        if values:
            facts[name] = values[0] if len(values) == 1 else values
    for name in ("inputs", "outputs"):
        if isinstance(about.get(name), list):
            facts[name] = [f"{one.get('name')} {one.get('shape')}" for one in about[name]]
    facts |= {name: about[name] for name in ("license", "extra") if about.get(name)}
    facts["size"] = f"{path.stat().st_size / 1024:.0f} KiB"
    if kind != "ONNX":
        facts["safety"] = A_PROGRAM
    return facts


def _what(about: dict[str, Any]) -> str:
    return f"{about['network']}" if "network" in about else f"the {about.get('part', 'editor')}"


def _archive(path: Path) -> tuple[str, str]:
    """The format of a zip file, and its `sdd.json` or what holds it; "" of any other file."""
    if not path.is_file() or path.open("rb").read(2) != b"PK":
        return "", ""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        compiled = any("/aotinductor/" in name for name in names)
        ending = _COMPILED if compiled else _EXTRA
        found = [entry for entry in archive.infolist() if entry.filename.endswith(ending)]
        if not found or found[0].file_size > _MOST:
            return "", ""
        text = archive.read(found[0]).decode("utf-8")
    if compiled:
        return "AOTInductor", text
    if any(name.endswith("/archive_format") for name in names):
        return "torch.export", text
    script = any(name.endswith("/constants.pkl") for name in names)
    return ("TorchScript", text) if script else ("", "")


def _onnx(path: Path) -> tuple[str, str]:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path}: reading ONNX files needs a package: pip install 'sdd_fast[onnx]'"
        ) from error
    try:
        properties = onnx.load(path, load_external_data=False).metadata_props
    except DecodeError as error:
        raise ValueError(f"{path} is no complete ONNX file: {error}") from error
    return "ONNX", next((one.value for one in properties if one.key == "sdd.json"), "")
