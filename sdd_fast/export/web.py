"""A folder in which the whole editor runs in a visitor's browser, served by any web server.

The page is `page/`; the networks are the encoder and the renderer as ONNX, so that a picture is
encoded once and a moved slider costs one pass of mappers and generator.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..checkpoints.load import load_mapper
from ..domains import Domain, load_domain
from ..domains.names import domain_of_edits
from ..editing.editor import Editor, mapper_file
from ..files import PathLike, expanded, settled, write_bytes, write_json
from ..images import save_png
from ..shield import shielded
from .about import license_note
from .browser_runtime import NOTICE, REGISTRY, runtime_files
from .formats import check_onnx
from .write import Exported, export_edit

PAGE = ("index.html", "style.css", "app.js", "picture.js", "worker.js")
_SAMPLES = 6
_ALIGNED = "Crop it to the face first, as FFHQ's pictures are."


@dataclass(frozen=True)
class WebExport:
    """What `export_web` has written: the folder, its bytes, and how the two networks agreed."""

    folder: Path
    bytes: int
    encoder: Exported
    renderer: Exported


@shielded(grad=False)
def export_web(
    source: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    domain: PathLike | Domain | None = None,
    license: str | None = None,
    runtime: PathLike | None = None,
    registry: str = REGISTRY,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
    **parts: Any,
) -> WebExport:
    """Write the folder: all of it, or nothing.

    Args:
        source: a run folder or mapper file, or several: a slider each.
        out: the folder; it may be there if it is empty.
        domain, parts: as for `load_domain`; default: the domain that the edits were distilled in.
        license: a note on who may use the weights, for the page; None: what is known of them.
        runtime: onnxruntime-web as `npm pack` (.tgz) or `npm install` (a folder) gets it; None: it
            is downloaded once, see `runtime_files`.
        registry: where from.
        overwrite: replace files of `out` that have the same names.

    Raises:
        ValueError: there is no encoder, or what `export_edit` raises.
        FileExistsError: there are files in `out`, and not `overwrite`.
        OSError: onnxruntime-web cannot be had, or something cannot be written.
    """
    folder = settled(out)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not overwrite):
        raise FileExistsError(
            f"{folder} is there already; choose another folder, or pass overwrite=True to replace "
            "files of the same names in it"
        )
    check_onnx()
    found, editor = _load(source, domain, parts)
    note = license_note(editor.infos) if license is None else license
    packed = runtime_files(runtime, registry, say)  # first: it may not be there
    with _whole_folder(folder) as building:
        encoder = export_edit(editor, building / "encoder.onnx", part="encoder", license=note)
        renderer = export_edit(editor, building / "renderer.onnx", part="renderer", license=note)
        for name, data in packed.items():
            write_bytes(building / "runtime" / name, data)
        write_bytes(building / "runtime" / "NOTICE.txt", NOTICE.encode())
        for name in PAGE:
            write_bytes(building / name, files(__package__).joinpath("page", name).read_bytes())
        samples = _write_samples(building, found, editor)
        write_json(building / "edit.json", _description(editor, samples, note, found.align))
    written = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in written)
    networks = [replace(one, path=folder / one.path.name) for one in (encoder, renderer)]
    return WebExport(folder, size, *networks)


def _load(
    source: PathLike | Sequence[PathLike], domain: Any, parts: dict[str, Any]
) -> tuple[Domain, Editor]:
    paths = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    if domain is None:
        named = [load_mapper(mapper_file(expanded(path)))[1].domain for path in paths]
        domain = domain_of_edits([expanded(path) for path in paths], named, parts)
    found = domain if isinstance(domain, Domain) else load_domain(domain, **parts)
    return found, Editor.load(paths, found)


def _write_samples(folder: Path, domain: Domain, editor: Editor) -> list[str]:
    """Images that the generator makes of held-out latents, and their names in the folder."""
    images = editor.generator.synthesis(domain.held_out[:_SAMPLES]).clamp(-1, 1)
    names = [f"samples/{i}.png" for i in range(1, len(images) + 1)]
    for name, image in zip(names, images, strict=True):
        save_png(folder / name, image)
    return names


def _description(editor: Editor, samples: list[str], note: str, align: bool) -> dict[str, Any]:
    prompts = [info.prompt or f"edit {i}" for i, info in enumerate(editor.infos, 1)]
    return {
        "title": ", ".join(prompts),
        "input_size": editor.input_size[::-1],  # width, height
        "image_size": editor.image_size[::-1],
        "edits": [{"prompt": prompt, "initial": float(i == 0)} for i, prompt in enumerate(prompts)],
        "samples": samples,
        "hint": _ALIGNED if align else "",
        "license": note,
    }


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder to build in, which becomes `target`, or is merged into it, once all is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield building
        building.chmod(0o755)
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()
        if not target.exists():
            os.replace(building, target)
            return
        for path in filter(Path.is_file, building.rglob("*")):
            there = target / path.relative_to(building)
            there.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, there)
    finally:
        shutil.rmtree(building, ignore_errors=True)
