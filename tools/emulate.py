"""make emulate: the CUDA kernels on the CPU, plainly and under the sanitizers.

Compiles the kernels for csrc/host_emulation three times, into build/emulation-<variant>, and runs
the tests of this folder and of the ops with each: no GPU is needed, only the headers of the CUDA
toolkit. Says so and passes where there are none, or no compiler with the sanitizers.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tools"))
import sanitize  # noqa: E402  (its helpers: the compiler, the cores, what must be preloaded)

SANITIZERS = {
    "plain": "",
    "address": "-fsanitize=address,undefined;-fno-sanitize-recover=undefined",
    "thread": "-fsanitize=thread",
}
# Of tests/ops is left out: what has nothing to do with the device that computes (torch.compile,
# opcheck, autocast, the references, programs made of the CPU kernels, what Python checks), what is
# true of the CPU's entries only (their threads and their errors where memory does not suffice), and
# sizes that would take minutes: maps of millions of elements, every size of a row, offsets and
# sizes beyond 2^31.
NOT_OF_THE_DEVICE = (
    "compile", "opcheck", "_ref", "under_torch_func", "autocast", "number_of_threads",
    "32_bits_count", "beyond_31_bits", "than_31_bits", "no_memory", "error_that_names_the_op",
)  # fmt: skip
SLOW = (
    "longest_maps", "equal_scale", "1e_3_of", "float32_entropy", "sizes_and_dtypes", "test_widths",
    "short_rows",
)  # fmt: skip
# Under the address sanitizer a few tests of each op: any tensors, layouts, and alone there, since
# no values come of them, any arguments of the entries.
WITH_ADDRESSES = ("any_", "checks_again", "test_layouts", "kinks", "test_lengths", "past_python")
# Memory and threads do not depend on the values: one dtype of each size for the one, two of
# different packs for the other, and no memory around the elements (see tests/cuda/test_kernels.py).
# More blocks than a grid takes are two launches of one kernel, and minutes: they are run plainly.
ONE_LAUNCH = "not many_samples and not more_channels_than_a_grid"
SIZES = f"not bfloat16 and {ONE_LAUNCH}"
WITH_THREADS = f"not float64 and not bfloat16 and {ONE_LAUNCH}"


# The other files of this folder need no emulation: `make test` runs them.
KERNELS = ("tests/cuda/test_kernels.py", "tests/cuda/test_emulation.py")


@dataclass(frozen=True)
class Run:
    """One process: of pytest, or of a script."""

    variant: str
    arguments: tuple[str, ...]
    is_script: bool = False

    def command(self) -> list[str]:
        if self.is_script:
            return [sys.executable, *self.arguments]
        pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        return [*pytest, *self.arguments, *sys.argv[1:]]


def runs() -> Iterator[Run]:
    """The longest first."""
    all_but = " and ".join(f"not {name}" for name in (*NOT_OF_THE_DEVICE, *SLOW))
    few = f"({' or '.join(WITH_ADDRESSES)}) and {all_but}"
    yield Run("thread", (*KERNELS, "-k", WITH_THREADS))
    yield Run("address", (*KERNELS, "-k", SIZES))
    yield Run("plain", ("tests/ops", "-k", f"{all_but} and not past_python"))
    yield Run("address", ("tests/ops", "-k", few))
    yield Run("plain", KERNELS)
    # What `make gpu` runs on a GPU.
    yield Run("plain", ("tools/gpu_suite.py", "--dry-run"), is_script=True)


def headers() -> Path | None:
    """Of the CUDA toolkit: $CUDA_HOME's, or those that nvcc itself includes."""
    folders = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if nvcc:  # perhaps a script or a link: it says itself where it lies
        said = subprocess.run(
            [nvcc, "--dryrun", "-x", "cu", os.devnull, "-c"], capture_output=True, text=True
        )
        folders += [Path(top) for top in re.findall(r"^#\$ TOP=(.+)$", said.stderr, re.MULTILINE)]
    for folder in (*folders, Path("/usr/local/cuda")):
        if (folder / "include" / "cuda_runtime_api.h").is_file():
            return (folder / "include").resolve()
    return None


def why_not() -> str:
    if sys.platform != "linux":
        return "it is for Linux"
    if importlib.util.find_spec("pybind11") is None:
        return "pybind11 is missing: pip install -e '.[dev]'"
    if headers() is None:
        return "there are no headers of a CUDA toolkit; CUDA_HOME tells where one is"
    if missing := sanitize.sanitizers_missing():
        return missing
    if not sanitize.runtime("libtsan.so"):
        return f"{' '.join(sanitize.compiler())} has no thread sanitizer"
    return ""


def folder(variant: str) -> Path:
    return ROOT / "build" / f"emulation-{variant}"


def build(variant: str) -> float:
    """Seconds it took."""
    began = time.monotonic()
    import pybind11

    found = importlib.util.find_spec("torch")
    assert found is not None and found.origin is not None
    torch = Path(found.origin).parent
    tools = Path(sys.executable).parent
    cmake = str(tools / "cmake") if (tools / "cmake").is_file() else "cmake"
    configure = [
        cmake, f"-S{ROOT}", f"-B{folder(variant)}", "-DSDD_EMULATION=ON",
        f"-DSDD_EMULATION_SANITIZE={SANITIZERS[variant]}", f"-DSDD_CUDA_INCLUDE_DIR={headers()}",
        f"-DSDD_TORCH_INCLUDE_DIR={torch / 'include'}",
        f"-DSDD_TORCH_LIBRARY_DIR={torch / 'lib'}",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]  # fmt: skip
    if (tools / "ninja").is_file():
        configure += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"]
    compile_ = [
        cmake, "--build", str(folder(variant)), "--target", "_emulation",
        "--parallel", str(sanitize.cores()),
    ]  # fmt: skip
    for command in (configure, compile_):
        done = subprocess.run(
            command, capture_output=True, text=True,
            env={**os.environ, "CXX": " ".join(sanitize.compiler())},
        )  # fmt: skip
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-5000:]}")
    return time.monotonic() - began


def environment(variant: str) -> dict[str, str]:
    (library,) = folder(variant).glob("_emulation.*.so")
    variables = {
        **sanitize.environment(level=""),  # those for address and undefined
        "SDD_FAST_LIBRARY": str(library),
        "EMULATION": variant,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        # The process is to end at the first race, and not to look for locks or threads of torch.
        "TSAN_OPTIONS": "exitcode=66:halt_on_error=1:report_thread_leaks=0:report_mutex_bugs=0"
        ":detect_deadlocks=0",
    }
    if variant == "plain":
        del variables["LD_PRELOAD"]
    if variant == "thread":
        standard = sanitize.runtime("libstdc++.so.6", "libstdc++.so")
        variables["LD_PRELOAD"] = f"{sanitize.runtime('libtsan.so')} {standard}"
    return variables


def test(run: Run) -> tuple[str, float]:
    """What is said at the end, and the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(
        run.command(), env=environment(run.variant), cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode != 0:
        said = f"{done.stdout[-10000:]}\n{done.stderr[-10000:]}"
        raise sanitize.Failed(f"{' '.join(run.arguments)} failed ({done.returncode}):\n{said}")
    passed = re.search(r"\d+ passed", done.stdout)
    if run.is_script:
        return run.arguments[0], time.monotonic() - began
    if passed is None:
        raise sanitize.Failed(f"{' '.join(run.arguments)}: nothing was tested:\n{done.stdout}")
    return f"{run.arguments[0]} {passed[0]}", time.monotonic() - began


def main() -> None:
    began = time.monotonic()
    if reason := why_not():
        print(f"emulate: skipped, {reason}")
        return
    built = {variant: build(variant) for variant in SANITIZERS}
    failed = False
    with ThreadPoolExecutor(sanitize.cores()) as pool:
        running: list[tuple[Run, Future]] = [(run, pool.submit(test, run)) for run in runs()]
        for variant in SANITIZERS:
            said = [f"built in {built[variant]:.0f} s"]
            for run, result in running:
                if run.variant == variant:
                    try:
                        said.append("{} in {:.0f} s".format(*result.result()))
                    except sanitize.Failed as error:
                        failed = True
                        said.append(str(error))
            print(f"    {variant}: {'; '.join(said)}", flush=True)
    if failed:
        sys.exit("emulate: failed")
    print(f"    {time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
