"""How it is told that memory ran out, which torch, safetensors and the system say in many words."""

from __future__ import annotations

import errno

_SIGNS = (
    "allocate memory", "out of memory", "not enough memory", "bad_alloc", "ALLOC_FAILED",
    "failed to map segment",
)  # fmt: skip


def ran_out(error: BaseException | None) -> bool:
    """Return whether an error, or what it arose from, says that memory ran out, on any device."""
    while error is not None:
        kind = type(error).__name__
        if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        # Only errors of libraries: ours may quote a text of the user's.
        of_library = isinstance(error, RuntimeError | ImportError) or kind == "SafetensorError"
        if of_library and any(sign in str(error) for sign in _SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_ran_out(error: BaseException, what: object) -> None:
    """Raise MemoryError if loading `what` failed with `error` because memory ran out."""
    if ran_out(error):
        raise MemoryError(f"{what} does not fit into memory") from error
