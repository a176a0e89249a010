"""How commands talk: plain lines on stdout, warnings and errors on stderr, exit codes."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, TextIO

import typer

from sdd_fast.interrupt import stopped_by_signals
from sdd_fast.out_of_memory import ran_out

from .groups import flattened

DEBUG = "--debug"


# Control characters but for line ends and tabs, and those that reorder or hide others.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


def printable(text: str) -> str:
    """`text`, in which names and prompts from files cannot drive the terminal."""
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def say(line: str) -> None:
    """Print a line; warnings go to stderr."""
    if line.startswith("warning: "):
        _print(f"sdd: {line}", sys.stderr)
    else:
        _print(line, sys.stdout)


def _print(text: str, stream: TextIO) -> None:
    try:
        print(printable(text), file=stream, flush=True)
    except BrokenPipeError:
        # Whoever read this has gone, as of `| head -1`; the work and its files are wanted still.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def take_debug(arguments: list[str]) -> bool:
    """Remove --debug from the command line, wherever it stands before a bare "--"."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    found = DEBUG in arguments[:end]
    arguments[:end] = [word for word in arguments[:end] if word != DEBUG]
    state.debug = found
    return found


class _State:
    debug = False


state = _State()


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function: options from its groups, messages from what it raises.

    Exit codes are 1: bad input, a failed computation, or a bug. 2: a wrong command line (typer's
    own). 130: Ctrl-C, SIGTERM or SIGHUP. With --debug the traceback follows.
    """

    function = flattened(function)

    @functools.wraps(function)
    def guarded(**values: Any) -> None:
        _show_warnings_plainly()
        failure: BaseException
        with stopped_by_signals():
            try:
                function(**values)
                return
            except KeyboardInterrupt as error:
                code, message, failure = 130, str(error) or "stopped by Ctrl-C", error
            except Exception as error:  # noqa: BLE001 (the last resort: a message, not a traceback)
                if type(error).__module__.startswith(("typer", "click")):
                    raise
                code, message, failure = 1, explain(error), error
            if state.debug:
                traceback.print_exception(failure)
            _print(f"\nsdd: {message}" if code == 130 else f"sdd: error: {message}", sys.stderr)
        raise typer.Exit(code)

    guarded.__doc__ = unwrapped(function.__doc__ or "")
    return guarded


def unwrapped(text: str) -> str:
    """A docstring with every paragraph on one line, for the help to wrap; "\\b" ones stay."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    joined = [p if p.startswith("\b") else " ".join(p.split()) for p in paragraphs]
    return "\n\n".join(joined)


def explain(error: Exception) -> str:
    """The message of an error in the terms of the command line."""
    text = str(error)
    if isinstance(error, OSError):
        from sdd_fast.files import os_error_text

        text = os_error_text(error)
    if ran_out(error):
        first = text.splitlines()[0] if text else ""
        text = (
            "out of memory. Try a smaller --batch-size, fewer --images or --dtype float16, where "
            f"the command has them. {first}"
        ).strip()
    elif not _is_plain(error):
        text = f"{type(error).__name__}: {text}. This may be a bug; {DEBUG} shows the traceback"
    for python, typed in (
        ("resume=False", "--restart"),
        ("pass overwrite=True", "give --overwrite"),
        ("skip_existing=True", "--skip-existing"),
    ):
        text = text.replace(python, typed)
    return text


def _is_plain(error: Exception) -> bool:
    """Whether the message is meant for a user as it is."""
    # A missing package that we ask for has no name there; one that Python failed to import has.
    asked_for = isinstance(error, ModuleNotFoundError) and error.name is None
    return asked_for or isinstance(error, (ValueError, OSError, FloatingPointError))


def _show_warnings_plainly() -> None:
    """Warnings of this package as one line; those of other libraries only with --debug."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if "sdd_fast" in filename or state.debug:
            _print(f"sdd: warning: {message}", sys.stderr)

    warnings.showwarning = show
    # Those of images name their file: nothing is to be remembered of each in a folder of thousands.
    warnings.filterwarnings("always", module=r"sdd_fast\.images$", append=True)
