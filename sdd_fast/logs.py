"""Lines that a function would say, to the log of its module where nobody else listens."""

from __future__ import annotations

import logging
from collections.abc import Callable


def logged(module: str) -> Callable[[str], None]:
    """Return a function that logs a line as INFO of the logger called as a module is."""
    logger = logging.getLogger(module)

    def log(line: str) -> None:
        if told := line.strip():
            logger.info("%s", told)

    return log
