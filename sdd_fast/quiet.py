"""Keeps transformers from reporting on files that are read and written in a moment."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


def check_docstrings() -> None:
    """Raise ValueError where Python drops docstrings, before files are blamed for what follows."""
    if sys.flags.optimize > 1:
        raise ValueError(
            "Python runs with -OO (or PYTHONOPTIMIZE=2), which drops docstrings; transformers and "
            "diffusers cannot do without: use -O at most"
        )


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers' weight bars and load reports; errors still raise."""
    check_docstrings()
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
