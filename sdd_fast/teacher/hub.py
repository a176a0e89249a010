"""Files of the Hugging Face hub: asked for once, without retries; offline from its cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path


def is_hub_id(source: str | Path) -> bool:
    """Tell whether `source` is no path but a name "owner/name" on the hub."""
    hub_id = isinstance(source, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", source)
    # "runs/model" below an existing folder "runs" is a mistyped path, not a request to download.
    return bool(hub_id) and not Path(source).exists() and not Path(source).parent.exists()


def from_hub(name: str, wanted: Callable[[list[str]], list[str]], known: str) -> Path:
    """Return a folder that holds files of the hub's repository `name`.

    Args:
        wanted: which of the names of all its files to download.
        known: the name of a file by which what was downloaded earlier is found in the hub's cache,
            if the hub cannot be asked. Then not everything that is wanted need be there.

    Raises:
        FileNotFoundError: there is no such repository, or the hub cannot be asked and its cache
            has nothing; the message says which.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().model_info(name, timeout=10)
    except Exception as error:  # the hub, its client and the network have a dozen kinds
        if cached := from_cache(name, known):
            return cached
        raise _unreadable(name, error, f", and its cache has no {known} of it") from error
    files = wanted([sibling.rfilename for sibling in info.siblings or []])
    try:
        return Path(snapshot_download(name, revision=info.sha, allow_patterns=files))
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception, besides: str = "") -> FileNotFoundError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        why = "asks for its license to be accepted on the hub, and for a login (`hf auth login`)"
    elif isinstance(error, RepositoryNotFoundError):
        why = "is not on the hub, or is private and needs a login (`hf auth login`)"
    else:
        reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        why = f"could not be read from it ({reason}){besides}"
    return FileNotFoundError(f"there is no folder or file {name!r}, and the hub id {name!r} {why}")


def from_cache(name: str, known: str) -> Path | None:
    """Return the folder of the hub's cache that has the file `known` of a repository."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, known)
    return Path(found).parents[known.count("/")] if isinstance(found, str) else None
