"""The identity of the native sources; imported by the package and, by path, by setup.py."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sources_digest(root: Path) -> str:
    """SHA-256 over the names and contents of what the native library is made from.

    Args:
        root: the repository root, which holds csrc/ and CMakeLists.txt.
    """
    files = sorted(p for p in (root / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu"))
    digest = hashlib.sha256()
    for path in [*files, root / "CMakeLists.txt"]:
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
