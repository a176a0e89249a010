"""Stubs of the CUDA libraries that a torch without them asks for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from other_torch import NotThere, install_alone, stub_cuda_libraries

needs_tools = pytest.mark.skipif(
    sys.platform != "linux" or not all(map(shutil.which, ("cc", "readelf", "nm"))),
    reason="needs Linux, a C compiler and binutils",
)


def compile_library(path: Path, source: str, *options: str) -> None:
    command = ["cc", "-shared", "-fPIC", "-xc", "-", "-o", str(path), *options]
    subprocess.run(command, input=source, text=True, check=True)


@needs_tools
def test_a_library_loads_with_stubs_of_what_it_needs(tmp_path: Path) -> None:
    """Functions with and without a version, and those of no CUDA library, which are not made up."""
    libraries, hidden = tmp_path / "lib", tmp_path / "cuda"
    libraries.mkdir()
    hidden.mkdir()
    (tmp_path / "map").write_text("libcuone.so.3 { global: cuOne; };\n")
    compile_library(
        hidden / "libcuone.so.3", "int cuOne(void) { return 7; }", "-Wl,-soname,libcuone.so.3",
        f"-Wl,--version-script={tmp_path}/map",
    )  # fmt: skip
    compile_library(
        hidden / "libnccl.so.2", "int ncclTwo(void) { return 7; }", "-Wl,-soname,libnccl.so.2"
    )
    compile_library(
        libraries / "libuser.so",
        "int cuOne(void); int ncclTwo(void); int puts(const char*);\n"
        "int both(void) { puts(\"called\"); return 10 * cuOne() + ncclTwo(); }",
        "-xnone", "-Wl,-rpath,$ORIGIN", "-Wl,-z,now",
        f"{hidden}/libcuone.so.3", f"{hidden}/libnccl.so.2",
    )  # fmt: skip
    code = f"import ctypes; print(ctypes.CDLL('{libraries}/libuser.so').both())"
    without = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert without.returncode != 0 and "libcuone.so.3" in without.stderr
    assert stub_cuda_libraries(libraries) == ["libcuone.so.3", "libnccl.so.2"]
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.stdout.split() == ["0", "called"] or loaded.stdout.split() == ["called", "0"]
    assert stub_cuda_libraries(libraries) == []


def test_what_pip_does_not_find_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match=r"torch==2\.11\.0\+none"):
        install_alone("torch==2.11.0+none --no-index", tmp_path / "torch")
