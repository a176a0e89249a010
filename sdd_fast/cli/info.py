"""sdd info: the installation, or what a file or folder is. Reads descriptions, executes nothing."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Annotated

import typer

from .console import command, say
from .describe import Facts, describe, text

_LONGEST = 20_000  # characters of one fact; --json prints all


@command
def info(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A run folder, curve, domain, Stable Diffusion folder, picture or checkpoint of "
            "any program: generator, encoder, identity network, mapper, latents; or OWNER/NAME of "
            "an edit on the Hugging Face hub."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what is installed, or what a file or folder is.

    Nothing in a file is executed. Of a checkpoint it is said what is in it and whether it is safe;
    describing one that is refused, because unpickling it would run code, is no error: the exit code
    is 0, and 1 only where nothing can be said.

    \b
    Examples:
      sdd info
      sdd info runs/demo
      sdd info e4e_ffhq_encode.pt
    """
    facts = installation() if path is None else _described(path)
    if as_json:
        say(json.dumps(facts, indent=2, ensure_ascii=False, default=str))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        # Further lines are set in, so that no text in a file can pass for another fact.
        lines = text(value)[:_LONGEST].splitlines() or [""]
        say(f"{name:<{width}}  " + f"\n{'':{width}}  ".join(lines))


def _described(path: Path) -> Facts:
    from sdd_fast.domains.domain import EMBEDDED, missing_weights

    try:
        return describe(path)
    except FileNotFoundError as error:
        if str(path) not in EMBEDDED:
            raise
        raise FileNotFoundError(missing_weights(str(path))) from error


def installation() -> Facts:
    import importlib.metadata as metadata

    import torch

    import sdd_fast
    from sdd_fast.domains.domain import EMBEDDED, missing_weights

    facts: Facts = {"sdd_fast": sdd_fast.__version__, "folder": Path(sdd_fast.__file__).parent}
    facts["python"] = f"{platform.python_version()} on {platform.platform()}"
    facts["torch"] = torch.__version__
    for name in ("diffusers", "transformers", "safetensors"):
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "not installed"
    facts |= _native_ops()
    facts["cpu"] = f"{platform.machine()}, torch uses {torch.get_num_threads()} of its cores"
    facts["gpu"] = (
        ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        if torch.cuda.is_available()
        else "none that torch can use"
    )
    facts |= _teachers()
    for name, folder in EMBEDDED.items():
        there = (folder / "domain.json").exists()
        facts[f"domain {name}"] = folder if there else missing_weights(name)
    return facts


def _teachers() -> Facts:
    """What "auto" means here for a teacher's dtype and attention, without trying anything."""
    import torch

    from sdd_fast import measured
    from sdd_fast.teacher.attention import timed_here
    from sdd_fast.teacher.precision import fastest_dtype

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = str(fastest_dtype(device)).removeprefix("torch.")
    facts: Facts = {"dtype auto": f"{dtype} on {measured.device_name(device)}"}
    lines = ["sdpa on a CPU; on a GPU what is fastest for each layer"]
    for layer, times in timed_here().items():
        ordered = sorted(times.items(), key=lambda item: item[1])
        lines.append(f"{layer}: " + ", ".join(f"{name} {t:g} ms" for name, t in ordered))
    facts["attention auto"] = "\n".join(lines)
    return facts


def _native_ops() -> Facts:
    import torch

    from sdd_fast._build_info import build_info

    found = build_info()
    if not found["native"]:
        none = f"none, the reference ops do the work: {found['native_missing']}"
        return {"native ops": none, "cuda kernels": f"none: {found['cuda_missing']}"}
    native = [name for name, kind in found["ops"].items() if kind == "native"]
    level = f"compiled by {found['compiler']}, running at {found['cpu_level']}"
    if found["cuda_missing"]:
        cuda = f"none: {found['cuda_missing']}"
    else:
        cuda = f"for {', '.join(found['cuda_targets'])} and newer GPUs"
        if not torch.version.cuda:
            cuda += f"; not in use, torch {torch.__version__} is a build without CUDA"
        elif not torch.cuda.is_available():
            cuda += "; not in use, torch finds no GPU"
    return {"native ops": f"{', '.join(native)} ({level})", "cuda kernels": cuda}
