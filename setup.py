"""The native build: CMake on CMakeLists.txt, packaged by setuptools. Metadata: pyproject.toml.

SDD_FAST_NATIVE=0  leaves the native kernels out (the package then uses its PyTorch references);
SDD_FAST_NATIVE=1  makes it an error when they cannot be built;
otherwise they are built where a C++ compiler, CMake and the headers of torch >= 2.11 are found, and
the reason why not is recorded and reported at run time by sdd_fast.build_info().

SDD_FAST_CUDA=0|1  the same for the CUDA kernels among them, which need nvcc (CUDA >= 12.8), but
neither a GPU nor a CUDA build of torch: beside a CPU build they are compiled only if asked for.
SDD_FAST_CUDA_ARCHITECTURES="80;90" names the compute capabilities to compile for: 80 for 8.0.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = (2, 11)
OLDEST_CUDA = (12, 8)  # the first to know compute capability 12.0
OLDEST_GPU = 80  # compute capability 8.0: bfloat16
WITHOUT = "To install without native code: SDD_FAST_NATIVE=0 pip install ."
WITHOUT_CUDA = "To install without CUDA kernels: SDD_FAST_CUDA=0 pip install --no-build-isolation ."


@dataclass(frozen=True)
class Torch:
    """The torch package to compile against."""

    folder: Path
    version: str
    has_cuda: bool


def find_torch() -> Torch | None:
    """Find torch without importing it.

    In an isolated build torch is not importable, but the interpreter is still that of the target
    environment, so its site-packages tells where torch is. Only headers and one link-time library
    are needed, and the stable ABI makes their exact version unimportant.
    """
    folders = [Path(sysconfig.get_path(key)) / "torch" for key in ("purelib", "platlib")]
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None:
        folders.insert(0, Path(spec.origin).parent)
    for folder in folders:
        if (folder / "version.py").is_file():
            text = (folder / "version.py").read_text(encoding="utf-8")
            if match := re.search(r"__version__ = ['\"]([^'\"]+)", text):
                has_cuda = re.search(r"^cuda\b[^=]*= ['\"]", text, re.MULTILINE) is not None
                return Torch(folder, match[1], has_cuda)
    return None


def find_tool(*names: str) -> str | None:
    """Find a program beside this Python (pip's cmake and ninja) or on the PATH."""
    for name in names:
        found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
        if found:
            return found
    return None


def compiles(command: list[str]) -> bool:
    """Tell whether a compiler takes a program of three lines with a standard header."""
    program = "#include <vector>\nstd::vector<int> v;\nint main() { return 0; }\n"
    arguments = ["-x", "c++", "-fsyntax-only", "-"]
    try:
        done = subprocess.run([*command, *arguments], input=program, text=True, capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def why_not_native() -> str:
    """Say why the native kernels are not built, as a sentence for users; "" when they are."""
    again = "then: pip install --force-reinstall --no-deps --no-build-isolation ."
    if os.environ.get("SDD_FAST_NATIVE") == "0":
        return "the package was installed with SDD_FAST_NATIVE=0"
    if sys.platform == "win32":
        return "they are not available on Windows"
    requested = os.environ.get("CXX", "").split()
    compiler = find_tool(*(requested[:1] or ("c++", "g++", "clang++")))
    if not compiler:
        return f"no C++ compiler was found during installation; install g++ or clang++, {again}"
    if not compiles([compiler, *requested[1:]]):
        return (
            f"the C++ compiler {' '.join(requested) or compiler} compiled nothing during "
            f"installation; install g++ or clang++, {again}"
        )
    if not find_tool("cmake"):
        return f"CMake was not found during installation; pip install cmake ninja, {again}"
    torch = find_torch()
    if torch is None:
        return (
            "torch was not installed when sdd_fast was; with torch present, "
            "pip install setuptools cmake ninja, " + again
        )
    numbers = re.findall(r"\d+", torch.version)
    if tuple(int(n) for n in numbers[:2]) < OLDEST_TORCH:
        return (
            f"torch {torch.version} was installed, 2.11 or newer is needed; upgrade torch, {again}"
        )
    return ""


def find_nvcc() -> str | None:
    """Find CUDA's compiler: the one that CUDACXX or CUDA_HOME names, else a program on the PATH or
    where Linux installs it."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    requested = os.environ.get("CUDACXX") or (f"{home}/bin/nvcc" if home else "")
    if requested:
        return shutil.which(requested)
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def nvcc_fails(nvcc: str) -> str:
    """Say what fails when a program of two lines is compiled and linked; "" where nothing does. A
    host compiler too new for nvcc, or an incomplete toolkit, is found here and not in the build."""
    program = "#include <cuda_runtime.h>\nint main() { return cudaDeviceSynchronize(); }\n"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cu"
        source.write_text(program, encoding="utf-8")
        command = [nvcc, "-std=c++20", str(source), "-o", f"{folder}/probe"]
        done = subprocess.run(command, capture_output=True, text=True)
    said = (done.stderr + done.stdout).strip().replace(f"{folder}/", "").splitlines()
    first = next((line for line in said if "error" in line.lower()), " ".join(said[:1]))
    return (first or f"it exited with {done.returncode}") if done.returncode else ""


def why_no_cuda() -> str:
    """Say why the CUDA kernels are not built, as a sentence for users; "" when they are."""
    again = (
        "then, with torch in the environment: pip install setuptools cmake ninja && "
        "SDD_FAST_CUDA=1 pip install --force-reinstall --no-deps --no-build-isolation ."
    )
    if os.environ.get("SDD_FAST_CUDA") == "0":
        return "the package was built with SDD_FAST_CUDA=0; build it again without"
    if sys.platform != "linux":
        return "they are available on Linux only"
    torch = find_torch()
    if os.environ.get("SDD_FAST_CUDA") != "1" and torch is not None and not torch.has_cuda:
        return (
            f"torch {torch.version}, beside which the package was built, is no CUDA build; install "
            f"one, {again}"
        )
    nvcc = find_nvcc()
    if nvcc is None:
        named = os.environ.get("CUDACXX") or os.environ.get("CUDA_HOME") or ""
        where = f" at {named}" if named else ""
        return (
            f"nvcc was not found{where} when the package was built; install the CUDA toolkit 12.8 "
            f"or newer, {again}"
        )
    try:
        version = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        release = re.search(r"release (\d+)\.(\d+)", version)
        if release is None or (int(release[1]), int(release[2])) < OLDEST_CUDA:
            found = f"{release[1]}.{release[2]}" if release else "of unknown version"
            return (
                f"{nvcc} is {found}, 12.8 or newer is needed; install a newer CUDA toolkit, {again}"
            )
        failure = nvcc_fails(nvcc)
    except OSError as error:
        failure = str(error)
    if failure:
        return f"{nvcc} compiles nothing ({failure}); repair the CUDA toolkit, {again}"
    return ""


def cuda_architectures() -> list[str]:
    """Return the compute capabilities requested, oldest first; [] for those of CMakeLists.txt."""
    requested = os.environ.get("SDD_FAST_CUDA_ARCHITECTURES", "")
    numbers = re.findall(r"[^;, ]+", requested)
    for number in numbers:
        if not (number.isdigit() and OLDEST_GPU <= int(number) <= 999):
            sys.exit(
                f"sdd_fast: SDD_FAST_CUDA_ARCHITECTURES={requested}: expected compute capabilities "
                f'as "80;90" for 8.0 and 9.0, 80 or newer, got {number!r}'
            )
    return sorted(set(numbers), key=int)


def sources_digest() -> str:
    """Compute what sdd_fast does at run time, to notice a library older than csrc/."""
    module = runpy.run_path(str(ROOT / "sdd_fast" / "_native_sources.py"))
    return str(module["sources_digest"](ROOT))


def run_cmake(output_name: str) -> Path:
    """Configure and build; return the library. build/cmake is kept: a rebuild is incremental."""
    found = find_torch()
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    assert found is not None and cmake is not None
    build = ROOT / "build" / "cmake"
    print(f"sdd_fast: compiling csrc/ against torch {found.version} in {build}", flush=True)
    configure = [
        cmake,
        f"-S{ROOT}",
        f"-B{build}",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DSDD_TORCH_INCLUDE_DIR={found.folder / 'include'}",
        f"-DSDD_TORCH_LIBRARY_DIR={found.folder / 'lib'}",
        f"-DSDD_OUTPUT_NAME={output_name}",
        f"-DSDD_CUDA={'OFF' if NO_CUDA else 'ON'}",
    ]
    if not NO_CUDA:
        configure += [f"-DCMAKE_CUDA_COMPILER={find_nvcc()}"]
    if CUDA_ARCHITECTURES:
        configure += [f"-DSDD_CUDA_ARCHITECTURES={';'.join(CUDA_ARCHITECTURES)}"]
    else:
        configure += ["-USDD_CUDA_ARCHITECTURES"]  # forget those of the last build
    if ninja:
        configure += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    step = subprocess.run(configure, capture_output=True, text=True)
    if step.returncode != 0 and build.exists():  # an old cache: other tools, other generator
        shutil.rmtree(build)
        step = subprocess.run(configure, capture_output=True, text=True)
    if step.returncode != 0:
        fail("CMake could not configure the native build", step.stdout + step.stderr)
    step = subprocess.run(
        [cmake, "--build", str(build), "--parallel"], capture_output=True, text=True
    )
    if step.returncode != 0:
        fail("the native code did not compile", step.stdout + step.stderr)
    return build / output_name


def fail(what: str, log: str) -> None:
    """Exit with the first error of a log and what to do without the native build."""
    lines = log.strip().splitlines()
    first = next((i for i, line in enumerate(lines) if "error" in line.lower()), len(lines))
    shown = lines[max(0, first - 3) : first + 40] or lines[-40:]
    advice = WITHOUT if NO_CUDA else f"{WITHOUT_CUDA}\n{WITHOUT}"
    sys.exit("\n".join(["", f"sdd_fast: {what}:", "", *shown, "", f"{what}.", advice, ""]))


def write_note(package: Path) -> None:
    """Write what sdd_fast/ops/_register.py reads beside the library."""
    torch = find_torch()
    note = {
        "built": not NOT_NATIVE,
        "reason": NOT_NATIVE,
        "no_cuda": NO_CUDA,
        "sources": sources_digest(),
        "torch": torch.version if torch else "",
    }
    text = json.dumps(note, indent=2) + "\n"
    (package / "_native_build.json").write_text(text, encoding="utf-8")


class BuildPython(build_py):
    """The Python files, from scratch: a module that was deleted must not linger in a wheel."""

    def run(self) -> None:
        if self.editable_mode:
            write_note(ROOT / "sdd_fast")
        else:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            write_note(Path(self.build_lib) / "sdd_fast")


class BuildNative(build_ext):
    """The native library; setuptools copies it into the source tree for an editable install."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run_cmake(target.name), target)

    def run(self) -> None:
        super().run()
        if self.inplace:  # not so within super().run()
            write_note(ROOT / "sdd_fast")


NOT_NATIVE = why_not_native()
if NOT_NATIVE and os.environ.get("SDD_FAST_NATIVE") == "1":
    sys.exit(f"sdd_fast: no native kernels although SDD_FAST_NATIVE=1: {NOT_NATIVE}")
if NOT_NATIVE:
    print(f"sdd_fast: no native kernels: {NOT_NATIVE}", flush=True)

CUDA_ARCHITECTURES = cuda_architectures()
NO_CUDA = NOT_NATIVE or why_no_cuda()
if NO_CUDA and os.environ.get("SDD_FAST_CUDA") == "1":
    sys.exit(f"sdd_fast: no CUDA kernels although SDD_FAST_CUDA=1: {NO_CUDA}")
if NO_CUDA and not NOT_NATIVE:
    print(f"sdd_fast: no CUDA kernels: {NO_CUDA}", flush=True)

# The library uses no Python API at all, which the limited API allows: one wheel for Python >= 3.10.
setup(
    ext_modules=[] if NOT_NATIVE else [Extension("sdd_fast._C", [], py_limited_api=True)],
    cmdclass={"build_py": BuildPython, "build_ext": BuildNative},
    options={} if NOT_NATIVE else {"bdist_wheel": {"py_limited_api": "cp310"}},
)
