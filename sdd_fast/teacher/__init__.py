"""The diffusion model as the teacher: reading it, and what the method asks of it."""

from __future__ import annotations

from .prior import DiffusionPrior
from .text import PromptEmbeds

__all__ = ["DiffusionPrior", "PromptEmbeds"]
