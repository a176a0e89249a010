"""Export an edit: write it in a format, run what was written, and keep it only if it agrees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.load import load_mapper
from ..editing.editor import Editor, mapper_file
from ..files import PathLike, atomic_path, expanded
from ..manipulator import MapperInfo
from ..models import LevelsMapper
from ..outputs import check_free
from ..shield import shielded
from .about import about, as_text, license_note
from .formats import FORMATS, Run, check_onnx, edit_each
from .parts import PARTS, Part, editor_part, mapper_part

IMAGE_TOLERANCE = 1e-3
"""How far edited images, in [-1, 1], may differ: an eighth of a step of 8 bits."""
LATENT_TOLERANCE = 1e-4
"""The same of latents and their changes, relative to the largest of them."""

_TRIED = (1, 3)  # numbers of images; another one is traced


@dataclass(frozen=True)
class Exported:
    """What `export_edit` has written.

    Args:
        difference: the largest between what the file and what the Python editor computes.
        tolerance: what it may be.
        about: what the file tells of itself, as its `sdd.json`.
    """

    path: Path
    format: str
    part: str
    difference: float
    tolerance: float
    about: dict[str, Any]


@shielded(grad=False)
def export_edit(
    source: Editor | PathLike | Sequence[PathLike],
    path: PathLike,
    *,
    part: str = "mapper",
    format: str | None = None,
    levels: Sequence[str] | None = None,
    levels_as_input: bool = False,
    license: str | None = None,
    overwrite: bool = False,
    domain: Any = None,
    **parts: Any,
) -> Exported:
    """Write an edit, or an editor of several, as one file for other programs, atomically.

    The file is run and compared with the Python editor before it gets its name: one that differs
    by more than `IMAGE_TOLERANCE` or `LATENT_TOLERANCE` is not kept.

    Args:
        source: an `Editor`; or a run folder or mapper file, or several, as for `Editor.load`.
        path: the file to write.
        part: "mapper" (W+ [B, num_layers, w_dim] → its change; of one edit), "editor" (images
            [B, 3, *input_size] in [-1, 1] and strengths [B, edits] → images), or its two halves
            "encoder" (images → W+) and "renderer" (W+ and strengths → images). B is free.
        format: "torchscript", "onnx", "export" (of torch.export), "aoti" (compiled, for this kind
            of machine) or "safetensors" (weights alone); default: what the suffix of `path` says.
        levels: change only these of "coarse", "medium" and "fine"; None: as distilled.
        levels_as_input: let a third input, [B, 3] of 1 and 0, say which of the three change.
        license: a note on who may use the weights, for the file; None: what is known of them.
        domain, parts: as for `Editor.load`.

    Raises:
        ValueError: an unknown format, part or level; a format that cannot hold the part; or a file
            that differs.
        FileExistsError: the file exists, and not `overwrite`.
        ModuleNotFoundError: ONNX, without the packages that it needs.
    """
    path = expanded(path)
    name = check_format(path, format)
    check_part(part, levels, levels_as_input)
    check_free([path], overwrite)
    if name == "onnx":
        check_onnx()
    editor = source if isinstance(source, Editor) else None
    reference: Callable[[dict[str, Tensor]], list[Tensor]]
    if part == "mapper":
        mapper, info = _one_edit(source)
        made = mapper_part(mapper, info, levels)
        reference = _mapper_alone(mapper, levels, made.listed)
    else:
        if not isinstance(source, Editor):
            editor = Editor.load(source, domain, **parts)
        assert editor is not None
        made = editor_part(part, editor, levels, levels_as_input, name == "torchscript")
        reference = _python_editor(editor, part, levels)
    told = about(made, license_note(made.infos) if license is None else license)
    with atomic_path(path) as temporary:
        FORMATS[name].write(made, temporary, as_text(told))
        run, text = FORMATS[name].run(temporary, made.listed)
        if text != as_text(told):
            raise ValueError(f"{path} was not kept: it does not carry its description, {text!r}")
        difference, tolerance = compare(made, run, reference)
        if not difference <= tolerance:  # of NaN as well
            raise ValueError(
                f"{path} was not kept: what it computes differs from the Python editor by up to "
                f"{difference:.1e}, and {tolerance:.1e} is allowed. Another format may do; this is "
                "a bug of sdd_fast or of the exporter"
            )
    return Exported(path, name, part, difference, tolerance, told)


def check_format(path: Path, format: str | None) -> str:
    """The name of the format of a file to write.

    Raises:
        ValueError: there is none, or the file's suffix is not that of the format.
    """
    suffix = path.suffix.lower()
    if format is None:
        format = next((name for name, one in FORMATS.items() if one.suffix == suffix), "")
    if format not in FORMATS or FORMATS[format].suffix != suffix:
        endings = ", ".join(f"{one.suffix} ({name})" for name, one in FORMATS.items())
        given = "" if not format else f" for the format {format!r}"
        raise ValueError(f"{path.name!r} must end in one of{given}: {endings}")
    return format


def check_part(part: str, levels: Sequence[str] | None, levels_as_input: bool) -> None:
    """Raise ValueError unless there is such a part, with such a choice of levels."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    if levels is not None and part == "encoder":
        raise ValueError("an encoder has no levels; leave them out")
    if levels_as_input and part not in ("editor", "renderer"):
        raise ValueError(f"levels can be an input of the editor or renderer, not of the {part}")
    if levels_as_input and levels is not None:
        raise ValueError("levels are either fixed or an input; leave one of the two out")


def compare(
    part: Part, run: Run, reference: Callable[[dict[str, Tensor]], list[Tensor]]
) -> tuple[float, float]:
    """The largest difference of `run` to `reference`, for one image and for three; the limit."""
    difference, largest = torch.zeros(()), torch.zeros(())
    for count in _TRIED:
        values = part.examples(count)
        expected, got = reference(values), run(values)
        if [one.shape for one in got] != [one.shape for one in expected]:
            shapes = [list(one.shape) for one in got]
            raise ValueError(f"the exported file gives {shapes} for {count} images")
        for one, other in zip(got, expected, strict=True):
            difference = torch.maximum(difference, (one.cpu() - other).abs().max())  # keeps NaN
            largest = torch.maximum(largest, other.abs().max())
    images = part.outputs[0].name == "edited"
    return float(difference), IMAGE_TOLERANCE if images else LATENT_TOLERANCE * float(largest)


def _one_edit(source: Editor | PathLike | Sequence[PathLike]) -> tuple[nn.Module, MapperInfo]:
    if isinstance(source, Editor):
        edits = list(zip(source.mappers, source.infos, strict=True))
    else:
        several = isinstance(source, Sequence) and not isinstance(source, str)
        paths: Sequence[Any] = source if several else [source]  # type: ignore[assignment]
        edits = [load_mapper(mapper_file(one)) for one in paths]
    if len(edits) != 1:
        raise ValueError(
            f"a mapper is of one edit, and {len(edits)} were given; export them one by one, or "
            'together as part="editor" (on the command line --part editor)'
        )
    return edits[0]


def _mapper_alone(
    mapper: nn.Module, levels: Sequence[str] | None, listed: bool
) -> Callable[[dict[str, Tensor]], list[Tensor]]:
    def run(values: dict[str, Tensor]) -> list[Tensor]:
        device = next(mapper.parameters()).device
        given = [value.to(device) for value in values.values()]
        if listed:
            return [delta.cpu() for delta in mapper(given)]
        own = isinstance(mapper, LevelsMapper) and levels is not None
        delta = mapper(given[0], list(levels or [])) if own else mapper(given[0])
        return [delta.cpu()]

    return run


def _python_editor(
    editor: Editor, part: str, levels: Sequence[str] | None
) -> Callable[[dict[str, Tensor]], list[Tensor]]:
    def run(values: dict[str, Tensor]) -> list[Tensor]:
        if part == "encoder":
            return [editor.encode(values["images"]).cpu()]
        return [edit_each(editor, values, levels)]

    return run
