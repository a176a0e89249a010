"""NumPy's .npy files: one array of numbers."""

from __future__ import annotations

from pathlib import Path

from ...files import PathLike
from .read import Checkpoint


def is_npy(path: PathLike) -> bool:
    return Path(path).suffix.lower() == ".npy"


def read_npy(path: PathLike) -> Checkpoint:
    """Read the array as a tensor; nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds Python objects instead of numbers.
    """
    import numpy as np
    import torch

    try:
        # Mapped first: a header that promises more than the file holds then claims no memory.
        array = np.array(np.lib.format.open_memmap(path, mode="r"))
        return Checkpoint(Path(path), "npy", torch.from_numpy(array))
    except OSError:
        raise
    except Exception as error:  # the header is a Python expression: whatever its parser raises
        raise ValueError(f"{path} is no complete .npy file of numbers: {error}") from error
