"""The formats: how a part is written into a file, and how that file is run."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.load import load_mapper
from ..editing.editor import Editor
from ..files import parse_json, read_metadata
from ..manipulator import save_mapper
from ..models.mapper import LEVELS
from .about import NAME
from .parts import Part
from .torchscript import FORMAT as MAPPER_FORMAT, quietly, script

Run = Callable[[dict[str, Tensor]], list[Tensor]]
"""Inputs by name → outputs in order."""

_ONNX_MOST = 2**31 - 2**26
"""Bytes of weights: protobuf holds 2 GiB in one message, of which the graph takes a few MB."""

_BATCH = 2  # of what is traced: 1 would be taken for a constant


def write_torchscript(part: Part, path: Path, about: str) -> None:
    """Compile a mapper; trace any other part, whose mappers are compiled."""
    with quietly():
        if part.name == "mapper":
            module = script(part.network)
        else:
            arguments = part.arguments(part.examples(_BATCH))
            module = torch.jit.trace(part.network, arguments, check_trace=False)
        # Through bytes, so that the temporary name stays out.
        data = module.save_to_buffer(_extra_files={NAME: about})
    path.write_bytes(data)


def write_export(part: Part, path: Path, about: str) -> None:
    buffer = io.BytesIO()
    torch.export.save(_program(part), buffer, extra_files={NAME: about})
    path.write_bytes(buffer.getvalue())


def write_aoti(part: Part, path: Path, about: str) -> None:
    """Compile a part to machine code of this machine.

    Raises:
        ValueError: there is no C++ compiler.
    """
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ValueError(
            "the format aoti compiles, and there is no C++ compiler here: install g++, or name "
            "another in the environment variable CXX; the format export needs none"
        ) from error
    options = {"aot_inductor.metadata": {NAME: about}}
    aoti_compile_and_package(_program(part), package_path=str(path), inductor_configs=options)


def write_onnx(part: Part, path: Path, about: str) -> None:
    """Raises ValueError for a part that no ONNX file can hold."""
    weights = sum(tensor.nbytes for tensor in part.network.state_dict().values())
    if weights > _ONNX_MOST:
        halves = " the halves encoder and renderer," if part.name == "editor" else ""
        raise ValueError(
            f"one ONNX file holds at most 2.1 GB, and this {part.name} has {weights / 1e9:.1f} GB "
            f"of weights: export{halves} fewer edits at once, or another format"
        )
    from onnxscript import optimizer

    names = [slot.name for slot in part.inputs]
    outputs = [slot.name for slot in part.outputs]
    # Beside a torch without torchvision it would report, for each of its ops, that it is missing.
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        made = torch.onnx.export(
            _program(part), input_names=names, output_names=outputs, external_data=False,
            verbose=False, optimize=False,
        )  # fmt: skip
    finally:
        log.setLevel(level)
    assert made is not None
    # Not by the exporter's own optimizer: it takes + 1e-8 for + 0 and leaves it out, and then a
    # latent of zeros is divided by zero. Runtimes optimize what they load anyway.
    optimizer.inline(made.model)
    optimizer.fold_constants(made.model)
    optimizer.remove_unused_nodes(made.model)
    model = made.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = NAME, about
    model.producer_name = "sdd_fast"
    path.write_bytes(model.SerializeToString())


def write_safetensors(part: Part, path: Path, about: str) -> None:
    """Raises ValueError for a part that weights alone do not describe."""
    if part.name == "mapper":
        save_mapper(path, part.network, part.infos[0], {NAME: about})
        return
    if part.name != "editor" or part.levels is None or part.editor is None:
        raise ValueError(
            "safetensors holds the weights of a mapper or an editor, and no program: for the part "
            "encoder or renderer, or levels as an input, choose another format"
        )
    part.editor.save(path, {NAME: about})


def check_onnx() -> None:
    """Raise ModuleNotFoundError, saying what to install, where ONNX files cannot be written."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the package {error.name} is needed to write ONNX files and to check them: "
            "pip install 'sdd_fast[onnx]'"
        ) from error


def _program(part: Part) -> torch.export.ExportedProgram:
    if part.any_layers:
        raise ValueError(
            "this mapper does not tell for how many layers of W+ it is: export the editor or the "
            "renderer, whose generator tells it, or the mapper as torchscript or safetensors"
        )
    batch = {0: torch.export.Dim("batch", min=1)}
    arguments = part.arguments(part.examples(_BATCH))
    shapes: Any = [[batch] * len(part.inputs)] if part.listed else [batch] * len(arguments)
    return torch.export.export(part.network, arguments, dynamic_shapes=tuple(shapes), strict=False)


# --- running what was written ---------------------------------------------------------------------


def run_torchscript(path: Path, listed: bool) -> tuple[Run, str]:
    files = {NAME: ""}
    with quietly():
        module = torch.jit.load(str(path), _extra_files=files)
    text: str | bytes = files[NAME]
    return _running(module, listed), text if isinstance(text, str) else text.decode()


def run_export(path: Path, listed: bool) -> tuple[Run, str]:
    files = {NAME: ""}
    module = torch.export.load(path, extra_files=files).module()
    return _running(module, listed), files[NAME]


def run_aoti(path: Path, listed: bool) -> tuple[Run, str]:
    from torch._inductor import aoti_load_package

    module = aoti_load_package(str(path))
    return _running(module, listed), module.get_metadata()[NAME]


def run_onnx(path: Path, listed: bool) -> tuple[Run, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(values: dict[str, Tensor]) -> list[Tensor]:
        given = {name: value.numpy() for name, value in values.items()}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return run, session.get_modelmeta().custom_metadata_map[NAME]


def run_safetensors(path: Path, listed: bool) -> tuple[Run, str]:
    about = read_metadata(path)[NAME]
    if parse_json(about)["format"] == MAPPER_FORMAT:
        return _running(load_mapper(path)[0], listed), about
    editor = Editor.load(path)
    return lambda values: [edit_each(editor, values)], about


def edit_each(
    editor: Editor, values: Mapping[str, Tensor], levels: Sequence[str] | None = None
) -> Tensor:
    """What the editor makes of each image alone, or of its latents, at strengths of its own."""
    latents = values["images"] if "images" in values else values["w_plus"]
    edited = []
    for i, (one, strengths) in enumerate(zip(latents, values["strengths"], strict=True)):
        if "levels" in values:
            on = values["levels"][i].tolist()
            levels = [level for level, value in zip(LEVELS, on, strict=True) if value]
        edited.append(editor.edit(one[None], strengths.tolist(), levels).cpu())
    return torch.cat(edited)


def _running(module: Callable[..., Any], listed: bool) -> Run:
    def run(values: dict[str, Tensor]) -> list[Tensor]:
        arguments = list(values.values())
        result = module(arguments) if listed else module(*arguments)
        return list(result) if isinstance(result, (list, tuple)) else [result]

    return run


@dataclass(frozen=True)
class Format:
    """How a format is written, and run again: a function of inputs, and its `sdd.json`."""

    suffix: str
    write: Callable[[Part, Path, str], None]
    run: Callable[[Path, bool], tuple[Run, str]]


FORMATS = {
    "torchscript": Format(".pt", write_torchscript, run_torchscript),
    "onnx": Format(".onnx", write_onnx, run_onnx),
    "export": Format(".pt2", write_export, run_export),
    "aoti": Format(".pt2", write_aoti, run_aoti),
    "safetensors": Format(".safetensors", write_safetensors, run_safetensors),
}
"""Of two with one suffix the first is meant where no format is named."""
