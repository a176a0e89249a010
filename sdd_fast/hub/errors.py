"""What the hub, its client and the network raise, in words that say what to do."""

from __future__ import annotations

from .names import HubName

LOGIN = "`hf auth login`, or a token in HF_TOKEN (in Python: token=…)"


def unreadable(name: HubName, error: BaseException, besides: str = "") -> FileNotFoundError:
    """Return the error of a name that is no path and cannot be read from the hub.

    Args:
        besides: where else it was looked for, at the end of a sentence on the network.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        why = f"asks for its license to be accepted on the hub, and for a login ({LOGIN})"
    elif isinstance(error, RevisionNotFoundError):
        why = f"has no branch, tag or commit {name.revision or 'main'!r}"
    elif isinstance(error, RepositoryNotFoundError):
        why = f"is not on the hub{place()}, or is private and needs a login ({LOGIN})"
    else:
        why = f"could not be read from it{place()} ({reason(error)}){besides}"
    given = name.repository
    return FileNotFoundError(
        f"there is no folder or file {given!r}, and the hub id {given!r} {why}"
    )


def unwritable(name: str, error: BaseException, created: bool) -> OSError:
    """Return the error of a repository that could not be written.

    Args:
        created: whether it was made for this.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    left = (
        "Nothing was published"
        if not created
        else f"The new repository {name} is there, and empty; the same command goes on"
    )
    chain = _chain(error)
    status = next((e.response.status_code for e in chain if isinstance(e, HfHubHTTPError)), 0)
    said = next((reason(e) for e in chain if isinstance(e, HfHubHTTPError)), reason(chain[-1]))
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return ConnectionError(
            f"{name} was not written: HF_HUB_OFFLINE is set, so that the hub is not asked. "
            f"{left}. Unset it"
        )
    if status == 401:
        return PermissionError(
            f"the hub{place()} does not accept your token, or has no {name} for it ({said}). "
            f"{left}. Log in again: {LOGIN}"
        )
    if status in (402, 403):
        return PermissionError(
            f"your account or token may not write to {name} ({said}). {left}. Use a token with "
            f"the right to write, of an account that may write to {name.split('/')[0]!r}: {LOGIN}"
        )
    if status in (409, 412):
        return ConnectionError(
            f"{name} was changed by somebody else at the same time ({said}). {left}. Look at it, "
            "and give the command again"
        )
    again = "" if created else ", and no half of it either; give the same command again"
    if status:
        return ConnectionError(f"the hub{place()} did not take {name} ({said}). {left}{again}")
    return ConnectionError(
        f"the connection to the hub{place()} failed while {name} was written ({said}). "
        f"{left}{again}"
    )


def not_logged_in(name: str) -> PermissionError:
    """Return the error of somebody who pushes without a token."""
    return PermissionError(
        f"{name} was not written: writing to the hub{place()} needs a login: {LOGIN}"
    )


def reason(error: BaseException) -> str:
    """Return the first line of an error, with its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    server = getattr(error, "server_message", None)
    told = [type(error).__name__, *lines[:1], *([str(server)[:300]] if server else [])]
    return ": ".join(dict.fromkeys(told))


def place() -> str:
    """Return where the hub is, as " at URL"; "" if it is the usual one."""
    from huggingface_hub import constants

    usual = "https://huggingface.co"
    return "" if constants.ENDPOINT.rstrip("/") == usual else f" at {constants.ENDPOINT}"


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from, outermost first."""
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) and cause not in found:
        found.append(cause)
    return found
