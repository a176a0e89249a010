"""The wheels: what is in them, and that another environment runs them. `make wheel-check` builds
them and names that of the code in SDD_FAST_WHEEL; that of the weights lies beside it. They are
installed beside

    OTHER_TORCH   what pip takes, as torch==2.12.1, downloaded into build/wheel-check; "this": the
                  torch of this environment. Default: the oldest that is supported; where it cannot
                  be had the tests say so, and take this.
    OTHER_PYTHON  an interpreter: without OTHER_TORCH one that has torch and pytest. Default: this.
"""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from other_torch import NotThere, install_alone
from sanitize import LEFT_OUT, SLOW

from sdd_fast import load_domain

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "sdd_fast/_C.abi3.so"
DOMAINS = ROOT / "sdd_fast" / "domains"
WEIGHTS = DOMAINS / "faces64" / "weights"
NEEDED = ("numpy", "pillow", "safetensors", "tqdm", "typer", "pytest", "hypothesis")
OLDEST = "torch==2.11.0"

WHEEL = Path(os.environ.get("SDD_FAST_WHEEL", ""))
pytestmark = pytest.mark.skipif(not WHEEL.is_file(), reason="run make wheel-check")
MISSING = 'the weights of faces64 are not installed: pip install "sdd-fast-faces64==1.*"'

# What kernels make of numbers `make test` has shown of the same objects: here it is whether another
# torch reaches them, with every op, dtype, gradient and check.
OF_THE_KERNELS = (
    "any_", "kinks", "mislead", "within_1e_3", "nan_and_infinity", "number_of_threads", "abs_mean",
    "many_channels_last", "widths", "short_rows", "lengths", "small_planes",
)  # fmt: skip

STATE = """
import json, sys, warnings
warnings.simplefilter("error")
import torch, sdd_fast
def kernels(key):
    names = torch._C._dispatch_get_registrations_for_dispatch_key(key)
    return sorted(name for name in names if name.startswith("sdd_fast::"))
print(json.dumps({
    "file": sdd_fast.__file__, "info": sdd_fast.build_info(), "cuda": kernels("CUDA"),
    "cpu": kernels("CPU"), "initialized": torch.cuda.is_initialized(),
}))
"""


def run(*command: str | Path, cwd: Path | None = None, code: int = 0, **environment: str) -> str:
    """The output; of what must fail, the errors. Nothing of the checkout and no switch of this
    environment reaches the other."""
    env = {name: text for name, text in os.environ.items() if not name.startswith("SDD_FAST_")}
    env = {**env, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    said = f"{command} gave {done.returncode}:\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
    assert done.returncode == code, said
    return done.stderr if code else done.stdout


FACES64 = """
import json, sys, torch, sdd_fast
domain = sdd_fast.load_domain("faces64")
with torch.no_grad():
    image = domain.generator.synthesis(domain.held_out[:1])
    again = domain.generator.synthesis(domain.encoder(image))
print(json.dumps({"folder": str(domain.folder), "image": image.tolist(), "again": again.tolist()}))
"""


@dataclass(frozen=True)
class Torch:
    """An interpreter, and the folders with torch and the other packages, the first to be searched
    first. this: torch is that of this environment."""

    python: Path
    packages: tuple[Path, ...]
    said: str
    this: bool = False


def packages_of(python: str | Path) -> Path:
    return Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())


def downloaded(torch: str, folder: Path) -> str:
    """What is said about it; what was once downloaded is kept."""
    note = folder / "complete"
    if not note.is_file():
        began = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        stubs = install_alone(torch, folder)
        beside = f"; stubs of {', '.join(stubs)}" if stubs else ""
        note.write_text(f"{torch}, installed in {time.monotonic() - began:.0f} s{beside}")
    return note.read_text()


def with_torch() -> Torch:
    torch, python = os.environ.get("OTHER_TORCH", ""), os.environ.get("OTHER_PYTHON", "")
    here = Path(python or sys.executable)
    if torch == "this" or (python and not torch):
        return Torch(here, (packages_of(here),), f"the torch of {here}", this=not python)
    version = run(here, "-c", "import sys; print(sys.version_info[:2])")
    name = re.sub(r"\W+", "-", (torch or OLDEST) + version).strip("-")
    folder = ROOT / "build" / "wheel-check" / name
    if python:  # with all its dependencies
        if not (folder / "complete").is_file():
            run(python, "-m", "venv", "--clear", folder)
            run(folder / "bin" / "python", "-m", "pip", "install", *torch.split(), *NEEDED)
            (folder / "complete").touch()
        here = folder / "bin" / "python"
        return Torch(here, (packages_of(here),), torch)
    packages = packages_of(here)
    try:
        said = downloaded(torch or OLDEST, folder)
    except NotThere as error:
        if torch:
            raise
        said = f"NO OTHER TORCH, but that of this environment: {OLDEST} cannot be had: {error}"
        return Torch(here, (packages,), said, this=True)
    return Torch(here, (folder, packages), said)


@pytest.fixture(scope="module")
def torch_there(request: pytest.FixtureRequest) -> Torch:
    torch = with_torch()
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n    beside {torch.said}", flush=True)
    return torch


def environment(folder: Path, torch: Torch) -> Path:
    """The interpreter of a fresh environment with the packages of `with_torch`.

    They are shared through a .pth file, which hides an editable install of this package there.
    """
    run(torch.python, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    shared = "".join(f"{packages}\n" for packages in torch.packages)
    (packages_of(python) / "shared.pth").write_text(shared)
    return python


def pip(python: Path, *words: str | Path) -> None:
    run(sys.executable, "-m", "pip", "--python", python, "--quiet", *words)


@pytest.fixture(scope="module")
def other(torch_there: Torch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel of the code alone."""
    python = environment(tmp_path_factory.mktemp("wheel") / "environment", torch_there)
    pip(python, "install", "--no-deps", "--no-index", WHEEL)
    return python


@pytest.fixture(scope="module")
def state(other: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return dict(json.loads(run(other, "-c", STATE, cwd=tmp_path_factory.mktemp("empty"))))


def test_one_wheel_for_every_python_with_code_alone() -> None:
    assert re.fullmatch(r"sdd_fast-[\d.]+-cp310-abi3-(many)?linux\w+\.whl", WHEEL.name)
    with zipfile.ZipFile(WHEEL) as archive:
        sizes = {entry.filename: entry.compress_size for entry in archive.infolist()}
        note = json.loads(archive.read("sdd_fast/_native_build.json"))
    assert [name for name in sizes if name.endswith(".so")] == [LIBRARY]
    strangers = [
        n for n in sizes if not re.match(r"sdd_fast(-[^/]+\.dist-info)?/", n) or "__pycache__" in n
    ]
    assert strangers == []
    assert [name for name in sizes if name.endswith(".safetensors")] == []
    assert note["built"] and note["no_cuda"] == ""
    print(f"library {sizes[LIBRARY]}, wheel {WHEEL.stat().st_size}")
    assert WHEEL.stat().st_size < 5_000_000


@pytest.fixture(scope="module")
def weights() -> Path:
    """The wheel of the weights of faces64."""
    (found,) = WHEEL.parent.glob("sdd_fast_faces64-*.whl")
    return found


@pytest.mark.parametrize("domain", ["faces64", "fashion32"])
def test_the_weights_are_those_of_the_checkout_and_what_the_code_asks_for(domain: str) -> None:
    folder, package = DOMAINS / domain / "weights", f"sdd_fast_{domain}"
    if not folder.is_dir():
        pytest.skip(f"the checkout has no weights of {domain}")
    (weights,) = WHEEL.parent.glob(f"{package}-*.whl")
    assert re.fullmatch(rf"{package}-[\d.]+-py3-none-any\.whl", weights.name)
    with zipfile.ZipFile(weights) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    expected = {p.relative_to(folder): p for p in folder.rglob("*") if p.is_file()}
    assert {name.split("/")[0] for name in files} == {
        package, weights.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    }  # fmt: skip
    found = {n for n in files if n.startswith(f"{package}/")}
    assert found == {f"{package}/{n}" for n in (*expected, "__init__.py")}
    for name, path in expected.items():
        assert files[f"{package}/{name}"] == path.read_bytes()
    with zipfile.ZipFile(WHEEL) as archive:
        (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        head = email.message_from_bytes(archive.read(metadata))
    asked = head.get_all("Requires-Dist", [])
    (wanted,) = (r for r in asked if r.startswith(f"sdd-fast-{domain}"))
    extra = "" if domain == "faces64" else f'; extra == "{domain}"'
    assert wanted == f"sdd-fast-{domain}=={weights.name.split('-')[1].split('.')[0]}.*{extra}"


def test_abi3audit_finds_no_violation(tmp_path: Path) -> None:
    pytest.importorskip("abi3audit")
    report = tmp_path / "report.json"
    run(sys.executable, "-m", "abi3audit", "--strict", "--report", "-o", report, WHEEL)
    (wheel,) = json.loads(report.read_text())["specs"].values()
    (library,) = wheel["wheel"]
    assert library["name"] == Path(LIBRARY).name
    assert library["result"]["is_abi3"] and library["result"]["is_abi3_baseline_compatible"]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_the_library_asks_torch_for_its_stable_interface_alone(tmp_path: Path) -> None:
    """No C++ of libtorch, which changes from version to version, no Python, no CUDA library."""
    with zipfile.ZipFile(WHEEL) as archive:
        library = archive.extract(LIBRARY, tmp_path)
    needed = re.findall(r"NEEDED.*\[(.+)\]", run("readelf", "-dW", library))
    assert [n for n in needed if n.startswith(("libtorch", "libc10", "libcu", "libpython"))] == [
        "libtorch_cpu.so"
    ]
    lines = run("readelf", "--dyn-syms", "-W", library).splitlines()
    undefined = {line.split()[7] for line in lines if len(line.split()) > 7 and " UND " in line}
    torch = {name for name in undefined if re.search(r"torch|aten|c10|at\d", name, re.IGNORECASE)}
    unstable = {name for name in torch if not re.match(r"(aoti_)?torch_\w+$", name)}
    assert torch and unstable == set()
    assert [name for name in undefined if name.startswith(("Py", "_Py", "cu"))] == []


def test_it_loads_quietly_with_a_cuda_kernel_beside_every_cpu_kernel(
    other: Path, state: dict[str, Any]
) -> None:
    assert Path(state["file"]).is_relative_to(other.parent.parent)
    assert state["cpu"] and state["cuda"] == state["cpu"]
    assert not state["initialized"], "importing must not take memory of a GPU"
    info = state["info"]
    assert info["native"] and info["cuda_missing"] == ""
    assert info["cuda_targets"] == ["sm_80", "sm_86", "sm_90", "sm_120"]


def test_sdd_info_tells_the_truth(
    torch_there: Torch, other: Path, state: dict[str, Any], tmp_path: Path
) -> None:
    torch = json.loads(
        run(other, "-c", "import json, torch; print(json.dumps([torch.__version__, "
            "torch.version.cuda, torch.cuda.is_available()]))", cwd=tmp_path)
    )  # fmt: skip
    facts = json.loads(run(other, "-m", "sdd_fast.cli", "info", "--json", cwd=tmp_path))
    assert facts["torch"] == torch[0] == state["info"]["torch"]
    if torch_there.packages[0].name.startswith("torch-2-11-0"):
        assert torch[0].startswith("2.11.0")
    assert facts["cuda kernels"].startswith("for sm_80, ")
    assert ("a build without CUDA" in facts["cuda kernels"]) == (torch[1] is None)
    assert ("not in use" in facts["cuda kernels"]) == (not torch[2])


def test_without_the_weights_faces64_says_what_to_install(other: Path, tmp_path: Path) -> None:
    facts = json.loads(run(other, "-m", "sdd_fast.cli", "info", "--json", cwd=tmp_path))
    assert facts["domain faces64"] == MISSING
    said = run(other, "-m", "sdd_fast.cli", "demo", cwd=tmp_path, code=1)
    assert MISSING in " ".join(said.split()) and "Traceback" not in said


def test_the_weights_and_the_whole_package_leave_each_other_alone(
    torch_there: Torch, weights: Path, tmp_path: Path
) -> None:
    """Who has the package from a checkout installs the weights beside it and removes them; then
    installs both wheels, which work, and removes them without a trace."""
    python = environment(tmp_path / "environment", torch_there)
    folder = packages_of(python)
    install = ("install", "--no-deps", "--no-index", "--no-compile")
    before = sorted(folder.rglob("*"))
    pip(python, *install, next((ROOT / "build" / "wheel").glob("sdd_fast-*.whl")))
    whole = sorted(folder.rglob("*"))
    assert folder / "sdd_fast/domains/faces64/weights/domain.json" in whole
    pip(python, *install, weights)
    pip(python, "uninstall", "--yes", "sdd-fast-faces64")
    assert sorted(folder.rglob("*")) == whole
    pip(python, *install, "--force-reinstall", WHEEL, weights)
    there = json.loads(run(python, "-c", FACES64, cwd=tmp_path))
    assert there["folder"] == str(folder / "sdd_fast_faces64")
    here = load_domain(WEIGHTS)
    with torch.no_grad():
        image = here.generator.synthesis(here.held_out[:1])
        again = here.generator.synthesis(here.encoder(image))
    for name, expected in (("image", image), ("again", again)):
        assert expected.shape == (1, 3, 64, 64) and expected.std() > 0.1
        # Another torch may add in another order.
        assert (torch.tensor(there[name]) - expected).abs().max() < 1e-3
    pip(python, "uninstall", "--yes", "sdd_fast", "sdd-fast-faces64")
    assert sorted(folder.rglob("*")) == before


def test_the_tests_of_the_ops_pass_there(torch_there: Torch, other: Path, tmp_path: Path) -> None:
    """A copy of them, out of the checkout, with their helpers. `make test` runs those that are slow
    or of the kernels alone with the same objects, and all of them beside the torch of this
    environment."""
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    shutil.copytree(ROOT / "tests" / "ops", tmp_path / "tests" / "ops")
    for helper in (ROOT / "tests").glob("*.py"):
        if not helper.name.startswith(("test_", "conftest")):
            shutil.copy(helper, tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = --import-mode=importlib\npythonpath = tests\n"
    )
    left_out = (*(LEFT_OUT if torch_there.this else SLOW), *OF_THE_KERNELS)
    quick = " and ".join(f"not {name}" for name in left_out)
    said = run(
        other, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", quick, "tests/ops",
        cwd=tmp_path,
    )  # fmt: skip
    print(said)
    assert re.search(r"\d+ passed", said)
