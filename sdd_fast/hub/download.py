"""Files of the Hugging Face hub: asked for once, without retries; offline from its cache."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import PathLike, content_kind, expanded
from .contents import CONFIG_FILE, EDITOR_FILE, MAPPER_FILE, weights_among
from .errors import reason, unreadable
from .names import HubName, could_be_name, hub_name

_TIMEOUT = 10  # seconds until the cache is used
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Access:
    """How the hub is asked; the arguments are those of `huggingface_hub.hf_hub_download`.

    Args:
        cache_dir: default: that of huggingface_hub (HF_HOME).
        token: default: that of `hf auth login` or HF_TOKEN; False: none.
        local_files_only: ask nobody, use the cache; as HF_HUB_OFFLINE=1 does.
        force_download: download what is in the cache once more.
    """

    cache_dir: PathLike | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False

    @property
    def cache(self) -> str | None:
        return None if self.cache_dir is None else os.fspath(expanded(self.cache_dir))


def local_source(
    source: PathLike, access: Access | None = None, revision: str | None = None
) -> Path:
    """Return the path of an edit: `source` itself, or what is downloaded if it is a hub name.

    Args:
        source: a path, or "owner/name" or "owner/name@revision" of a repository of the hub, where
            neither such a path exists nor a folder "owner"; "hf://owner/name" is never a path.
        revision: in place of that in the name.

    Raises:
        FileNotFoundError: it is such a name, and the hub has none, or cannot be asked and its cache
            has nothing; the message says which.
        ValueError: the repository holds no edit, or weights that are not safetensors; or a path,
            and a revision of it.
    """
    name = hub_name(source)
    if name is not None:
        name = HubName(name.repository, revision or name.revision)
        return fetch_weights(name, access or Access())
    path = expanded(source)
    if revision is not None and path.exists():
        raise ValueError(
            f"{source} is a path, and a path has no revision {revision!r}; leave that out, or give "
            "the name of a repository that is no path here"
        )
    if not path.exists() and could_be_name(source):
        problem = (
            f"there is no such file or folder; the hub was not asked, as there is a folder "
            f"{str(path.parent)!r} here (hf://{path.as_posix()} asks it)"
        )
        raise FileNotFoundError(errno.ENOENT, problem, str(path))
    return path


def fetch_weights(name: HubName, access: Access) -> Path:
    """Return the mapper.safetensors or editor.safetensors of a repository, in the hub's cache.

    Raises:
        FileNotFoundError, ValueError: see `local_source`.
    """
    from huggingface_hub import hf_hub_download

    pinned = name.revision is not None and _COMMIT.fullmatch(name.revision) is not None
    if (access.local_files_only or pinned) and not access.force_download:
        if cached := _cached_weights(name, access):
            return _checked(cached, name)
    if access.local_files_only:
        raise FileNotFoundError(
            f"there is no folder or file {name.repository!r}, and the hub's cache has no edit of "
            f"{name}; load it once without local_files_only"
        )
    try:
        info = _ask(name, access)
    except Exception as error:  # the hub, its client and the network have a dozen kinds
        cached = None if access.force_download else _cached_weights(name, access)
        if cached is None:
            raise unreadable(name, error, ", and its cache has no edit of it") from error
        _warn(name, error, cached)
        return _checked(cached, name)
    files = [sibling.rfilename for sibling in info.siblings or []]
    weights = weights_among(files, str(name))
    try:
        # By the name of the branch, so that the cache knows what it stands for; then by commit.
        revision = name.revision
        for file in [*([CONFIG_FILE] if CONFIG_FILE in files else []), weights]:
            path = Path(
                hf_hub_download(
                    name.repository, file, revision=revision, cache_dir=access.cache,
                    token=access.token, force_download=access.force_download,
                )
            )  # fmt: skip
            revision = path.parent.name
    except Exception as error:
        raise unreadable(name, error) from error
    return _checked(path, name)


def _ask(name: HubName, access: Access) -> Any:
    from huggingface_hub import HfApi

    return HfApi().model_info(
        name.repository, revision=name.revision, timeout=_TIMEOUT, token=access.token
    )


def _cached_weights(name: HubName, access: Access) -> Path | None:
    for file in (EDITOR_FILE, MAPPER_FILE):
        folder = from_cache(name.repository, file, name.revision, access.cache)
        if folder is not None:
            return folder / file
    return None


def _checked(path: Path, name: HubName) -> Path:
    """A downloaded file, which must be what its name says: a mapper may also be read of pickles."""
    kind = content_kind(path)
    if kind != "safetensors":
        raise ValueError(
            f"the {path.name} of {name} on the hub is a {kind} file; from the hub only safetensors "
            "are read, which cannot run anything"
        )
    return path


def _warn(name: HubName, error: Exception, cached: Path) -> None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if not isinstance(error, OfflineModeIsEnabled):  # that was asked for
        warnings.warn(
            f"the hub could not be asked for {name} ({reason(error)}); what its cache has is used, "
            f"of commit {cached.parent.name[:7]}",
            stacklevel=5,
        )


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
    from huggingface_hub import snapshot_download

    try:
        info = _ask(HubName(name), Access())
    except Exception as error:  # the hub, its client and the network have a dozen kinds
        if cached := from_cache(name, known):
            return cached
        raise unreadable(HubName(name), error, f", and its cache has no {known} of it") from error
    files = wanted([sibling.rfilename for sibling in info.siblings or []])
    try:
        # Not by its commit: the cache would not know later what the main branch stands for.
        return Path(snapshot_download(name, allow_patterns=files))
    except Exception as error:
        raise unreadable(HubName(name), error) from error


def from_cache(
    name: str, known: str, revision: str | None = None, cache_dir: str | None = None
) -> Path | None:
    """Return the folder of the hub's cache that has the file `known` of a repository."""
    from huggingface_hub import try_to_load_from_cache

    more: dict[str, Any] = {} if revision is None else {"revision": revision}
    if cache_dir is not None:
        more["cache_dir"] = cache_dir
    found = try_to_load_from_cache(name, known, **more)
    return Path(found).parents[known.count("/")] if isinstance(found, str) else None
