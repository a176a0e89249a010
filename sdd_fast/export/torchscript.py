"""Writing a trained mapper as one TorchScript file, which Python and C++ load without this package.

The file carries a JSON text beside the module, as the extra file `sdd.json`: what the edit is and
how it was trained. From C++::

    torch::jit::ExtraFilesMap files{{"sdd.json", ""}};
    auto mapper = torch::jit::load("white-hair.pt", torch::kCPU, files);
    auto edited = w_plus + lam * mapper.forward({w_plus}).toTensor();  // lam: see sdd.json
"""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.jit.frontend import FrontendError

from ..device import check_device
from ..files import expanded, parse_json, write_bytes
from ..models import LevelsMapper
from ..outputs import check_free
from ..shield import shielded

METADATA_FILE = "sdd.json"
FORMAT = "sdd_fast mapper"
VERSION = 1


@shielded(grad=False)
def export_torchscript(
    mapper: nn.Module,
    path: str | Path,
    *,
    prompt: str,
    lam: float,
    timesteps: Sequence[int],
    domain: str,
    levels: Sequence[str] | None = None,
    extra: Mapping[str, Any] | None = None,
    license: str = "",
    overwrite: bool = False,
) -> None:
    """Script a mapper and write it, with what one needs to know to use it, atomically.

    Args:
        mapper: a `LevelsMapper`, a `StyleSpaceMapper` or any module that `torch.jit.script` takes.
            It is copied to the CPU and left unchanged.
        path: the file to write, customarily `*.pt`.
        prompt: the text the mapper was distilled from; "" if that is unknown.
        lam: the factor λ on the mapper's output, `w_plus + lam * mapper(w_plus)`, at strength 1.
        timesteps: the diffusion timesteps it was distilled at; none for a mapper of another
            program.
        domain: name of the domain (generator) whose latents it edits; "" if that is unknown.
        levels: keep only these levels of a `LevelsMapper`; None keeps all it has.
        extra: further JSON values to keep in the file, under "extra".
        license: a note on who may use the weights.
        overwrite: replace the file if it exists.

    Raises:
        ValueError: a prompt or domain that is no text, timesteps that are no whole numbers, a λ
            that is not finite, levels the mapper lacks, `extra` that is not JSON, or a module that
            cannot be scripted.
        FileExistsError: the file exists, and not `overwrite`.
        OSError: the file cannot be written; nothing half-written is left.
    """
    timesteps = [int(t) if isinstance(t, Integral) else t for t in timesteps]  # numpy's too
    _check(prompt=prompt, lam=lam, timesteps=timesteps, domain=domain)
    check_free([path], overwrite)
    if isinstance(mapper, LevelsMapper):
        mapper = mapper if levels is None else mapper.subset(levels)
        levels = mapper.levels
    elif levels is not None:
        raise ValueError(
            "export_torchscript: levels belong to a LevelsMapper, and this mapper is of class "
            f"{type(mapper).__name__}; leave them out"
        )
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "network": type(mapper).__name__,
        "config": getattr(mapper, "config", None),
        "prompt": prompt,
        "levels": levels,
        "lam": float(lam),
        "timesteps": timesteps,
        "domain": domain,
        "license": license,
        "extra": dict(extra or {}),
    }
    try:
        text = json.dumps(metadata, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"export_torchscript: extra and the mapper's config must be JSON values: {error}"
        ) from error

    with quietly():
        # Through bytes, so that a full disk is an OSError and the temporary name stays out.
        data = script(mapper).save_to_buffer(_extra_files={METADATA_FILE: text})
    write_bytes(path, data)


def script(mapper: nn.Module) -> torch.jit.ScriptModule:
    """Compile a copy of a mapper, on the CPU.

    Raises:
        ValueError: `torch.jit.script` cannot.
    """
    frozen = copy.deepcopy(mapper).cpu().eval().requires_grad_(False)
    try:
        with quietly():
            return torch.jit.script(frozen)
    except (FrontendError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"export_torchscript: torch.jit.script cannot compile {type(mapper).__name__}: {error}"
        ) from error


@shielded(grad=False)
def load_torchscript(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[torch.jit.ScriptModule, dict[str, Any]]:
    """Load a file of `export_torchscript`: the module and the metadata described there.

    Nothing but TorchScript can run: unlike `torch.load`, no Python code in the file is executed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not TorchScript (for instance a pickle or safetensors), truncated, without the
            metadata, or written by a newer version.
    """
    path = expanded(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: a {'folder' if path.is_dir() else 'file that does not exist'}; "
            "expected a mapper written by export_torchscript"
        )
    device = check_device(device)
    files = {METADATA_FILE: ""}
    with quietly():
        try:
            module = torch.jit.load(str(path), map_location=device, _extra_files=files)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{path} is not a complete TorchScript file ({reason}); expected a mapper written "
                "by export_torchscript. A mapper's safetensors file is loaded by "
                "LevelsMapper.load or StyleSpaceMapper.load"
            ) from error
    try:
        text: str | bytes = files[METADATA_FILE]
        metadata = parse_json(text if isinstance(text, str) else text.decode()) if text else {}
    except ValueError as error:
        raise ValueError(f"{path}: its {METADATA_FILE} is not valid JSON: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path}: TorchScript, but without the metadata that export_torchscript writes "
            f"({METADATA_FILE}); export the mapper again, or load the file by torch.jit.load"
        )
    if not isinstance(metadata.get("version"), int) or metadata["version"] > VERSION:
        raise ValueError(
            f"{path}: format version {metadata.get('version')}, this sdd_fast reads up to "
            f"{VERSION}; update it"
        )
    return module, metadata


@contextmanager
def quietly() -> Iterator[None]:
    """TorchScript is deprecated but works everywhere; whoever asks for it by name knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of shapes that never change
        yield


def _check(*, prompt: str, lam: float, timesteps: Sequence[int], domain: str) -> None:
    for name, text in (("prompt", prompt), ("domain", domain)):
        if not isinstance(text, str):
            raise ValueError(f"export_torchscript: {name} must be a text, got {text!r}")
    if not math.isfinite(lam):
        raise ValueError(f"export_torchscript: lam must be a finite number, got {lam}")
    if any(not isinstance(t, int) or t < 0 for t in timesteps):
        raise ValueError(
            f"export_torchscript: timesteps must be integers of at least 0, got {list(timesteps)}"
        )
