"""Files that a page makes for its visitors: each in a folder of its own, for a while."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path

KEPT = 600.0
"""Seconds that a file is kept after it was made."""


class Outbox:
    """Names places for files below a folder, and removes what is old there.

    Args:
        folder: made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def place(self, name: str) -> Path:
        """A path in a new folder for a file of a visitor's name; what is older goes."""
        now = time.time()
        for old in self.folder.iterdir():
            if now - old.stat().st_mtime > KEPT:
                shutil.rmtree(old, ignore_errors=True)
        safe = re.sub(r"[^\w.\- ]+", "_", name).strip(" .")[-120:] or "picture.png"
        return Path(tempfile.mkdtemp(dir=self.folder)) / safe
