"""What may be written where: nothing that exists is replaced unless whoever calls says so.

A file is replaced with `overwrite=True` (--overwrite). What a run or an inversion left in its place
is continued, and replaced with `resume=False` (--restart). Inputs are never replaced. Functions
called `save` write the file that they are given, as those of other libraries do, if its
ending is that of the format; `Editor.save` replaces nothing but an editor.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from .files import PathLike, expanded


def check_free(
    targets: Iterable[PathLike],
    overwrite: bool = False,
    otherwise: str = "choose another name or folder, or pass overwrite=True",
) -> None:
    """Refuse to write where something is, before any work is done.

    Raises:
        FileExistsError: a file, and not `overwrite`; the message ends in `otherwise`.
        IsADirectoryError: a folder, whether or not.
    """
    there = [path for path in map(expanded, targets) if path.exists()]
    for path in there:
        if path.is_dir():
            raise IsADirectoryError(
                errno.EISDIR, "expected a file name to write to, but this is a folder", str(path)
            )
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise FileExistsError(f"{there[0]}{more} would be replaced; {otherwise}")
