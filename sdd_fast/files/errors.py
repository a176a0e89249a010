"""What the system and libraries say of a file, in words that name it and end soon."""

from __future__ import annotations

from collections.abc import Sequence

MOST_LISTED = 500


def os_error_text(error: OSError) -> str:
    """Say which file an error of the system is about, and what it is."""
    if not error.strerror:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def library_text(error: BaseException, most: int = 160) -> str:
    """Return the first `most` characters of what a library says of a file.

    It may repeat what is in the file, or advise to lift Python's limit on the length of integers.
    """
    text = str(error).partition("; use sys.set_int_max_str_digits")[0]
    return text if len(text) <= most else f"{text[:most]}…"


def listed(problems: Sequence[str]) -> str:
    """Return `problems`, which may hold names from a file, one a line and indented."""
    lines = [problem if len(problem) <= 500 else f"{problem[:500]}…" for problem in problems]
    if len(lines) > MOST_LISTED:
        lines[MOST_LISTED:] = [f"and {len(lines) - MOST_LISTED:,} more"]
    return "\n  " + "\n  ".join(lines)
