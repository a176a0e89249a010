"""Runs kernels on tensors of more elements than 32 bits count, which have addresses but no memory:
only the pages that are touched exist."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"
NOT_RESERVED = 2  # the status of a program that gets no addresses
RESERVE = f"""
#include <sys/mman.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
static float* reserve(int64_t n) {{  // zeros
  void* p = mmap(nullptr, n * 4, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) std::exit({NOT_RESERVED});
#ifdef MADV_HUGEPAGE
  madvise(p, n * 4, MADV_HUGEPAGE);  // reading a page takes a fault
#endif
  return static_cast<float*>(p);
}}
"""


def run_on_reserved(op: str, program: str, folder: Path) -> None:
    """Compile `program`, C++ that calls the portable kernel of `op` on `reserve(count)`, with that
    kernel into `folder`, and run it; it must return 0 and print nothing."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    source, executable = folder / "large.cpp", folder / "large"
    source.write_text(RESERVE + program)
    build = [
        "g++", "-std=c++20", "-O1", "-DSDD_ISA=portable", f"-I{CSRC}", "-o", str(executable),
        str(source), str(CSRC / op / f"{op}_kernel.cpp"),
    ]  # fmt: skip
    subprocess.run(build, check=True)
    result = subprocess.run([executable], capture_output=True, text=True)
    if result.returncode == NOT_RESERVED:
        pytest.skip("the system does not reserve so many addresses")
    assert (result.returncode, result.stdout) == (0, "")
