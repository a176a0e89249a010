"""What users are told when a CUDA kernel cannot be started: csrc/common/launch.cu."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
NVCC = os.environ.get("CUDACXX") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
pytestmark = pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="needs the source tree")

PRINT = """
#include <cstdio>
#include <cstdlib>
#include "common/launch_error.h"
int main(int, char** value) {
  const auto number = [&](int i) { return std::atoi(value[i]); };
  std::puts(sdd::launch_error({"bias_act", "no luck", "sm_80 sm_90",
                               static_cast<sdd::LaunchFailure>(number(1)), number(2), number(3),
                               number(4), number(5)}).c_str());
}
"""
ARCHITECTURE, PTX, DRIVER, OTHER = range(4)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("launch_error")
    (folder / "print.cpp").write_text(PRINT)
    subprocess.run(
        [compiler, "-std=c++20", f"-I{ROOT / 'csrc'}", "print.cpp", "-o", "print"],
        cwd=folder, check=True,
    )  # fmt: skip
    return folder / "print"


@pytest.mark.parametrize(
    ("facts", "said", "unsaid"),
    [
        (
            (ARCHITECTURE, 10, 3, 13000, 13000),
            ["capability 10.3", "compiled for sm_80 sm_90", "CUDA_ARCHITECTURES=103 pip install",
             "SDD_FAST_CUDA=0"],
            ["driver"],
        ),
        (
            (ARCHITECTURE, 7, 5, 13000, 13000),
            ["capability 7.5", "8.0 is the oldest", "SDD_FAST_CUDA=0"],
            ["pip install"],  # no build helps such a GPU
        ),
        ((ARCHITECTURE, 0, 0, 13000, 13000), ["CUDA_LAUNCH_BLOCKING"], ["capability"]),
        (
            (PTX, 12, 1, 12080, 13010),
            ["capability 12.1", "could not load them or compile them", "supports CUDA 13.1",
             "CUDA_ARCHITECTURES=121 pip install"],
            ["CUDA_LAUNCH_BLOCKING"],
        ),
        (
            (DRIVER, 0, 0, 12040, 13000),
            ["driver supports CUDA 12.4", "need CUDA 13.0", "Update the driver", "12.8"],
            ["capability"],
        ),
        ((DRIVER, 0, 0, 0, 13000), ["No NVIDIA driver", "CUDA 13.0 or newer"], ["0.0"]),
        ((OTHER, 9, 0, 13000, 13000), ["CUDA_LAUNCH_BLOCKING=1"], ["pip install"]),
    ],
)  # fmt: skip
def test_what_is_missing_and_how_to_get_it(
    program: Path, facts: tuple[int, ...], said: list[str], unsaid: list[str]
) -> None:
    message = subprocess.run(
        [program, *map(str, facts)], capture_output=True, text=True, check=True
    ).stdout
    assert message.startswith("sdd_fast: the CUDA kernel bias_act could not be started: no luck. ")
    assert [text for text in said if text not in message] == []
    assert [text for text in unsaid if text in message] == []


@pytest.mark.skipif(shutil.which(NVCC) is None, reason="needs nvcc")
def test_a_kernel_compiled_for_another_gpu_or_without_a_driver(tmp_path: Path) -> None:
    """The real thing: on a GPU a kernel that was compiled for another, elsewhere one without."""
    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)
    target = "80" if major == 12 else "120"
    source = ROOT / "tests" / "cuda" / "launch_failure.cu"
    subprocess.run(
        [NVCC, "-std=c++20", f"-gencode=arch=compute_{target},code=sm_{target}",
         f'-DSDD_CUDA_TARGETS="sm_{target}"', source, "-o", tmp_path / "run"],
        check=True,
    )  # fmt: skip
    done = subprocess.run([tmp_path / "run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    if major:
        assert (
            f"capability {major}.{minor}; the kernels were compiled for sm_{target}. "
            in done.stdout
        )
    else:
        assert "driver" in done.stdout and "CUDA_LAUNCH_BLOCKING" not in done.stdout
