"""On what the CUDA kernels run: a GPU, or the CPU that emulates one (see emulate.py)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sdd_fast.ops._register import NATIVE

EMULATED = NATIVE.path is not None and NATIVE.path.name.startswith("_emulation.")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where tensors must lie for the CUDA kernels to run."""
    if EMULATED:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("CUDA kernels run on a GPU, or under `make emulate`")
    if NATIVE.cuda_missing:
        pytest.skip(f"CUDA kernels: {NATIVE.cuda_missing}")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def emulation_module() -> Any:
    """The module that runs the kernels, see emulation_module.cpp."""
    if not EMULATED:
        pytest.skip("needs the emulation: `make emulate`")
    spec = importlib.util.spec_from_file_location("_emulation", NATIVE.path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def emulation(emulation_module: Any) -> Iterator[Any]:
    """The same; the schedule is that of the default afterwards."""
    yield emulation_module
    emulation_module.set_schedule(emulation_module.Schedule.FORWARD)
