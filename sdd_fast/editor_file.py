"""What `Editor.load` reads."""

from __future__ import annotations

from pathlib import Path

from .run_folder import MAPPER_FILE, check_mapper_is_own


def mapper_file(source: Path) -> Path:
    """Return what `load_mapper` reads of a run folder; a file is itself.

    Raises:
        FileNotFoundError: the folder holds no mapper. ValueError: it is not that of its run.
    """
    if not source.is_dir():
        return source
    if not (source / MAPPER_FILE).exists():
        raise FileNotFoundError(
            f"{source} holds no {MAPPER_FILE}: the distillation there has not finished, or it is "
            "no run folder. Run the same distillation again to resume it"
        )
    check_mapper_is_own(source)
    return source / MAPPER_FILE
