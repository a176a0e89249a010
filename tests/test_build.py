"""The installation: what it reports, and that everything works without native kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sdd_fast import ops
from sdd_fast._build_info import build_info
from sdd_fast._native_sources import sources_digest
from sdd_fast.ops import _register
from sdd_fast.ops._register import NATIVE, PACKAGE

ROOT = Path(__file__).resolve().parents[1]
needs_native = pytest.mark.skipif(NATIVE.path is None, reason="native kernels: " + NATIVE.missing)

STATISTICS = """
import json, warnings
import torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from sdd_fast.ops.softmax_entropy_l1 import softmax_entropy_l1
    at_import = sum("native" in str(w.message) for w in caught)
    x = torch.randn(3, 20000, generator=torch.Generator().manual_seed(0)) * 1e-3
    results = [softmax_entropy_l1(x).deficit.tolist() for _ in range(2)]
from sdd_fast._build_info import build_info
print(json.dumps({
    "results": results, "at_import": at_import, "info": build_info(),
    "warnings": [str(w.message) for w in caught if "native" in str(w.message)],
}))
"""


def run_python(code: str, **environment: str) -> dict:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=PACKAGE.parent,  # the package under test, be it the checkout's or an installed one
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_build_info_is_complete_and_json() -> None:
    info = json.loads(json.dumps(build_info()))
    assert set(info) == {
        "sdd_fast",
        "torch",
        "python",
        "machine",
        "native",
        "native_missing",
        "library",
        "compiler",
        "torch_at_build",
        "cpu_level",
        "cpu_levels_compiled",
        "cuda_targets",
        "cuda_missing",
        "ops",
    }
    assert info["native"] == (info["native_missing"] == "") == bool(info["library"])
    assert "softmax_entropy_l1" in info["ops"] and "bias_act" in info["ops"]


@needs_native
def test_build_info_names_the_active_kernels() -> None:
    info = build_info()
    assert info["ops"]["softmax_entropy_l1"] == "native"
    assert info["cpu_level"] in info["cpu_levels_compiled"]
    assert Path(info["library"]).is_file()


def test_without_native_kernels_the_results_are_the_same_and_one_warning_says_so() -> None:
    without = run_python(STATISTICS, SDD_FAST_NATIVE="0")
    assert without["info"]["native"] is False
    assert without["info"]["ops"]["softmax_entropy_l1"] == "reference"
    assert without["at_import"] == 0, "import alone must stay silent"
    assert len(without["warnings"]) == 1
    assert "SDD_FAST_NATIVE=0" in without["warnings"][0]
    here = run_python(STATISTICS)
    for ours, reference in zip(here["results"][0], without["results"][1], strict=True):
        assert ours == pytest.approx(reference, rel=1e-6)


@needs_native
def test_every_instruction_set_gives_the_same_results() -> None:
    info = build_info()
    levels = info["cpu_levels_compiled"]
    available = levels[: levels.index(info["cpu_level"]) + 1]
    runs = [run_python(STATISTICS, SDD_FAST_CPU=level) for level in available]
    assert [r["info"]["cpu_level"] for r in runs] == available
    assert not any(r["warnings"] for r in runs)
    for run in runs:
        assert run["results"][0] == run["results"][1]
        assert run["results"][0] == pytest.approx(runs[-1]["results"][0], rel=1e-7)


@pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree")
@pytest.mark.parametrize("compiler", ["no-such-compiler", sys.executable])
def test_without_a_compiler_that_compiles_the_package_still_installs(compiler: str) -> None:
    env = {name: text for name, text in os.environ.items() if name != "SDD_FAST_NATIVE"}
    done = subprocess.run(
        [sys.executable, "setup.py", "--name"],
        env={**env, "CXX": compiler}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no native kernels: " in done.stdout and "install g++ or clang++" in done.stdout


# --- CUDA kernels: built, or why not --------------------------------------------------------------

NVCC = """#!{python}
import sys
if "--version" in sys.argv:
    print("Cuda compilation tools, release {release}, V{release}.1")
else:
    sys.exit("{failure}")
"""


def setup_py(**switches: str) -> subprocess.CompletedProcess[str]:
    """What setup.py decides, without building anything."""
    names = ("SDD_FAST_NATIVE", "SDD_FAST_CUDA", "SDD_FAST_CUDA_ARCHITECTURES", "CUDACXX")
    env = {name: text for name, text in os.environ.items() if name not in names}
    return subprocess.run(
        [sys.executable, "setup.py", "--name"],
        env={**env, **switches}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree")
@pytest.mark.skipif(sys.platform != "linux", reason="CUDA kernels are for Linux")
@pytest.mark.parametrize(
    ("nvcc", "expected"),
    [
        (None, ["nvcc was not found at ", "install the CUDA toolkit 12.8 or newer"]),
        (("12.6", ""), ["is 12.6, 12.8 or newer is needed", "install a newer CUDA toolkit"]),
        (("12.8", "error: unsupported GNU version"), ["compiles nothing (error: unsupported GNU"]),
    ],
)
def test_without_a_working_nvcc_there_are_no_cuda_kernels(
    tmp_path: Path, nvcc: tuple[str, str] | None, expected: list[str]
) -> None:
    program = tmp_path / "nvcc"
    if nvcc is not None:
        program.write_text(NVCC.format(python=sys.executable, release=nvcc[0], failure=nvcc[1]))
        program.chmod(0o755)
    required = setup_py(CUDACXX=str(program), SDD_FAST_CUDA="1")
    if "no native kernels" in required.stdout:
        pytest.skip("there are no native kernels at all")
    assert required.returncode != 0
    assert "although SDD_FAST_CUDA=1" in required.stderr
    optional = setup_py(CUDACXX=str(program))
    assert optional.returncode == 0, optional.stderr
    for text in ("no CUDA kernels", "SDD_FAST_CUDA=1 pip install", str(program), *expected):
        assert text in required.stderr
        assert text in optional.stdout or torch.version.cuda is None


@pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree")
@pytest.mark.skipif(sys.platform != "linux", reason="CUDA kernels are for Linux")
@pytest.mark.skipif(torch.version.cuda is not None, reason="beside a CPU build of torch")
def test_beside_a_cpu_torch_cuda_kernels_are_compiled_only_if_asked_for(tmp_path: Path) -> None:
    program = tmp_path / "nvcc"  # one that says its version, and that it compiles
    text = NVCC.format(python=sys.executable, release="13.0", failure="")
    program.write_text(text.replace('sys.exit("")', "sys.exit(0)"))
    program.chmod(0o755)
    unasked = setup_py(CUDACXX=str(program))
    if "no native kernels" in unasked.stdout:
        pytest.skip("there are no native kernels at all")
    assert unasked.returncode == 0, unasked.stderr
    expected = (f"torch {torch.__version__}", "is no CUDA build", "SDD_FAST_CUDA=1 pip install")
    for text in expected:
        assert text in unasked.stdout
    asked = setup_py(CUDACXX=str(program), SDD_FAST_CUDA="1")
    assert asked.returncode == 0 and "no CUDA kernels" not in asked.stdout, asked.stderr


@pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree")
def test_switches_of_the_cuda_build() -> None:
    off = setup_py(SDD_FAST_CUDA="0")
    assert off.returncode == 0
    assert "SDD_FAST_CUDA=0" in off.stdout or "no native kernels" in off.stdout
    both = setup_py(SDD_FAST_CUDA="1", SDD_FAST_NATIVE="0")
    assert both.returncode != 0 and "installed with SDD_FAST_NATIVE=0" in both.stderr
    for wrong in ("75", "80;8.6", "native"):
        refused = setup_py(SDD_FAST_CUDA_ARCHITECTURES=wrong)
        assert refused.returncode != 0, wrong
        assert f"SDD_FAST_CUDA_ARCHITECTURES={wrong}: expected" in refused.stderr
    assert setup_py(SDD_FAST_CUDA_ARCHITECTURES="90, 80", SDD_FAST_CUDA="0").returncode == 0


GPU = torch.device("cuda", 1)


def test_a_cuda_tensor_without_cuda_kernels_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every op, with what is missing and how to get it; nothing goes to the CPU unasked."""
    missing = "nvcc was not found when the package was built; install the CUDA toolkit"
    monkeypatch.setattr(_register, "NATIVE", replace(NATIVE, cuda_missing=missing))
    monkeypatch.setattr(_register, "CUDA_OFF", False)
    for op in _register.OPS:
        with pytest.raises(RuntimeError) as error:
            _register.native_kernel(op, GPU)
        for text in (op, "cuda:1", missing, "SDD_FAST_CUDA=0 in the environment"):
            assert text in str(error.value)
    with FakeTensorMode(), pytest.raises(RuntimeError, match="no CUDA kernels here"):
        ops.bias_act(torch.empty(2, 3, 4, device="cuda"))


def test_with_the_cuda_kernels_switched_off_one_warning_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    off = "they are switched off by SDD_FAST_CUDA=0"
    monkeypatch.setattr(_register, "NATIVE", replace(NATIVE, cuda_missing=off))
    monkeypatch.setattr(_register, "CUDA_OFF", True)
    monkeypatch.setattr(_register, "_warned", set())
    with pytest.warns(RuntimeWarning, match="without its CUDA kernels: .*SDD_FAST_CUDA=0") as seen:
        assert not any(_register.native_kernel("bias_act", GPU) for _ in range(2))
    assert len(seen) == 1
    with FakeTensorMode():
        assert ops.bias_act(torch.empty(2, 3, 4, device="cuda")).device.type == "cuda"


CUDA_STATE = """
import json, torch
{before}
from sdd_fast.ops._register import NATIVE, native_kernel
try:
    used = native_kernel("bias_act", torch.device("cuda"))
except RuntimeError as error:
    used = str(error)
print(json.dumps({{"used": used, "missing": NATIVE.cuda_missing, "cpu": NATIVE.path is not None}}))
"""


@needs_native
def test_switches_and_rocm_at_run_time() -> None:
    off = run_python(CUDA_STATE.format(before=""), SDD_FAST_CUDA="0")
    assert off == {
        "used": False, "missing": "they are switched off by SDD_FAST_CUDA=0", "cpu": True,
    }  # fmt: skip
    rocm = run_python(CUDA_STATE.format(before="torch.version.hip = '6.4'"), SDD_FAST_CUDA="")
    assert "ROCm" in rocm["missing"] and "ROCm" in rocm["used"] and rocm["cpu"]
    here = run_python(CUDA_STATE.format(before=""), SDD_FAST_CUDA="")
    assert here["missing"] == NATIVE.cuda_missing or _register.CUDA_OFF
    assert (here["used"] is True) == (here["missing"] == "")


@pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="needs the source tree")
def test_digest_follows_the_native_sources(tmp_path: Path) -> None:
    (tmp_path / "csrc" / "op").mkdir(parents=True)
    (tmp_path / "CMakeLists.txt").write_text("project(x)")
    source = tmp_path / "csrc" / "op" / "op_cpu.cpp"
    source.write_text("int a;")
    first = sources_digest(tmp_path)
    assert sources_digest(tmp_path) == first
    source.write_text("int b;")
    second = sources_digest(tmp_path)
    source.rename(source.with_name("op.cpp"))
    assert len({first, second, sources_digest(tmp_path)}) == 3


@needs_native
@pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="needs the source tree")
def test_a_library_older_than_its_sources_is_refused(tmp_path: Path) -> None:
    """A copy of the tree whose csrc/ was edited after the build, imported from there."""
    package = tmp_path / "sdd_fast"
    (package / "ops").mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0'")
    (package / "ops" / "__init__.py").write_text("")
    for name in ("_native_sources.py", "_native_build.json", "_C.abi3.so", "ops/_register.py"):
        (package / name).write_bytes((PACKAGE / name).read_bytes())
    (tmp_path / "CMakeLists.txt").write_bytes((ROOT / "CMakeLists.txt").read_bytes())
    for source in (ROOT / "csrc").rglob("*"):
        if source.is_file():
            copy = tmp_path / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    code = (
        f"import sys, json; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from sdd_fast.ops._register import NATIVE, PACKAGE\n"
        "print(json.dumps({'missing': NATIVE.missing, 'from': str(PACKAGE)}))"
    )
    fresh = run_python(code)
    assert fresh == {"missing": "", "from": str(package)}
    library = tmp_path / "csrc" / "library.cpp"
    library.write_text(library.read_text() + "// edited\n")
    assert "csrc/ has changed" in run_python(code)["missing"]
