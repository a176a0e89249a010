"""Which devices there are."""

from __future__ import annotations

import torch


def check_device(name: str | torch.device) -> str:
    """Return a device of this machine as torch writes it.

    Raises:
        ValueError: it has none of this name.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{name!r} is no device; use cpu, cuda or cuda:1") from None
    available = {"cpu": 1, "cuda": torch.cuda.device_count()}
    available["mps"] = int(torch.backends.mps.is_available())
    if (device.index or 0) >= available.get(device.type, 0):
        usable = ", ".join(kind for kind, count in available.items() if count)
        raise ValueError(f"device {name}: this machine and torch have none; usable: {usable}")
    return str(device)
