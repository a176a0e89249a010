"""Another torch by itself: its wheel, without what it depends on.

The wheel on PyPI for Linux wants CUDA libraries of two gigabytes beside it. Without a GPU none of
their functions is called, but the loader must find each of them: stubs that return 0 serve it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from pathlib import Path

CUDA_LIBRARIES = re.compile(r"lib(cu|nv|nccl)")
CUDA_FUNCTIONS = re.compile(r"cu|nv|nccl")


class NotThere(Exception):
    """Why the torch that was asked for cannot be had."""


def run(*command: str | Path, given: str | None = None) -> str:
    """The output; what fails, fails with the last lines of what was said."""
    if shutil.which(str(command[0])) is None:
        raise NotThere(f"there is no {command[0]}")
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NotThere(" ".join(said[-2:]))
    return done.stdout


def install_alone(torch: str, folder: Path) -> list[str]:
    """What pip takes as `torch`, for this Python into `folder`; returns what there are stubs of."""
    options = ["--disable-pip-version-check", "--no-input", "--quiet"]
    run(
        sys.executable, "-m", "pip", "install", *options, "--no-deps", "--no-compile",
        "--target", folder, "--upgrade", *torch.split(),
    )  # fmt: skip
    return stub_cuda_libraries(folder / "torch" / "lib")


def stub_cuda_libraries(folder: Path) -> list[str]:
    """A stub of every CUDA library that a library in `folder` needs and that is not there."""
    needed: set[str] = set()
    library_of: dict[str, str] = {}  # version of a symbol -> library
    symbols: defaultdict[str, set[str]] = defaultdict(set)  # version, or "" -> undefined symbols
    there = sorted(folder.glob("*.so*"))
    if not there or sysconfig.get_platform().split("-")[0] != "linux":
        return []
    for library in there:
        said = run("readelf", "-dVW", library)
        needed.update(re.findall(r"\(NEEDED\).*\[(.+)\]", said))
        for file, names in re.findall(r"File: (\S+) .*\n((?:.* Name: .*\n)+)", said):
            library_of.update(dict.fromkeys(re.findall(r" Name: (\S+)", names), file))
        for line in run("nm", "-DPu", library).splitlines():
            symbol, _, version = line.split()[0].partition("@")
            symbols[version.lstrip("@")].add(symbol)
    missing = sorted(n for n in needed - {f.name for f in there} if CUDA_LIBRARIES.match(n))
    for name in missing:
        versions = [version for version, library in library_of.items() if library == name]
        functions = set().union(*(symbols[version] for version in versions))
        if name == missing[0]:  # of no version: from any library
            functions |= set(filter(CUDA_FUNCTIONS.match, symbols[""]))
        source = "".join(f"long {function}(void) {{ return 0; }}\n" for function in functions)
        script = "".join(f"{v} {{ global: {'; '.join(symbols[v])}; }};\n" for v in versions)
        with tempfile.NamedTemporaryFile("w", suffix=".map") as file:
            print(script, file=file, flush=True)
            run(
                "cc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}",
                *([f"-Wl,--version-script={file.name}"] if versions else []),
                "-xc", "-", "-o", folder / name, given=source,
            )  # fmt: skip
    return missing
