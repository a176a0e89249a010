"""A folder onto the hub: in one commit or not at all, and over nothing of another kind."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .card import is_replaceable
from .contents import CARD_FILE, CONFIG_FILE, WEIGHTS, edits_in
from .errors import not_logged_in, unwritable
from .names import check_name

MAIN = "main"
_GIVEN = {".gitattributes", CARD_FILE}
"""What the hub itself puts into a repository that is made on its page."""
_OURS = re.compile(r"(before-after|curve)(-\d+)?\.png")


@dataclass(frozen=True)
class Pushed:
    """What `push_folder` has done.

    Args:
        url: of the repository on the hub.
        commit: that the branch is at now.
        changed: False if everything was there already.
        created: whether the repository is new.
        files: that were written. kept: whether a card that somebody had edited was left alone.
    """

    repository: str
    url: str
    branch: str
    commit: str
    changed: bool
    created: bool
    files: tuple[str, ...]
    kept: bool

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class PushOptions:
    """How something is pushed.

    Args:
        branch: made if there is none of that name; None: the main one.
        message: of the commit; None: what is pushed.
        private: make a new repository private; None: what the account has by default.
        token: None: that of `hf auth login` or HF_TOKEN.
        overwrite: also over a repository of something else, whose other files stay, over another
            edit, and over a card that somebody has edited.
    """

    branch: str | None = None
    message: str | None = None
    private: bool | None = None
    token: str | None = None
    overwrite: bool = False


def push_folder(folder: Path, name: str, options: PushOptions, message: str) -> Pushed:
    """Make a repository on the hub hold the files of a folder of `write_folder`.

    Args:
        message: of the commit, where the options have none.

    Raises:
        ValueError: a wrong name or branch, or a repository of something else.
        PermissionError: nobody is logged in, or has no right to write there.
        ConnectionError: the hub cannot be reached, or refuses; nothing is published by halves.
    """
    from huggingface_hub import HfApi, get_token

    from .. import __version__

    check_name(name)
    branch = _check_branch(options.branch)
    if not (options.token or get_token()):
        raise not_logged_in(name)
    api = HfApi(token=options.token, library_name="sdd_fast", library_version=__version__)
    created = False
    try:
        info = _info(api, name, branch)
        if info is None:
            api.create_repo(name, private=options.private, exist_ok=False)
            created = True
            info = api.model_info(name)
        elif options.private and info.private is False:
            raise _Refused(
                f"{name} is public already, and asked for is a private one; make it private on its "
                "page of settings, or choose another name"
            )
        there = {one.rfilename: one for one in info.siblings or []}
        if not created and not options.overwrite:
            _check_kind(api, name, info.sha, set(there), folder)
        if branch != MAIN and not _has_branch(api, name, branch):
            api.create_branch(name, branch=branch, exist_ok=True)
        local = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
        kept = CARD_FILE in there and not options.overwrite and not _free_card(api, name, info.sha)
        if kept:
            del local[CARD_FILE]
        changed = {key: path for key, path in local.items() if not _is_same(there.get(key), path)}
        ours = {*WEIGHTS.values(), *(key for key in there if _OURS.fullmatch(key))}
        stale = sorted(ours & there.keys() - local.keys())
        commit = info.sha
        if changed or stale:
            commit = _commit(
                api, name, branch, changed, stale, options.message or message,
                None if created else info.sha,
            )  # fmt: skip
    except _Refused as refusal:
        raise ValueError(str(refusal)) from None
    except Exception as error:  # the hub, its client and the network have a dozen kinds
        raise unwritable(name, error, created) from error
    url = f"{api.endpoint}/{name}" + ("" if branch == MAIN else f"/tree/{branch}")
    return Pushed(
        name, url, branch, str(commit), bool(changed or stale), created, tuple(changed), kept
    )


class _Refused(Exception):
    """Something is there that is not to be replaced."""


def _check_branch(branch: str | None) -> str:
    if branch is None:
        return MAIN
    if not branch or re.search(r"[\s~^:?*\[\\\x00-\x1f]|\.\.", branch) or branch.startswith("-"):
        raise ValueError(f"{branch!r:.80} cannot be the name of a branch")
    if re.fullmatch(r"[0-9a-f]{40}", branch):
        raise ValueError(f"{branch} is a commit, which nothing can be pushed to; name a branch")
    return branch


def _info(api: Any, name: str, branch: str) -> Any:
    """What is in the repository, at the branch or where that would begin; None if there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return api.model_info(name, revision=branch, files_metadata=True)
    except RevisionNotFoundError:
        return api.model_info(name, files_metadata=True)
    except RepositoryNotFoundError as error:
        if error.response.status_code == 401 or type(error) is not RepositoryNotFoundError:
            raise  # a token that is not accepted, or a gate
        return None


def _has_branch(api: Any, name: str, branch: str) -> bool:
    return any(ref.name == branch for ref in api.list_repo_refs(name).branches)


def _check_kind(api: Any, name: str, commit: str, there: set[str], folder: Path) -> None:
    """Raise `_Refused` unless the repository is empty or holds the same edits."""
    if there <= _GIVEN:
        return
    edits = edits_in(_text(api, name, commit, CONFIG_FILE)) if CONFIG_FILE in there else None
    if edits is None:
        some = ", ".join(sorted(there - _GIVEN)[:5])
        raise _Refused(
            f"{name} is there and holds something else ({some}); choose another name, or pass "
            "overwrite=True to put the edit beside it"
        )
    pushed = edits_in((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if edits != pushed:
        old, new = (_shown(some) for some in (edits, pushed or []))
        raise _Refused(
            f"{name} is there and holds another edit: {old}, and pushed would be {new}; choose "
            "another name, or pass overwrite=True to replace it"
        )


def _shown(edits: list[tuple[str, str]]) -> str:
    return ", ".join(f"“{prompt}”" + (f" ({domain})" if domain else "") for prompt, domain in edits)


def _free_card(api: Any, name: str, commit: str) -> bool:
    return is_replaceable(_text(api, name, commit, CARD_FILE))


def _text(api: Any, name: str, commit: str, file: str) -> str:
    path = Path(api.hf_hub_download(name, file, revision=commit))
    return path.read_text(encoding="utf-8", errors="replace")


def _is_same(there: Any, path: Path) -> bool:
    """Whether the hub has the content of a file, by the digest that it tells."""
    if there is None or there.size != path.stat().st_size:
        return False
    data = path.read_bytes()
    if there.lfs is not None:
        return bool(there.lfs.sha256 == hashlib.sha256(data).hexdigest())
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return bool(there.blob_id == git.hexdigest())


def _commit(
    api: Any,
    name: str,
    branch: str,
    changed: dict[str, Path],
    stale: list[str],
    message: str,
    parent: str | None,
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [CommitOperationAdd(key, str(path)) for key, path in changed.items()]
    operations += [CommitOperationDelete(key) for key in stale]
    done = api.create_commit(
        name, operations, commit_message=message, revision=branch, parent_commit=parent
    )
    return str(done.oid)
