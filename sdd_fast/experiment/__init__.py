"""Whole edits: select timesteps, distil, measure and report, each in a folder of its own."""

from .run import EditRun, default_config, run_edit, unknown_words_warning
from .selection import Selection, choose, compute_curve

__all__ = [
    "EditRun",
    "Selection",
    "choose",
    "compute_curve",
    "default_config",
    "run_edit",
    "unknown_words_warning",
]
