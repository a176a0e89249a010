"""What the teacher's networks compute in: dtype and memory format, by device and by what was found.

Latents, noise, guidance, residuals and statistics are float32 whatever this is. Guidance multiplies
the rounding of two predictions by its scale, so a mode is trusted once it has passed the gate of
`sdd bench precision` with the teacher at hand.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch

from .. import measured
from .parts import teacher_fingerprint

DTYPES = {
    "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}  # fmt: skip
IN_DOMAINS = ("float32", "float16", "bfloat16")
"""What the teacher of a domain may compute in; nothing else there is in double precision."""

AUTO = "auto"

Dtype = torch.dtype | str


def check_dtype(dtype: Dtype, device: str | torch.device, offered: Iterable[str] = DTYPES) -> Dtype:
    """Return a dtype that the device computes in, or "auto".

    Raises:
        ValueError: it is none of those `offered`, or the device lacks it.
    """
    name = str(dtype).removeprefix("torch.")
    if name == AUTO:
        return AUTO
    if name not in offered:
        raise ValueError(f"dtype must be one of {', '.join(offered)} or {AUTO}, got {dtype!r}")
    kind = torch.device(device)
    if name not in usable_dtypes(kind):
        raise ValueError(
            f"{measured.device_name(kind)} has no {name}; give one of "
            f"{', '.join(usable_dtypes(kind))}, or {AUTO}"
        )
    return DTYPES[name]


def usable_dtypes(device: torch.device) -> list[str]:
    """List the names of the dtypes that a device computes in."""
    lacks = set()
    if device.type == "cuda" and torch.version.cuda:
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                lacks.add("bfloat16")
    if device.type == "mps":
        lacks.add("float64")
    return [name for name in DTYPES if name not in lacks]


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype that "auto" would rather take: half precision where the hardware has it."""
    if device.type == "cuda":
        return torch.float16
    # Without these instructions bfloat16 is converted to float32 and back at every step.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cpu" and native else torch.float32


def memory_format(part: str, device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """Return how the images of a part, "unet" or "vae", lie in memory.

    Measured on a CPU with AMX, Stable Diffusion 1.x at full size: channels_last wins in bfloat16;
    in float32 for the VAE's encoder (1.3 times, also in faces64), but not for the U-Net. Tensor
    cores take it without a copy.
    """
    wins = dtype in (torch.float16, torch.bfloat16) or (part == "vae" and device.type == "cpu")
    return torch.channels_last if wins and device.type != "mps" else torch.contiguous_format


def choose_dtype(teacher: Any, device: torch.device) -> torch.dtype:
    """Return what "auto" means for a teacher on a device: the fastest that did not fail its gate.

    Args:
        teacher: its `Components`, in the precision of their files.

    Warns:
        UserWarning: float32 is taken, as the gate failed; or nobody has tried it yet.
    """
    dtype = fastest_dtype(device)
    if dtype == torch.float32:
        return dtype
    name = str(dtype).removeprefix("torch.")
    failure = gate_results(teacher, device, dtype).get("sdpa")
    if failure is None:
        warnings.warn(
            f"dtype=auto takes {name}, whose error is not measured with this teacher yet: run "
            "sdd bench precision with the same domain and files, once",
            stacklevel=2,
        )
    elif failure:
        warnings.warn(
            f"dtype=auto takes float32: {name} has failed the gate of sdd bench precision with "
            f"this teacher: {failure}",
            stacklevel=2,
        )
        return torch.float32
    return dtype


def settings_that_matter(prior: Any) -> dict[str, Any]:
    """Return what a result depends on beside the teacher itself, but for defaults; JSON only.

    Args:
        prior: a `DiffusionPrior`.
    """
    found: dict[str, Any] = {}
    if prior.dtype != torch.float32:
        found["teacher"] = str(prior.dtype)
    backends = {shape: told["backend"] for shape, told in prior.attention.items()}
    # diffusers' own processor calls the same function of PyTorch.
    if set(backends.values()) - {"sdpa", "AttnProcessor2_0"}:
        found["attention"] = backends
    return found


# --- what the gate found --------------------------------------------------------------------------


def gate_results(teacher: Any, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Return why attention backends failed the gate in a dtype, "" if not, as far as tried.

    Args:
        teacher: `Components` or a `DiffusionPrior`, in `dtype` or in the precision of its files.
    """
    known = measured.everything().get(_key(teacher, device, dtype))
    found = known if isinstance(known, dict) else {}
    return {name: failure for name, failure in found.items() if isinstance(failure, str)}


def keep_gate_result(
    teacher: Any, device: torch.device, dtype: torch.dtype, attention: str, failure: str
) -> None:
    """Keep for "auto" why a teacher failed the gate in a mode; "" if it passed."""
    results = gate_results(teacher, device, dtype) | {attention: failure}
    measured.keep(_key(teacher, device, dtype), results)


def _key(teacher: Any, device: torch.device, dtype: torch.dtype) -> str:
    # Rounded, so that the teacher is known in this dtype and in float32 alike.
    found = teacher_fingerprint(teacher, rounded=dtype).values()
    return measured.key_of("gate", *found, dtype, measured.device_name(device))
