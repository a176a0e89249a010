"""What a checkpoint file is, in words."""

from __future__ import annotations

from .read import Checkpoint


def what_is(checkpoint: Checkpoint) -> str:
    """A short description for error messages, such as "an ArcFace IR-SE50 network"."""
    return f"a {checkpoint.format} file of unknown content"
