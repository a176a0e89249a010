"""Which dtypes a device has, what auto prefers, and how networks lie in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdd_fast.teacher import precision
from sdd_fast.teacher.precision import check_dtype, fastest_dtype, memory_format
from sdd_fast.teacher.prior import DiffusionPrior

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is older than bfloat16."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)


def test_a_dtype_that_the_device_lacks(gpu: None) -> None:
    with pytest.raises(ValueError, match="Tesla T4 has no bfloat16; give one of float32, float16"):
        check_dtype("bfloat16", GPU)
    assert check_dtype("float16", GPU) == torch.float16
    assert check_dtype("auto", GPU) == "auto"


@pytest.mark.parametrize("dtype", ["half", torch.int8, "float8_e4m3fn", 16, None])
def test_a_dtype_that_is_none(dtype: Any) -> None:
    with pytest.raises(ValueError, match="float32, float16, bfloat16, float64 or auto, got"):
        check_dtype(dtype, CPU)


@pytest.mark.parametrize(
    ("bf16", "amx", "expected"),
    [
        (False, False, torch.float32), (True, False, torch.bfloat16), (True, True, torch.bfloat16),
    ],
)  # fmt: skip
def test_what_auto_prefers(
    bf16: bool, amx: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert fastest_dtype(CPU) == expected
    assert fastest_dtype(GPU) == torch.float16
    assert fastest_dtype(torch.device("mps")) == torch.float32


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float64"])
def test_dtypes_by_name_and_their_layout(name: str, tiny_sd: Path) -> None:
    prior = DiffusionPrior.from_pretrained(tiny_sd, dtype=name)
    dtype = precision.DTYPES[name]
    assert prior.dtype == prior.vae.dtype == dtype
    half = name in ("float16", "bfloat16")
    for part, module, last in (
        ("unet", prior.unet.mid_block, half),
        ("vae", prior.vae.encoder.mid_block, True),
    ):
        assert (memory_format(part, CPU, dtype) == torch.channels_last) == last
        weight = module.resnets[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == last
    assert (memory_format("vae", GPU, dtype) == torch.channels_last) == half


def test_auto_where_nothing_is_faster_than_float32(
    tiny_sd: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(precision, "fastest_dtype", lambda device: torch.float32)
    assert DiffusionPrior.from_pretrained(tiny_sd, dtype="auto").dtype == torch.float32
    assert not [w for w in recwarn if "dtype=auto" in str(w.message)]
